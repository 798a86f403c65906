"""Kind `launcher`: it is given a run of fakes of one process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

from spcore.interfaces.launcher import Launcher, RunResult, RunSpec
from spcore.interfaces.logger import Event, RunStarted, Step
from spcore.interfaces.strategy import Layout, Refusal
from spcore.testing.checks import CannotCheck, Check, Where, Wrong, check, run_checks, shown
from spcore.testing.contracts import against
from spcore.testing.report import Report

if TYPE_CHECKING:
    from spcore.session import Session

_STEPS = 4


class LauncherCase:
    """A launcher under test and a run for it."""

    def __init__(self, launcher: Any) -> None:
        self.launcher = launcher

    @cached_property
    def session(self) -> Session:
        """A session of fakes."""
        import spcore.testing.plugin as fakes
        from spcore.components import Registry
        from spcore.recipe import load_recipe
        from spcore.session import assemble

        registry = Registry(entry_points=False)
        registry.register(fakes)
        recipe = {
            "model": {"use": "fake"}, "task": "fake-classification", "data": {"use": "fake", "rows": 8}, "strategy": "fake",
            "precision": "fake", "optimizer": "fake", "schedule": "fake", "launch": "fake", "loggers": [],
            "train": {"epochs": None, "steps": _STEPS, "global_batch_size": 4}, "device": "cpu",
        }  # fmt: skip
        return assemble(load_recipe(recipe, registry=registry), registry)

    @property
    def spec(self) -> RunSpec:
        """The session as data."""
        from spcore.session import run_spec

        return run_spec(self.session)

    def launch(self, *, cancelled_at: int | None = None) -> tuple[RunResult, list[Event]]:
        """Launch; set the control when step `cancelled_at` is told."""
        control, told = threading.Event(), list[Event]()

        def emit(event: Event) -> None:
            told.append(event)
            if isinstance(event, Step) and event.step == cancelled_at:
                control.set()

        return self.launcher.launch(self.spec, emit, control), told


@check("launcher.contract", "it has the members of Launcher, and starts one process at least", gate=True)
def launcher_contract(case: LauncherCase) -> Iterator[Wrong]:
    """Subclass or not."""
    yield from against(case.launcher, Launcher, "launcher")
    if not isinstance(getattr(case.launcher, "processes", 1), int) or case.launcher.processes < 1:
        yield Wrong(f"processes {shown(case.launcher.processes)}", "1 or more")


@check("launcher.check", "check gives a list of refusals, the same each time", gate=True)
def launcher_check(case: LauncherCase) -> Iterator[Wrong]:
    """Of a run in one process, and of one in 64."""
    large = RunSpec(case.spec.recipe, case.spec.registry, Layout({"data": 64}), inline=False)
    for spec in (case.spec, large):
        first, second = case.launcher.check(spec), case.launcher.check(spec)
        if not isinstance(first, list) or not all(isinstance(r, Refusal) for r in first):
            yield Wrong(f"check gives {shown(first)}", "a list of Refusal")
        elif first != second:
            yield Wrong(f"check gives {shown(second)}, before that {shown(first)}", "the same answer each time")


@check(
    "launcher.runs",
    "a run goes to its end: its result is returned, its events are told in order, in the caller's process",
)
def launcher_runs(case: LauncherCase) -> Iterator[Wrong]:
    """A few steps of the fake engine."""
    _needs_one_process(case)
    result, told = case.launch()
    if not isinstance(result, RunResult) or (result.steps, result.cancelled) != (_STEPS, False):
        yield Wrong(f"result {shown(result)}", f"a RunResult of {_STEPS} steps, not cancelled")
    steps = [event.step for event in told if isinstance(event, Step)]
    if steps != list(range(1, _STEPS + 1)) or not told or not isinstance(told[0], RunStarted):
        yield Wrong(f"events {[event.name for event in told]}, steps {steps}", f"run_started, then steps 1 to {_STEPS}")


@check("launcher.stops", "a run whose control is set ends after the present step, as cancelled")
def launcher_stops(case: LauncherCase) -> Iterator[Wrong]:
    """Set when the second step is told; a launcher of other processes may be a step late."""
    _needs_one_process(case)
    result, _ = case.launch(cancelled_at=2)
    if not result.cancelled or result.steps >= _STEPS:
        yield Wrong(f"result {shown(result)}", f"a cancelled RunResult of fewer than {_STEPS} steps")


def _needs_one_process(case: LauncherCase) -> None:
    refusals = case.launcher.check(case.spec)
    if refusals:
        raise CannotCheck(f"it refuses a run of one inline process: {refusals[0]}")
    if case.launcher.processes != 1:
        raise CannotCheck(f"it starts {case.launcher.processes} processes, and the fake engine runs in one")


CHECKS: tuple[Check, ...] = (launcher_contract, launcher_check, launcher_runs, launcher_stops)


def check_launcher(launcher: Any, *, where: Where = Where()) -> Report:  # noqa: B008 -- frozen
    """Check a launcher with a run of fakes."""
    return run_checks(CHECKS, LauncherCase(launcher), where)
