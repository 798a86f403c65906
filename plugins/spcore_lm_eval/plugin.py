"""What this package offers."""

from __future__ import annotations

from spcore.components import Component
from spcore.hooks import hookimpl

SPCORE_API = "1.0"


@hookimpl
def spcore_components() -> list[Component]:
    """Harness `lm-eval`."""
    return [
        Component(
            "harness",
            "lm-eval",
            "spcore_lm_eval.harness:LmEval",
            "The tasks of EleutherAI's lm-eval, and of YAML files as it reads them",
            options="spcore_lm_eval.options:LmEvalOptions",
            requires=("lm-eval>=0.4.12,<0.5",),
            extra="eval",
            default=True,
        )
    ]
