"""Logger `jsonl`, read back."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from logger_events import begun, judged, over, step, warned, whole_run

from spcore.errors import OutputError
from spcore.interfaces.logger import Event
from spcore_loggers.jsonl import Jsonl


def refuse(constant: str) -> Any:
    raise AssertionError(f"{constant} is no JSON")


def lines(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "metrics.jsonl").read_text(encoding="utf-8")
    assert text.endswith("\n")
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def tell(folder: Path | None, events: Sequence[Event]) -> None:
    logger = Jsonl()
    logger.start(folder, {})
    with contextlib.closing(logger):
        for event in events:
            logger.event(event)


def test_every_event_is_a_line(tmp_path: Path) -> None:
    events = whole_run()
    tell(tmp_path, events)
    assert lines(tmp_path) == [event.to_json() for event in events]


def test_a_line_is_there_before_the_next_event(tmp_path: Path) -> None:
    logger = Jsonl()
    logger.start(tmp_path, {})
    for number in (1, 2, 3):
        logger.event(step(number))
        assert [line["step"] for line in lines(tmp_path)] == list(range(1, number + 1))
    logger.close()
    logger.close()


def test_a_resumed_run_goes_on_in_the_file(tmp_path: Path) -> None:
    tell(tmp_path, [begun(), step(1)])
    tell(tmp_path, [begun(start_step=1), step(2), over(2)])
    assert [line["event"] for line in lines(tmp_path)] == ["run_started", "step", "run_started", "step", "run_ended"]


def test_what_is_no_number_is_valid_json(tmp_path: Path) -> None:
    nan, inf = float("nan"), float("inf")
    tell(tmp_path, [step(1, loss=nan, grad_norm=inf, terms={"a": -inf}), judged(1, metrics={"f1": np.float32("nan")})])
    first, second = lines(tmp_path)
    assert (first["loss"], first["grad_norm"], first["terms"]) == ("nan", "inf", {"a": "-inf"})
    assert np.isnan(float(first["loss"])), "float() reads them back"
    assert second["metrics"] == {"f1": "nan"}


def test_numpy_s_numbers_are_numbers(tmp_path: Path) -> None:
    metrics: dict[str, Any] = {"a": np.float32(0.5), "b": np.int64(3), "c": np.float64(0.25)}
    tell(tmp_path, [judged(1, metrics=metrics, best=True)])
    held = lines(tmp_path)[0]
    assert held["best"] is True
    assert held["metrics"]["a"] == 0.5
    assert (held["metrics"]["b"], type(held["metrics"]["b"])) == (3, int)


def test_any_text(tmp_path: Path) -> None:
    message = 'zwei\nlines, “quotes” "and" 中文 \u2028 \ud83d\ude00'.encode("utf-16", "surrogatepass").decode("utf-16")
    tell(tmp_path, [warned(message)])
    raw = (tmp_path / "metrics.jsonl").read_bytes()
    assert raw.count(b"\n") == 1
    assert json.loads(raw)["message"] == message


def test_a_torn_last_line_is_cut_off(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tell(tmp_path, [begun(), step(1)])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"event": "step", "st')
    with caplog.at_level(logging.WARNING, logger="slimpajama"):
        tell(tmp_path, [step(2)])
    assert [line.get("step") for line in lines(tmp_path)] == [None, 1, 2]
    assert "the last line is not whole (21 bytes)" in caplog.text


@pytest.mark.parametrize(("before", "kept"), [(b"", 0), (b"{", 0), (b"{}\n", 1), (b"{}\n{", 1)])
def test_any_file_that_is_there_can_be_gone_on_with(tmp_path: Path, before: bytes, kept: int) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(before)
    tell(tmp_path, [step(2)])
    assert [line.get("step") for line in lines(tmp_path)] == [None] * kept + [2]


def test_without_a_folder_nothing_is_written(tmp_path: Path) -> None:
    with contextlib.chdir(tmp_path):
        tell(None, whole_run())
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    logger = Jsonl()
    logger.start(tmp_path, {})
    with pytest.raises(OutputError, match=r"metrics\.jsonl: cannot be written: no space left on the disk"):
        logger.event(step(1))
    logger.close()


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"missing/metrics\.jsonl: cannot be written: No such file or directory"):
        tell(tmp_path / "missing", [])
