"""Several models in one process: each as if it were alone, to the bit, dropout on."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

import slimpajama
from embed.parts import HALVES, RECIPE, Halves, registry_of
from embed.tools import ROWS, TEXTS, Told, finetune
from spcore.interfaces.logger import Event, RunEnded, RunStarted, Step
from spcore.tensors import process
from spcore.tensors.materialise import frozen
from spcore_torch import runtime

LIMIT = 120
"""Seconds that a thread may take."""


def together(*jobs: Callable[[], Any]) -> list[Any]:
    """What jobs give, each in a thread of its own."""
    with ThreadPoolExecutor(len(jobs)) as pool:
        return [future.result(LIMIT) for future in [pool.submit(job) for job in jobs]]


class Baton:
    """Runs that take turns: a run's step is followed by one of each other that is still going."""

    def __init__(self, runs: int) -> None:
        self.going, self.turn = list(range(runs)), 0
        self.order: list[int] = []
        self.changed = threading.Condition()

    def of(self, run: int) -> Callable[[Event], None]:
        def told(event: Event) -> None:
            with self.changed:
                if isinstance(event, RunStarted):
                    assert self.changed.wait_for(lambda: self.turn == run, LIMIT)
                elif isinstance(event, Step):
                    self.order.append(run)
                    self._pass_on(run)
                    assert self.changed.wait_for(lambda: self.turn == run, LIMIT)
                elif isinstance(event, RunEnded):
                    self._pass_on(run)
                    self.going.remove(run)

        return told

    def _pass_on(self, run: int) -> None:
        self.turn = self.going[(self.going.index(run) + 1) % len(self.going)]
        self.changed.notify_all()


def test_one_fine_tunes_while_the_other_predicts(tiny: str) -> None:
    alone, answers = Told(), finetune(tiny).predict(TEXTS)
    finetune(tiny, alone, train={"train.steps": 12, "train.seed": 3})
    other, beside = finetune(tiny), Told()
    done, asked = threading.Event(), list[Any]()

    def predicts() -> None:
        while not done.is_set():
            asked.append(other.predict(TEXTS))

    def trains() -> None:
        try:
            finetune(tiny, beside, train={"train.steps": 12, "train.seed": 3})
        finally:
            done.set()

    together(predicts, trains)
    assert len(asked) > 1
    assert all(answer == answers for answer in asked)
    assert beside.losses == alone.losses


def test_two_trainings_take_turns(tiny: str) -> None:
    kinds: list[dict[str, Any]] = [{"train.seed": 1}, {"train.seed": 2, "precision": "bf16"}]
    alone = [Told(), Told()]
    models = [finetune(tiny, told, train=kind) for told, kind in zip(alone, kinds, strict=True)]
    baton = Baton(2)
    turns = [Told(baton.of(0)), Told(baton.of(1))]
    jobs = [lambda n=n: finetune(tiny, turns[n], train=kinds[n]) for n in range(2)]
    again = together(*jobs)
    assert baton.order == [0, 1] * 4
    assert [told.losses for told in turns] == [told.losses for told in alone]
    assert [m.predict(TEXTS) for m in again] == [m.predict(TEXTS) for m in models]
    assert alone[0].losses != alone[1].losses


def test_trainings_at_the_same_time(tiny: str) -> None:
    """Each draws its dropout from generators of its own, however their steps fall."""
    alone = [Told(), Told()]
    beside = [Told(), Told()]
    for n, told in enumerate(alone):
        finetune(tiny, told, train={"train.seed": n, "train.steps": 12})
    together(*[lambda n=n: finetune(tiny, beside[n], train={"train.seed": n, "train.steps": 12}) for n in range(2)])
    assert [told.losses for told in beside] == [told.losses for told in alone]


def test_a_run_s_threads_are_not_the_others(tiny: str) -> None:
    """One computes on two CPU threads, which torch keeps for the whole process; a new thread meanwhile has the process's own."""
    two = {"strategy": {"use": "single", "threads": 2}}
    alone, model = Told(), finetune(tiny)
    answers = model.predict(TEXTS)
    finetune(tiny, alone, two, train={"train.steps": 4})
    before, found, started = torch.get_num_threads(), list[Any](), list[threading.Thread]()

    def asks(event: Event) -> None:
        if isinstance(event, Step):
            thread = threading.Thread(target=lambda: found.append((model.predict(TEXTS), torch.get_num_threads())))
            thread.start()
            started.append(thread)

    beside = Told(asks)
    finetune(tiny, beside, two, train={"train.steps": 4})
    for thread in started:
        thread.join(LIMIT)
    assert found == [(answers, before)] * 4
    assert beside.losses == alone.losses
    assert torch.get_num_threads() == before


