"""Going on from a checkpoint: to the bit on the same layout, dropout on; on another layout the same steps and rows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from exact.processes import Processes, measure
from exact.recipes import classification, fake, laid, language, seq2seq
from spcore.interfaces.dataset import Row
from spcore.testing.fakes.data import FakeSource
from support.stored import content

STEPS, SAVED = 8, 3
LANGUAGE = ["packed", "masked-lm"]
TASKS = [
    "classification",
    "fake-masked-words",
    "stream",
    "packed",
    "seq2seq",
    pytest.param("masked-lm", marks=pytest.mark.slow),
]
PRECISIONS = ["fp32", "fp16"]


def tree_of(task: str, folder: Path, **more: Any) -> dict[str, Any]:
    if task in LANGUAGE:
        tree = language(task, folder)
    elif task == "seq2seq":  # answers are generated between the steps, before and after the checkpoint
        tree = seq2seq("t5", folder)
        tree["eval"]["every"] = 2
    else:
        tree = classification(folder) if task == "classification" else fake(task)
    if task == "stream":
        tree = fake("fake-masked-words", "stream")
        tree = {**tree, "data": {**tree["data"], "shuffle_buffer": 4}}
    if more.pop("dropout", False) and task in ("classification", "seq2seq"):
        tree = {**tree, "model": {**tree["model"], "dropout": 0.2}}
    return {**tree, **more}


def resumed(output: Path, target: Path) -> None:
    """A folder with what a run left that was killed after step SAVED."""
    (target / "checkpoints").mkdir(parents=True)
    name = f"step-{SAVED:08d}"
    shutil.copytree(output / "checkpoints" / name, target / "checkpoints" / name)


def on(processes: int, two: Processes, four: Processes, tree: dict[str, Any]) -> dict[str, Any]:
    return measure(tree) if processes == 1 else {2: two, 4: four}[processes].measure(tree)


def run(tree: dict[str, Any], strategy: str | dict[str, Any], processes: int, output: Path) -> dict[str, Any]:
    # 72 rows in steps of 20: the checkpoint is amid an epoch, which ends short; microbatches are amid a step.
    more = {"global_batch_size": 20, "micro_batch_size": 4, "save_every": SAVED, "keep": 9}
    return {**laid(tree, strategy, processes, steps=STEPS, **more), "output": str(output)}


@pytest.mark.parametrize(("strategy", "processes"), [("single", 1), ("ddp", 2)])
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_to_the_bit(
    task: str, strategy: str, processes: int, precision: str, tmp_path: Path, two: Processes, four: Processes
) -> None:
    same_bits(task, (strategy, processes), precision, tmp_path, two, four)


@pytest.mark.parametrize(
    ("task", "precision"),
    [("classification", "fp16"), ("packed", "fp32"), pytest.param("seq2seq", "fp32", marks=pytest.mark.slow)],
)
def test_parts_to_the_bit(task: str, precision: str, tmp_path: Path, two: Processes, four: Processes) -> None:
    same_bits(task, ("fsdp", 2), precision, tmp_path, two, four)


def same_bits(
    task: str, layout: tuple[str, int], precision: str, tmp_path: Path, two: Processes, four: Processes
) -> None:
    """A run that goes on from a checkpoint is the run that was never stopped."""
    strategy, processes = layout
    tree = tree_of(task, tmp_path, dropout=True, precision=precision)
    whole = on(processes, two, four, run(tree, strategy, processes, tmp_path / "whole"))
    resumed(tmp_path / "whole", tmp_path / "again")
    again = on(processes, two, four, run(tree, strategy, processes, tmp_path / "again"))
    assert len(again["steps"]) == STEPS - SAVED
    assert again["steps"] == whole["steps"][SAVED:]
    assert again["metrics"] == whole["metrics"]
    for rank in range(processes):
        file = f"checkpoints/step-{2 * SAVED:08d}/rank-{rank:05d}.safetensors"
        ours, theirs = (content(tmp_path / name / file) for name in ("again", "whole"))
        assert ours == theirs, "model, optimizer, scaler and generators"
    if task == "stream":
        reports = [json.loads((tmp_path / name / "report.json").read_text()) for name in ("whole", "again")]
        assert reports[0]["train"] == reports[1]["train"]
        assert reports[0]["train"]["rows_read"] > 72, "of both passes"


LAID_ANEW: list[Any] = [
    (("ddp", 2), ("ddp", 4)),
    (("ddp", 4), ("ddp", 2)),
    (("ddp", 2), ("ddp", 1)),
    (("ddp", 1), ("ddp", 2)),
    (("fsdp", 4), ("fsdp", 2)),
    (("fsdp", 2), ("fsdp", 4)),
    (("fsdp", 4), ("single", 1)),
    (("single", 1), ("fsdp", 2)),
    (("fsdp", 2), ("ddp", 2)),
    (("ddp", 2), ("fsdp", 4)),
    (("pp2", 2), ("ddp", 2)),
    pytest.param(("fsdp", 2), ("pp2", 4), marks=pytest.mark.slow),
    (("tp2-pp2", 4), ("cp2", 2)),
]
"""Strategy and processes, before and after."""


@pytest.mark.parametrize(("before", "after"), LAID_ANEW)
def test_on_another_layout(
    before: tuple[str, int], after: tuple[str, int], tmp_path: Path, two: Processes, four: Processes
) -> None:
    tree = tree_of("classification", tmp_path)
    whole = on(before[1], two, four, run(tree, *before, tmp_path / "whole"))
    resumed(tmp_path / "whole", tmp_path / "again")
    again = on(after[1], two, four, run(tree, *after, tmp_path / "again"))
    assert again["rows"] == whole["rows"], "every row once"
    ours, theirs = [s["loss"] for s in again["steps"]], [s["loss"] for s in whole["steps"][SAVED:]]
    assert len(ours) == 5
    assert ours == pytest.approx(theirs, rel=1e-6), "the next five steps"


def test_without_dropout_is_another_curve(tmp_path: Path) -> None:
    """So that equal bits above say something of the generators."""
    runs = [
        measure(run(tree_of("classification", tmp_path, dropout=d), "single", 1, tmp_path / str(d))) for d in (0, 1)
    ]
    assert runs[0]["steps"] != runs[1]["steps"]


def test_a_stream_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = tree_of("stream", tmp_path)
    wanted = measure(run(tree, "single", 1, tmp_path / "whole"))
    resumed(tmp_path / "whole", tmp_path / "again")
    skipped: list[int] = []
    stream = FakeSource.stream

    def watched(self: FakeSource, shard: int, shards: int, skip: int) -> Iterator[Row]:
        skipped.append(skip)
        return stream(self, shard, shards, skip)

    monkeypatch.setattr(FakeSource, "stream", watched)
    found = measure(run(tree, "single", 1, tmp_path / "again"))
    assert found["steps"] == wanted["steps"][SAVED:]
    assert sum(skipped[:16]) == 60 + 4, "features in steps, and in the buffer"
