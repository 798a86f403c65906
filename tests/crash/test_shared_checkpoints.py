"""A checkpoint that several ranks write: training goes on meanwhile, and it is whole once all of them have written, or never."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from crash.fake_runs import made, recipe, registry_of_fakes
from spcore.checkpoint import Shared
from spcore.errors import OutputError
from spcore.interfaces.strategy import Place, StepReport
from spcore.interfaces.task import Batch
from spcore.session import assemble
from spcore.testing.fakes import FakeEngine
from spcore.trainer import Trainer


class Slow(FakeEngine):
    """Rank 0 of two, whose part of a checkpoint is on disk when step `until` is made. seen: checkpoints that were whole at each step."""

    def __init__(self, plan: Any, until: int, fails: bool = False) -> None:
        super().__init__(plan, replace(Place(), world_size=2))
        self.until, self.fails, self.folder = until, fails, Path()
        self.written = threading.Event()
        self.seen: list[list[str]] = []

    def save(self, folder: Path) -> Any:
        super().save(folder)
        self.folder, self.written = folder, threading.Event()
        return self

    def wait(self) -> None:
        self.written.wait()

    def done(self) -> bool:
        return self.written.is_set()

    def train_step(self, microbatches: Sequence[Batch], lr: float, step: int) -> StepReport:
        self.seen.append(sorted(p.name for p in self.folder.parent.glob("step-*")))
        if step == self.until:
            self.written.set()
            if self.fails:
                raise OSError("the device is gone")
        return super().train_step(microbatches, lr, step)


def trainer(output: Path, engine_of: Any) -> tuple[Trainer, Any]:
    session = assemble(made(recipe(output, eval={}), registry_of_fakes(), train__save_every=3), registry_of_fakes())
    engine = engine_of(session.plan)
    return Trainer(session, engine, session.training(), None, lambda event: None, threading.Event()), engine


def test_training_goes_on_while_it_is_written(tmp_path: Path) -> None:
    run, engine = trainer(tmp_path, lambda plan: Slow(plan, until=4))
    engine.written.set()
    store = run.checkpoints
    assert store is not None
    settled = store.settled

    def watched(*, wait: bool = True) -> bool:
        assert not wait or engine.written.is_set(), "training waits for the disk"
        return settled(wait=wait)

    store.settled = watched  # type: ignore[method-assign]
    original = engine.save

    def save(folder: Path) -> Any:
        pending = original(folder)
        if run.progress.step == 6:  # of the last nobody waits long
            engine.written.set()
        return pending

    engine.save = save
    run.fit()
    assert len(engine.seen) == 6
    assert engine.seen[3] == engine.seen[4] == [], "steps 4 and 5 were made, and it is not whole yet"
    assert json.loads((tmp_path / "checkpoints" / "step-00000003" / "manifest.json").read_text())["step"] == 3
    assert store.steps() == [3, 6]


def test_a_run_that_ends_before_leaves_none(tmp_path: Path) -> None:
    """No one could say whether the others have written, so it is not whole; the thread that waits for it ends."""
    run, engine = trainer(tmp_path, lambda plan: Slow(plan, until=3, fails=True))
    engine.written.set()
    with pytest.raises(OSError, match="the device is gone"):
        run.fit()
    assert run.checkpoints is not None
    with pytest.raises(
        OutputError, match="a checkpoint was not finished: the run ended while processes were writing it"
    ):
        run.checkpoints.settled()
    assert run.checkpoints.steps() == []
    assert not [p for p in (tmp_path / "checkpoints").iterdir() if p.is_dir()]


def test_waiting_for_all() -> None:
    shared = Shared(Slow.__new__(Slow))
    waiter = threading.Thread(target=shared.wait)
    waiter.start()
    shared.told(True)
    waiter.join(timeout=10)
    assert not waiter.is_alive()
