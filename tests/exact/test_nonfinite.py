"""A loss that is not finite: told with step and rows, agreed over processes, and what it does is the user's choice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from exact.processes import Processes, measure
from exact.recipes import classification, laid
from spcore.errors import RunError


def tree(folder: Path) -> dict[str, Any]:
    return {**classification(folder), "optimizer": {"use": "adamw", "lr": 1e30}, "eval": {}}


def test_stop_names_the_step_and_the_lines(tmp_path: Path) -> None:
    recipe = laid(tree(tmp_path), "single", 1, global_batch_size=3)
    said = (
        r"^step 3: not finite: loss 'classification', .*; its rows: \S+rows\.jsonl:\d+, \d+, \d+\. Lower optimizer\.lr"
    )
    with pytest.raises(RunError, match=said):
        measure(recipe)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_skip_goes_on_and_counts(strategy: str, tmp_path: Path, two: Processes) -> None:
    settings: dict[str, Any] = {"nonfinite": "skip", "global_batch_size": 16}
    one = measure(laid(tree(tmp_path), "single", 1, **settings))
    both = two.measure(laid(tree(tmp_path), strategy, 2, **settings))
    left_out = [[line for line in run["warned"] if "the step is left out" in line] for run in (one, both)]
    assert len(left_out[0]) == len(left_out[1]) == 2
    assert [line.split("; its rows")[0].split(":")[0] for line in left_out[0]] == ["step 3", "step 4"]
    assert all("and 8 more" in line for line in left_out[1])
