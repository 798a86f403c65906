"""Seconds by folder, printed after every run of the tests, and what a folder may take: so that `make test` stays under 25 minutes on two
cores whatever is added. A folder over its budget is marked: sample its cases, or mark them slow. All of them together over twice theirs fail
the run. Less does not, as a busy machine makes it so: the same tests were seen to take 19 and 27 minutes on one machine within an hour.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

CORES, MINUTES, BUSY = 2, 25, 2
DEFAULT = 20
BUDGETS = {
    ".": 40, "api": 120, "chat": 60, "cli": 30, "constraints": 15, "core": 60, "crash": 70, "data": 40, "dirt": 40, "docs_run": 150, "embed": 130,
    "exact": 300, "generation": 110, "gpu": 0, "harness": 40, "indexed": 40, "kills": 260, "launch": 240, "loggers": 25, "megatron": 200, "mixtures": 15,
    "objectives": 40, "onnx_backend": 190, "parity": 170, "settings": 60, "stranger": 80, "tasks": 40, "tensors": 25, "testing_kit": 50,
    "torch_backend": 60, "transformers_plugin": 110,
}  # fmt: skip
"""Seconds of a folder's tests one after another, some twice what they take on an idle machine."""


class Budget:
    """A pytest plugin that adds up."""

    def __init__(self, *, held: bool) -> None:
        self.held = held
        self.seconds: dict[str, float] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Setup, call and teardown all count."""
        parts = Path(report.nodeid.partition("::")[0]).parts
        folder = parts[1] if len(parts) > 2 else "."
        self.seconds[folder] = self.seconds.get(folder, 0.0) + report.duration

    def over(self) -> list[str]:
        """Folders that took more than they may."""
        return [folder for folder, spent in self.seconds.items() if spent > BUDGETS.get(folder, DEFAULT)]

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """The table."""
        terminalreporter.section("seconds by folder")
        for folder, spent in sorted(self.seconds.items(), key=lambda item: -item[1]):
            budget = BUDGETS.get(folder, DEFAULT)
            mark = "  OVER ITS BUDGET" if self.held and folder in self.over() else ""
            terminalreporter.write_line(f"{spent:8.1f} of {budget:4d}  {folder}{mark}")

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Slow tests have no budget."""
        if self.held and exitstatus == 0 and sum(self.seconds.values()) > BUSY * CORES * MINUTES * 60:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
