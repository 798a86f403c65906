"""No layout fails in its processes for a reason that was knowable before: of runs drawn at random each is refused, in a line, when its recipe
is assembled, or makes a step, is evaluated and saved."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import parity.warm
from exact import drawn
from exact.processes import Processes, registry_of
from spcore.errors import UserError
from spcore.launching.worker import spec_to_json
from spcore.recipe import load_recipe
from spcore.session import assemble, run_spec

QUICK = {
    30: True, 59: True, 72: True, 95: False, 117: True, 187: True, 213: True, 257: True, 343: True, 368: False, 376: True, 393: True,
}  # fmt: skip
"""Seed of a run of two processes -> whether it is made."""
SLOW = [seed for seed in range(150) if seed not in QUICK]


class Ready:
    """Processes by how many they are, started when they are first asked for, and anew after a run that ended them."""

    def __init__(self) -> None:
        self._pools: dict[int, Processes] = {}

    def launch(self, spec: dict[str, Any], size: int) -> dict[str, Any]:
        """See `Processes.launch`."""
        pool = self._pools.pop(size, None) or Processes(size)
        try:
            found = pool.launch(spec)
        except BaseException:
            pool.__exit__()
            raise
        self._pools[size] = pool
        return found

    def close(self) -> None:
        for pool in self._pools.values():
            pool.__exit__()


@pytest.fixture(scope="module")
def ready() -> Iterator[Ready]:
    found = Ready()
    yield found
    found.close()


def made(seed: int, ready: Ready, output: Path) -> bool:
    """Whether it was not refused."""
    (tree, processes), parts = drawn.run(seed, output), registry_of()
    parts.register(parity.warm, name="warm")
    launch, said = {"launch": {"use": "warm", "processes": processes}}, ""
    try:
        session = assemble(load_recipe({**tree, **launch}, {}, registry=parts), parts)
    except UserError as refusal:
        said = str(refusal)
    if said:
        assert len(said.splitlines()) == 1
        return False
    events = ready.launch(spec_to_json(run_spec(session)), processes)["events"]
    (step,) = [event for event in events if event["event"] == "step"]
    (evaluated,) = [event for event in events if event["event"] == "evaluated"]
    assert math.isfinite(step["loss"])
    assert evaluated["metrics"]
    assert (output / "model.safetensors").is_file()
    return True


@pytest.mark.parametrize(("seed", "runs"), QUICK.items())
def test_it_is_refused_or_runs(seed: int, runs: bool, ready: Ready, tmp_path: Path) -> None:
    assert made(seed, ready, tmp_path / "run") == runs


@pytest.mark.slow
@pytest.mark.parametrize("seed", SLOW)
def test_each_is_refused_or_runs(seed: int, ready: Ready, tmp_path: Path) -> None:
    made(seed, ready, tmp_path / "run")
