"""Runs in processes of their own: what comes back, how they end, and what they leave of the caller's process."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import launch.trouble
from exact.processes import registry_of
from spcore.errors import RankError, RefusalError, RunError
from spcore.interfaces.launcher import RunResult
from spcore.interfaces.logger import Event, RunStarted, Step, Warned
from spcore.recipe import load_recipe
from spcore.running import execute

SECONDS = 10
"""In which a rank that dies takes the others with it."""


def registry() -> Any:
    found = registry_of()
    found.register(launch.trouble, name="trouble")
    return found


def tree(
    processes: int = 2, output: Path | None = None, trouble: dict[str, Any] | None = None, **more: Any
) -> dict[str, Any]:
    train = {"epochs": None, "steps": 6, "global_batch_size": 8, "seed": 1, **more.pop("train", {})}
    return {
        "model": {"use": "fake"}, "task": "fake-two-terms", "data": {"use": "fake"}, "optimizer": "adamw", "precision": "fp32",
        "strategy": "ddp", "launch": {"use": "local", "processes": processes, **more.pop("launch", {})}, "train": train,
        "schedule": {"use": "trouble", **(trouble or {})}, "device": "cpu", "loggers": [],
        "output": str(output) if output else None, **more,
    }  # fmt: skip


def run(recipe: dict[str, Any], events: list[Event] | None = None, **how: Any) -> RunResult:
    found = registry()
    heard = how.pop("on_event", (events if events is not None else []).append)
    return execute(load_recipe(recipe, {}, registry=found), found, on_event=heard, **how)


def losses(events: list[Event]) -> dict[int, float]:
    """Of each step, the last that was told."""
    return {event.step: event.loss for event in events if isinstance(event, Step)}


class Timed:
    """Events, and the time since the last."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.at = time.monotonic()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        if event.name != "run_ended":
            self.at = time.monotonic()

    @property
    def since(self) -> float:
        return time.monotonic() - self.at


def test_what_comes_back_and_what_stays_as_it_was(capfd: pytest.CaptureFixture[str]) -> None:
    environment, handlers = dict(os.environ), [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    levels = {name: logging.getLogger(name).level for name in ("", "torch.distributed.elastic")}
    events: list[Event] = []
    result = run(tree(trouble={"what": "print", "rank": 0}), events)
    assert (result.steps, result.cancelled) == (6, False)
    assert sorted(losses(events)) == [1, 2, 3, 4, 5, 6]
    assert [event.name for event in events][:1] == ["run_started"]
    assert events[-1].name == "run_ended"
    assert dict(os.environ) == environment
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert {name: logging.getLogger(name).level for name in levels} == levels
    assert [t.name for t in threading.enumerate() if t.name.startswith("slimpajama")] == []
    out, err = capfd.readouterr()
    assert out == ""
    assert "said by a plugin" in err


def test_a_ranks_own_error_is_shown() -> None:
    timed = Timed()
    with pytest.raises(RankError, match="rank 1 failed at step 3: ValueError: trouble of a plugin's own") as caught:
        run(tree(trouble={"what": "raise"}), on_event=timed)
    assert "in _make" in caught.value.traceback
    assert (caught.value.rank, caught.value.step) == (1, 3)
    assert timed.since < SECONDS


def test_an_error_of_ours_keeps_its_kind_and_its_line() -> None:
    with pytest.raises(RunError, match=r"^trouble that is known\. Do something else$") as caught:
        run(tree(trouble={"what": "refuse"}))
    assert isinstance(caught.value.__cause__, RankError)
    assert "RunError" in caught.value.__cause__.traceback


@pytest.mark.parametrize(("what", "said"), [("raise", "ValueError: trouble while it"), ("kill", "killed by SIGKILL")])
def test_a_rank_that_fails_while_it_generates_stops_all(what: str, said: str) -> None:
    """In the evaluation after step 2, of which the other rank, if it is behind, has not told yet; else it has its answers and waits."""
    shown = {"data": {"use": "fake", "split": "validation"}, "every": 2}
    timed = Timed()
    with pytest.raises(RankError, match=f"rank 1 failed .*{said}"):
        run(tree(task={"use": "trouble-prompts", "what": what}, eval=shown), on_event=timed)
    assert [event.step for event in timed.events if isinstance(event, Step)] in ([1], [1, 2])
    assert timed.since < SECONDS


@pytest.mark.parametrize(("what", "said"), [("kill", "killed by SIGKILL"), ("leave", "exit code 7")])
def test_a_rank_that_dies_takes_the_others_with_it(what: str, said: str) -> None:
    timed = Timed()
    with pytest.raises(RankError, match=f"rank 1 failed at step 3: .*{said}"):
        run(tree(trouble={"what": what}), on_event=timed)
    assert timed.since < SECONDS


def test_restarts_go_on_from_the_last_checkpoint(tmp_path: Path) -> None:
    whole: list[Event] = []
    run(tree(), whole)
    once = {"what": "kill", "step": 5, "once": str(tmp_path / "once")}
    events: list[Event] = []
    more = {"train": {"save_every": 2}, "launch": {"max_restarts": 1}, "output": tmp_path / "run"}
    result = run(tree(trouble=once, **more), events)
    assert result.steps == 6
    first, again = (e.start_step for e in events if isinstance(e, RunStarted))
    assert first == 0
    assert again in (2, 4), "that of step 4 is perhaps not written yet"
    assert losses(events) == losses(whole)
    warned = [e.message for e in events if isinstance(e, Warned)]
    assert any("started again from the last checkpoint" in line for line in warned), warned


def test_a_cancelled_run_saves_and_goes_on(tmp_path: Path) -> None:
    whole: list[Event] = []
    run(tree(), whole)
    cancel, events = threading.Event(), list[Event]()

    def heard(event: Event) -> None:
        events.append(event)
        if isinstance(event, Step) and event.step == 2:
            cancel.set()

    recipe = tree(output=tmp_path / "run", train={"steps": 400})
    result = run(recipe, on_event=heard, cancel=cancel)
    assert result.cancelled
    assert 2 <= result.steps < 400
    again: list[Event] = []
    stop = threading.Event()

    def heard_again(event: Event) -> None:
        again.append(event)
        if isinstance(event, Step) and event.step >= result.steps + 2:
            stop.set()

    run(recipe, on_event=heard_again, cancel=stop)
    started = next(e for e in again if isinstance(e, RunStarted))
    assert started.start_step == result.steps


def test_an_error_of_the_callers_ends_the_processes() -> None:
    def heard(event: Event) -> None:
        if isinstance(event, Step):
            raise KeyError("the caller's own")

    began = time.monotonic()
    with pytest.raises(KeyError, match="the caller's own"):
        run(tree(train={"steps": 100000}), on_event=heard)
    assert time.monotonic() - began < 60
    assert [t.name for t in threading.enumerate() if t.name.startswith("slimpajama")] == []


def test_parts_without_an_import_path_are_refused_by_name() -> None:
    from spcore.components import Component

    found = registry()
    found.add(Component("schedule", "mine", "notebook:Mine", "Made in a notebook"), object)
    with pytest.raises(RefusalError, match=r"launch 'local': .*by-hand-schedule-mine.*launch=inline"):
        execute(load_recipe(tree(), {}, registry=found), found)


def test_restarts_without_checkpoints_are_refused() -> None:
    with pytest.raises(RefusalError, match=r"launch\.max_restarts 1: .*train\.save_every"):
        run(tree(launch={"max_restarts": 1}))