def test_a_handle_is_fine_tuned_while_it_answers(tiny: str, tmp_path: Path) -> None:
    handle = finetune(tiny)
    before, asked = handle.predict(TEXTS), list[Any]()
    expected = finetune(str(handle.save(tmp_path / "first")), train={"train.seed": 9}).predict(TEXTS)
    done = threading.Event()

    def predicts() -> None:
        while not done.is_set():
            asked.append(handle.predict(TEXTS))

    def trains() -> None:
        try:
            handle.finetune(
                ROWS, "text-classification", eval_dataset=ROWS[:5], progress=False, batch_size=6,
                settings={"train.epochs": None, "train.steps": 4, "train.seed": 9, "device": "cpu"},
            )  # fmt: skip
        finally:
            done.set()

    together(predicts, predicts, trains)
    after = handle.predict(TEXTS)
    assert after == expected
    assert after != before
    assert before in asked
    assert all(answer in (before, after) for answer in asked), "answers of one model or the other, never of both"


def test_a_thread_that_first_computes_meanwhile_has_the_process_s_own(
    tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch settles a thread's number of CPU threads when it first computes, and for good."""
    before, inside, leave = torch.get_num_threads(), threading.Event(), threading.Event()

    def steps() -> None:
        with process.computing(threads=before + 1):
            inside.set()
            assert leave.wait(LIMIT)

    def materialises(*arguments: Any, **named: Any) -> Any:
        assert leave.is_set(), "amid the step"
        return frozen(*arguments, **named)

    def loads() -> int:
        assert inside.wait(LIMIT)
        threading.Timer(1, leave.set).start()
        handle.runner(task=False)
        return torch.get_num_threads()

    handle = slimpajama.load_model(tiny)
    monkeypatch.setattr(runtime, "frozen", materialises)
    assert together(steps, loads)[1] == before


def test_a_model_that_is_closed_answers_who_has_asked(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = finetune(tiny)
    answers, runner = handle.predict(TEXTS), handle.runner()
    inside, leave, forward = threading.Event(), threading.Event(), runner.forward

    def waits(batch: Any) -> Any:
        inside.set()
        assert leave.wait(LIMIT)
        return forward(batch)

    def closes() -> None:
        assert inside.wait(LIMIT)
        handle.close()
        leave.set()

    monkeypatch.setattr(runner, "forward", waits)
    assert together(lambda: handle.predict(TEXTS), closes)[0] == answers
    assert list(runner.module.parameters()) == [], "it was closed after that"
    assert handle.predict(TEXTS) == answers


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


CALLERS: dict[str, Callable[[], contextlib.AbstractContextManager[Any]]] = {
    "inference_mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "a default device": lambda: torch.device("meta"),
    "a default dtype": lambda: default_dtype(torch.float64),
}


@pytest.mark.parametrize("inside", CALLERS)
def test_what_the_caller_s_own_code_is_in_changes_nothing(inside: str, tiny: str) -> None:
    alone, beside = Told(), Told()
    answers = finetune(tiny, alone).predict(TEXTS)
    with CALLERS[inside]():
        assert finetune(tiny, beside).predict(TEXTS) == answers
    assert beside.losses == alone.losses


def test_two_runs_in_child_processes_at_the_same_time() -> None:
    told = [Told(), Told()]

    def runs(n: int) -> int:
        registry = registry_of()
        registry.add(HALVES, Halves)
        return slimpajama.run(RECIPE, registry=registry, on_event=told[n]).steps

    assert together(lambda: runs(0), lambda: runs(1)) == [4, 4]
    assert [step for step, _, _ in told[0].losses] == [1, 2, 3, 4]
    assert told[0].losses == told[1].losses


def test_models_are_loaded_once_by_many_threads(tiny: str) -> None:
    folder = finetune(tiny)
    handle = slimpajama.load_model(folder.artifact().folder)
    runners = together(*[handle.runner] * 6)
    assert len({id(runner) for runner in runners}) == 1
