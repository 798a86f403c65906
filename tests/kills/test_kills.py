"""SIGKILL at random moments of a run on two processes, under every strategy: started again, it ends as if nothing had happened, to the bit."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from exact.recipes import classification, laid

STEPS = {"ddp": 60, "fsdp": 20, "tp2": 20, "pp2": 20, "megatron": 15}
"""Of a run, by layout; processes that share layers meet more often."""
SAMPLED, ALL = {"ddp": 11, "fsdp": 14, "pp2": 8, "megatron": 14}, tuple(range(20))
TWENTY = [(layout, seed) for layout in STEPS for seed in ALL if SAMPLED.get(layout) != seed]
"""Seeds: one a layout in `make test`, all of every layout in `make test-all`. A seed draws the moment, and which processes die."""
LAYOUTS: dict[str, dict[str, Any]] = {"megatron": {"use": "megatron", "pipeline_parallel": 2}}
VICTIMS = ("all", "parent", "rank 0", "rank 1")


@dataclass
class Undisturbed:
    layout: str
    folder: Path
    losses: dict[int, float]
    metrics: dict[str, float]
    seconds: float


def command(folder: Path, output: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "slimpajama",
        "run",
        str(folder / "recipe.json"),
        f"output={folder / output}",
        "--json",
    ]


def losses(folder: Path) -> dict[int, float]:
    """Of each step, the last that is written down."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    return {event["step"]: event["loss"] for event in events if event["event"] == "step"}


@pytest.fixture(scope="module")
def undisturbed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """Of the layout that is the parameter."""
    layout: str = request.param
    return made(tmp_path_factory.mktemp(layout), layout, STEPS[layout])


def made(folder: Path, layout: str, steps: int) -> Undisturbed:
    """A run that nobody kills."""
    tree: dict[str, Any] = classification(folder, rows=200)
    tree["model"]["dropout"] = 0.1
    recipe = laid(
        tree, LAYOUTS.get(layout, layout), 2, steps=steps, global_batch_size=16, micro_batch_size=4, save_every=5
    )
    (folder / "recipe.json").write_text(json.dumps({**recipe, "loggers": ["jsonl"]}))
    began = time.monotonic()
    done = subprocess.run(command(folder, "whole"), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    seconds = time.monotonic() - began
    found = losses(folder / "whole")
    assert sorted(found) == list(range(1, steps + 1))
    return Undisturbed(layout, folder, found, json.loads(done.stdout), seconds)


def kill(run: subprocess.Popen[str], victim: str) -> None:
    """Kill, and see that within ten seconds nobody of the run is left."""
    parent = psutil.Process(run.pid)
    children = parent.children(recursive=True)
    ranks = {int(c.environ()["RANK"]): c for c in children if "RANK" in c.environ()}
    chosen = {"parent": [parent], "all": [parent, *children]}.get(victim)
    if chosen is None:
        chosen = [ranks[int(victim[-1])]] if len(ranks) == 2 else [parent]
    for process in chosen:
        process.send_signal(signal.SIGKILL)
    run.communicate(timeout=60)
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive, f"left behind after {victim} was killed: {alive}"


def check(seed: int, undisturbed: Undisturbed) -> None:
    draw = random.Random(seed)
    victim, moment = draw.choice(VICTIMS), undisturbed.seconds * draw.uniform(0.3, 0.95)
    folder, name = undisturbed.folder, f"run-{seed}"
    run = subprocess.Popen(command(folder, name), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        run.communicate(timeout=moment)
    except subprocess.TimeoutExpired:
        kill(run, victim)
        if (folder / name / "slimpajama.json").exists():  # it had just ended
            assert losses(folder / name) == undisturbed.losses
            return
        longest = 300 + 3 * undisturbed.seconds  # as slow as the machine is today
        again = subprocess.run(command(folder, name), capture_output=True, text=True, timeout=longest)
        assert again.returncode == 0, again.stderr
        assert json.loads(again.stdout) == {**undisturbed.metrics, "output": str(folder / name)}
    else:
        assert run.returncode == 0, "quicker than the undisturbed one: it ended before its moment"
    assert losses(folder / name) == undisturbed.losses
    assert not [p for p in (folder / name).rglob(".*") if p.name != ".lock"], "leftovers"


@pytest.mark.parametrize(("undisturbed", "seed"), SAMPLED.items(), indirect=["undisturbed"])
def test_a_killed_run_ends_the_same(seed: int, undisturbed: Undisturbed) -> None:
    check(seed, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize(("undisturbed", "seed"), TWENTY, indirect=["undisturbed"])
def test_twenty_killed_runs_end_the_same(seed: int, undisturbed: Undisturbed) -> None:
    check(seed, undisturbed)


def test_the_draw_is_not_one_sided() -> None:
    drawn = {random.Random(seed).choice(VICTIMS) for seed in ALL}
    assert drawn == set(VICTIMS)
    assert len({random.Random(seed).choice(VICTIMS) for seed in SAMPLED.values()}) > 1
    assert os.path.exists("/proc"), "psutil reads another process's environment there"
