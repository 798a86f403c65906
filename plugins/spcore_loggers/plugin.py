"""What this package offers."""

from __future__ import annotations

from spcore.components import Component
from spcore.hooks import hookimpl

SPCORE_API = "1.0"


@hookimpl
def spcore_components() -> list[Component]:
    """Loggers progress, jsonl, tensorboard."""
    return [
        Component("logger", "progress", "spcore_loggers.progress:Progress", "A bar on stderr; a few lines where that is no terminal",
                  options="spcore_loggers.options:ProgressOptions", default=True),
        Component("logger", "jsonl", "spcore_loggers.jsonl:Jsonl", "metrics.jsonl in the run's folder: every event, a line each",
                  default=True),
        Component("logger", "tensorboard", "spcore_loggers.board:TensorBoard", "TensorBoard files in the run's folder",
                  requires=("tensorboard",), extra="tensorboard"),
    ]  # fmt: skip
