"""The order of rows and every draw are functions of seed, epoch and feature: the same for any number of threads and processes."""

from __future__ import annotations

from typing import Any

import pytest

from exact.processes import Processes, measure
from exact.recipes import fake, laid


def run(style: str, **train: Any) -> dict[str, Any]:
    return laid(fake("fake-masked-words", style), "single", 1, global_batch_size=10, steps=9, **train)


@pytest.mark.parametrize("style", ["map", "stream"])
def test_threads_that_load_change_nothing(style: str) -> None:
    """72 rows in steps of 10: the second epoch begins within; masks are drawn anew in it."""
    wanted = measure(run(style))
    for workers in (1, 2, 4):
        found = measure(run(style, workers=workers))
        assert (found["rows"], found["steps"]) == (wanted["rows"], wanted["steps"]), workers
    first = [i for step in wanted["rows"] for i in step][:72]
    assert sorted(first) == list(range(72)), "each row once in an epoch"


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_a_stream(processes: int, two: Processes, four: Processes) -> None:
    wanted = measure(run("stream"))
    ready = {2: two, 4: four}[processes]
    tree = laid(fake("fake-masked-words", "stream"), "ddp", processes, global_batch_size=10, steps=9, workers=2)
    found = ready.measure(tree)
    assert found["rows"] == wanted["rows"]
    assert [s["loss"] for s in found["steps"]] == pytest.approx([s["loss"] for s in wanted["steps"]], rel=2e-5)


def test_another_seed_and_another_epoch_draw_otherwise() -> None:
    wanted, other = measure(run("map")), measure(run("map", seed=6))
    assert other["rows"] != wanted["rows"]
    flat = [i for step in wanted["rows"] for i in step]
    assert flat[:16] != flat[72:88], "an epoch's order is its own"
