"""Kind `logger`."""

from __future__ import annotations

import contextlib
import io
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from spcore.interfaces.logger import Checkpointed, Evaluated, Event, Logger, RunEnded, RunStarted, Step, Warned
from spcore.testing.checks import Check, Where, Wrong, check, run_checks, shown
from spcore.testing.contracts import against
from spcore.testing.report import Report

RECIPE = {"model": {"use": "fake"}, "train": {"epochs": 1}, "output": None}


def events(output: str = "") -> list[Event]:
    """A run's events: every kind, with values that loggers stumble over."""
    now = time.time()
    step = Step(
        time=now, step=1, epoch=0.5, loss=0.7, terms={"rows": 0.7}, grad_norm=1.0, lr=1e-3, loss_scale=1.0, applied=True, rows=8,
        tokens=64, seconds=0.1, rows_per_second=80.0, tokens_per_second=640.0, padding=0.25, memory=1 << 20, eta=3.0,
    )  # fmt: skip
    odd = Step(
        time=now, step=2, epoch=1.0, loss=float("nan"), terms={"rows": float("nan"), "a term": float("inf")}, grad_norm=float("inf"),
        lr=0.0, loss_scale=1024.0, applied=False, rows=0, tokens=0, seconds=0.0, rows_per_second=0.0, tokens_per_second=0.0,
        padding=0.0, memory=0, eta=0.0,
    )  # fmt: skip
    return [
        RunStarted(
            time=now,
            output=output,
            steps=2,
            start_step=0,
            rows=None,
            features=None,
            parameters=10,
            trainable=2,
            facts={"kernel": "fake"},
        ),
        step,
        Warned(time=now, message="3 of 8 rows dropped: “empty” [text]"),
        Warned(time=now, message="a step was left out", step=2),
        odd,
        Evaluated(time=now, step=2, metrics={"accuracy": 0.5, "loss": float("nan")}, rows=4, seconds=0.1, best=True),
        Checkpointed(time=now, step=2, path="checkpoints/step-00000002"),
        Checkpointed(time=now, step=2, path=output, kind="model", seconds=0.1),
        RunEnded(time=now, step=2, status="finished", seconds=1.0, rows_per_second=8.0),
    ]


@check("logger.contract", "it has the members of Logger", gate=True)
def logger_contract(logger: Any) -> Iterator[Wrong]:
    """Subclass or not."""
    yield from against(logger, Logger, "logger")


@check("logger.events", "it takes every event of a run that has a folder, and writes nothing to stdout")
def logger_events(logger: Logger) -> Iterator[Wrong]:
    """With values that are not finite, and texts that look like markup."""
    with tempfile.TemporaryDirectory() as folder:
        yield from _told(logger, Path(folder), events(folder))


@check("logger.no-output", "it takes every event of a run that keeps no folder")
def logger_no_output(logger: Logger) -> Iterator[Wrong]:
    """output None; the same logger is started a second time."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        yield from _told(logger, None, events())
        left = [path.name for path in Path(folder).iterdir()]
        if left:
            yield Wrong(f"files in the working directory: {', '.join(left)}", "none, where a run keeps no folder")


@check("logger.failed-run", "it closes after a run that failed at once")
def logger_failed_run(logger: Logger) -> Iterator[Wrong]:
    """Nothing was told but the end."""
    ended = RunEnded(time=time.time(), step=0, status="failed", seconds=0.0, error="out of memory\nline two")
    with tempfile.TemporaryDirectory() as folder:
        yield from _told(logger, Path(folder), [ended])
        yield from _told(logger, Path(folder), [])


def _told(logger: Logger, output: Path | None, told: list[Event]) -> Iterator[Wrong]:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        logger.start(output, RECIPE)
        try:
            for event in told:
                answer: Any = logger.event(event)  # type: ignore[func-returns-value]  # what is checked
                if answer is not None:
                    yield Wrong(f"event({event.name}) answers {shown(answer)}", "None: loggers answer nothing")
        finally:
            logger.close()
    if printed.getvalue():
        yield Wrong(f"stdout {shown(printed.getvalue())}", "nothing there: stdout is for data")


CHECKS: tuple[Check, ...] = (logger_contract, logger_events, logger_no_output, logger_failed_run)


def check_logger(logger: Any, *, where: Where = Where()) -> Report:  # noqa: B008 -- frozen
    """Check a logger. It is started and closed several times."""
    return run_checks(CHECKS, logger, where)
