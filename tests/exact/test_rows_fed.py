"""The rows that engines are fed over two epochs, with a stop amid the first and another layout after it: those of an undisturbed run, step
by step, none twice and none missed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from exact.processes import Processes, measure
from exact.recipes import classification, laid
from exact.rows_fed import fed, recorded
from exact.test_resume import SAVED, resumed

ROWS, BATCH = 72, 20
AROUND = "exact.rows_fed:recorded"
CHANGES = [(("tp2", 2), ("pp2", 2)), (("ddp", 4), ("ddp", 2)), (("fsdp", 2), ("single", 1))]
"""Strategy and processes, before and after the stop."""


def carry_out(
    layout: tuple[str, int], output: Path, folder: Path, two: Processes, four: Processes
) -> dict[int, Counter[int]]:
    """Rows of each step that is made."""
    strategy, processes = layout
    more: dict[str, Any] = {"epochs": 2, "steps": None, "global_batch_size": BATCH, "micro_batch_size": 4}
    tree = laid(classification(folder), strategy, processes, **more, save_every=SAVED, keep=9)
    tree = {**tree, "output": str(output), "eval": {}}
    if processes == 1:
        with recorded(0):
            measure(tree)
    else:
        {2: two, 4: four}[processes].measure(tree, around=AROUND)
    return fed(output, processes)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, two: Processes, four: Processes) -> dict[int, Counter[int]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    return carry_out(("single", 1), folder / "run", folder, two, four)


def test_two_epochs(undisturbed: dict[int, Counter[int]]) -> None:
    assert sorted(undisturbed) == list(range(1, 9)), "144 rows in steps of 20"
    assert sum(undisturbed.values(), Counter()) == Counter(dict.fromkeys(range(ROWS), 2))


@pytest.mark.parametrize(("before", "after"), CHANGES)
def test_a_stop_and_another_layout(
    before: tuple[str, int], after: tuple[str, int], undisturbed: dict[int, Counter[int]], tmp_path: Path, two: Processes, four: Processes
) -> None:  # fmt: skip
    first = carry_out(before, tmp_path / "whole", tmp_path, two, four)
    assert first == undisturbed
    resumed(tmp_path / "whole", tmp_path / "again")
    second = carry_out(after, tmp_path / "again", tmp_path, two, four)
    assert second == {step: rows for step, rows in undisturbed.items() if step > SAVED}
