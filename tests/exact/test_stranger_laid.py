"""The head of a plugin from outside, `docs/example_plugin`, under every strategy as it is: what one process computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from exact.processes import Processes, measure
from exact.recipes import classification, laid

LAYOUTS = [("ddp", 2), ("fsdp", 2), ("tp2", 2), ("cp2", 2), ("pp2", 2), ("tp2-pp2", 4)]


def tree(folder: Path) -> dict[str, Any]:
    shown = {"data": {"use": "weather", "split": "train[49:]"}}
    found = {**classification(folder), "task": "weather", "data": {"use": "weather"}, "eval": shown}
    # Adam's usual eps makes much of rounding where a gradient is next to nothing.
    return {**found, "optimizer": {**found["optimizer"], "eps": 1e-5}}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("weather")
    return folder, measure(laid(tree(folder), "single", 1))


@pytest.mark.parametrize(("strategy", "processes"), LAYOUTS)
def test_it_trains_unchanged(
    strategy: str, processes: int, alone: tuple[Path, dict[str, Any]], two: Processes, four: Processes
) -> None:
    folder, wanted = alone
    found = {2: two, 4: four}[processes].measure(laid(tree(folder), strategy, processes, micro_batch_size=8))
    # Sums over layers and rows in another order: some roundings of fp32 (6e-8) a step, over four steps.
    assert [s["loss"] for s in found["steps"]] == pytest.approx([s["loss"] for s in wanted["steps"]], rel=2e-5)
    assert [s["grad_norm"] for s in found["steps"]] == pytest.approx(
        [s["grad_norm"] for s in wanted["steps"]], rel=1e-4
    )
    assert found["metrics"] == pytest.approx(wanted["metrics"], rel=1e-4)
    assert [row["label"] for row in found["predictions"]] == [row["label"] for row in wanted["predictions"]]
