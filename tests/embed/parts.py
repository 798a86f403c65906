"""Parts of an embedder's own, in a module that other processes can import."""

from __future__ import annotations

import importlib
import logging
from typing import Any

from spcore.components import Component, Registry
from spcore.hooks import hookimpl
from spcore.interfaces.optimizer import Schedule
from spcore_tasks.options import TextClassificationOptions
from spcore_tasks.text_classification import TextClassification

SPCORE_API = "1.0"
log = logging.getLogger("slimpajama.halves")
MODULES = {
    "torch": "spcore_torch.plugin", "fakes": "spcore.testing.plugin", "optim": "spcore_optim.plugin",
    "precision": "spcore_precision.plugin", "loggers": "spcore_loggers.plugin",
}  # fmt: skip
RECIPE: dict[str, Any] = {
    "model": {"use": "fake"}, "task": "fake-two-terms", "data": {"use": "fake"}, "optimizer": {"use": "adamw", "lr": 1e-2},
    "precision": "fp32", "schedule": "halves", "device": "cpu", "loggers": [], "strategy": "ddp",
    "launch": {"use": "local", "processes": 2}, "train": {"epochs": None, "steps": 4, "global_batch_size": 8},
}  # fmt: skip
HALVES = Component("schedule", "halves", "embed.parts:Halves", "Half the rate in the second half")


def registry_of(*, blocked: tuple[str, ...] = ()) -> Registry:
    """Nothing of what is installed, but what is registered here."""
    found = Registry(entry_points=False, blocked=blocked)
    for name, module in MODULES.items():
        found.register(importlib.import_module(module), name=name)
    return found


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
