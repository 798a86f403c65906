"""Parts of an embedder's own, in a module that other processes can import."""

from __future__ import annotations

import logging
from typing import Any

from spcore.components import Component
from spcore.hooks import hookimpl
from spcore.interfaces.optimizer import Schedule
from spcore_tasks.options import TextClassificationOptions
from spcore_tasks.text_classification import TextClassification

SPCORE_API = "1.0"
log = logging.getLogger("slimpajama.halves")


class Halves(Schedule):
    """Half the rate in the second half, and a line in the log."""

    def factor(self, step: int, total: int) -> float:
        if 2 * step == total:
            log.warning("half of the way")
        log.info("step %d", step)
        return 1.0 if 2 * step < total else 0.5


class Greedy(TextClassification):
    """A task that takes every model with labels for one of its own."""

    def __init__(self) -> None:
        super().__init__(TextClassificationOptions())

    def state_of(self, config: Any) -> dict[str, Any] | None:
        names = list(config.id2label.values())
        values = {name: n for n, name in enumerate(names)}
        rest = {"integers": [], "class_weights": None, "label_smoothing": 0.0}
        return {"problem_type": "single_label_classification", "labels": names, "values": values, **rest}


class Particular(TextClassification):
    """A task that cannot be made without settings."""

    def __init__(self) -> None:
        raise AssertionError("it has options")


@hookimpl
def spcore_components() -> list[Component]:
    """A task that is greedy."""
    return [Component("task", "greedy", "embed.parts:Greedy", "Takes everything")]
