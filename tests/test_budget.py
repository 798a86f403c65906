from __future__ import annotations

from pathlib import Path

from budget import BUDGETS, CORES, DEFAULT, MINUTES

TESTS = Path(__file__).parent


def test_all_budgets_together_are_what_a_run_may_take() -> None:
    folders = {file.relative_to(TESTS).parts[0] for file in TESTS.glob("*/**/test_*.py")} | set(BUDGETS)
    assert sum(BUDGETS.get(folder, DEFAULT) for folder in folders) <= CORES * MINUTES * 60
