"""Seconds by folder, printed after every run of the tests, and what a folder may take: so that `make test` stays under 25 minutes on two
cores whatever is added. A folder over its budget is marked: sample its cases, or mark them slow. All of them together over theirs fail
the run; one alone does not, as a busy machine makes it so.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

CORES, MINUTES = 2, 25
DEFAULT = 40
BUDGETS = {
    "api": 140, "chat": 90, "cli": 30, "constraints": 20, "core": 75, "crash": 110, "data": 50, "dirt": 60, "docs_run": 190, "embed": 180, "exact": 330,
    "generation": 150, "gpu": 0, "indexed": 40, "kills": 240, "launch": 220, "megatron": 150, "mixtures": 20, "objectives": 50, "onnx_backend": 180, "parity": 120, "settings": 70, "stranger": 110,
    "tensors": 30, "testing_kit": 60, "torch_backend": 75,
    "transformers_plugin": 160,
}  # fmt: skip
"""Seconds of a folder's tests one after another, some three times what they take on an idle machine."""


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
        if self.held and exitstatus == 0 and sum(self.seconds.values()) > CORES * MINUTES * 60:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
