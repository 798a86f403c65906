"""What a plugin author tests with: fakes of every part (`fakes`, offered as components by `plugin`), and conformance suites.

`check_plugin(registry, "my-plugin")` runs every suite that fits on every component of a plugin; `slimpajama plugins check`
prints its report. One part alone: `check_task(MyTask())`, `check_schedule(MySchedule())`, ... ; each returns a `Report`:
what ran, what was found, and what could not be checked and why. Importing this module is light; suites import torch and
numpy when they run.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_WHERE = {
    "Finding": "report", "Report": "report", "Skipped": "report", "check_plugin": "plugins", "all_checks": "plugins",
    "check_adapter": "suites.adapter", "check_constraint": "suites.constraint", "check_dataset": "suites.dataset", "check_decodes": "suites.runtime",
    "check_generates": "suites.runtime", "check_harness": "suites.harness", "check_launcher": "suites.launcher", "check_logger": "suites.logger",
    "check_model": "suites.model", "check_optimizer": "suites.optimizer", "check_precision": "suites.precision",
    "check_processor": "suites.model", "check_runtime": "suites.runtime", "check_schedule": "suites.optimizer",
    "check_strategy": "suites.strategy", "check_task": "suites.task",
}  # fmt: skip
__all__ = [
    "Finding", "Report", "Skipped", "all_checks", "check_adapter", "check_constraint", "check_dataset", "check_decodes", "check_generates", "check_harness", "check_launcher", "check_logger", "check_model", "check_optimizer", "check_plugin", "check_precision", "check_processor", "check_runtime", "check_schedule", "check_strategy", "check_task",
]  # fmt: skip

if TYPE_CHECKING:
    from spcore.testing.plugins import all_checks, check_plugin
    from spcore.testing.report import Finding, Report, Skipped
    from spcore.testing.suites.adapter import check_adapter
    from spcore.testing.suites.constraint import check_constraint
    from spcore.testing.suites.dataset import check_dataset
    from spcore.testing.suites.harness import check_harness
    from spcore.testing.suites.launcher import check_launcher
    from spcore.testing.suites.logger import check_logger
    from spcore.testing.suites.model import check_model, check_processor
    from spcore.testing.suites.optimizer import check_optimizer, check_schedule
    from spcore.testing.suites.precision import check_precision
    from spcore.testing.suites.runtime import check_decodes, check_generates, check_runtime
    from spcore.testing.suites.strategy import check_strategy
    from spcore.testing.suites.task import check_task


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
