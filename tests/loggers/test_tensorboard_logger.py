"""Logger `tensorboard`, read back as TensorBoard reads it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from logger_events import T0, begun, judged, over, step, whole_run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from spcore.errors import OutputError
from spcore.interfaces.logger import Event
from spcore_loggers.board import TensorBoard


def tell(folder: Path | None, events: Sequence[Event]) -> None:
    logger = TensorBoard()
    logger.start(folder, {})
    with contextlib.closing(logger):
        for event in events:
            logger.event(event)


def read(folder: Path) -> EventAccumulator:
    reader = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    reader.Reload()
    return reader


def curve(folder: Path, tag: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in read(folder).Scalars(tag)]


def test_scalars(tmp_path: Path) -> None:
    tell(tmp_path, whole_run(4))
    assert set(read(tmp_path).Tags()["scalars"]) == {
        "train/loss", "train/lr", "train/grad_norm", "train/loss_scale", "train/rows_per_second", "train/tokens_per_second",
        "train/padding", "train/memory", "train/term_label", "eval/accuracy", "eval/f1",
    }  # fmt: skip
    assert curve(tmp_path, "train/loss") == [(n, pytest.approx(1 / n)) for n in (1, 2, 3, 4)]
    assert curve(tmp_path, "train/term_label") == curve(tmp_path, "train/loss")
    assert curve(tmp_path, "train/memory") == [(n, float(1 << 30)) for n in (1, 2, 3, 4)]
    assert curve(tmp_path, "eval/accuracy") == [(2, 0.78125)]


def test_points_lie_where_their_events_did_in_time(tmp_path: Path) -> None:
    tell(tmp_path, [begun(), step(3), judged(5)])
    reader = read(tmp_path)
    assert [reader.Scalars(tag)[0].wall_time for tag in ("train/lr", "eval/f1")] == [T0 + 3, T0 + 5]


def test_a_resumed_run_hides_the_steps_it_takes_again(tmp_path: Path) -> None:
    tell(tmp_path, [begun(), *(step(n, loss=9.0) for n in range(1, 8)), judged(4), judged(6)])
    tell(tmp_path, [begun(start_step=4), *(step(n, loss=1.0) for n in range(5, 7)), over(6)])
    assert curve(tmp_path, "train/loss") == [(1, 9), (2, 9), (3, 9), (4, 9), (5, 1), (6, 1)]
    assert [at for at, _ in curve(tmp_path, "eval/f1")] == [4]


def test_figures_that_are_no_numbers(tmp_path: Path) -> None:
    tell(tmp_path, [begun(), step(1, loss=float("nan"), grad_norm=float("inf"), terms={"a term": 0.5})])
    assert math.isnan(curve(tmp_path, "train/loss")[0][1])
    assert curve(tmp_path, "train/grad_norm") == [(1, math.inf)]
    assert curve(tmp_path, "train/term_a term") == [(1, 0.5)]


def test_without_a_folder_nothing_is_written(tmp_path: Path) -> None:
    with contextlib.chdir(tmp_path):
        tell(None, whole_run(4))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("events", [[], [over(0, status="failed", error="no data")]])
def test_a_run_that_failed_at_once_leaves_no_empty_curves(tmp_path: Path, events: Any) -> None:
    tell(tmp_path, events)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").touch()
    with pytest.raises(OutputError, match="tensorboard: cannot be written"):
        tell(tmp_path, [begun()])
