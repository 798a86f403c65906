"""Launcher `slurm` over commands that carry out what is submitted: the promises of `local`, on two nodes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from pydantic import ValidationError

from exact.recipes import classification, laid
from launch import slurm_fake
from launch.test_local import losses, run, tree
from spcore.errors import RankError, RefusalError, RunCancelled, RunError
from spcore.interfaces.logger import Event, RunEnded, RunStarted, Step, Warned
from spcore_slurm.options import SlurmOptions

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Path]:
    """Its folder; its commands are the first on PATH."""
    with slurm_fake.cluster(tmp_path / "slurm", held=getattr(request, "param", "") == "held") as path:
        monkeypatch.setenv("PATH", os.pathsep.join([str(path), str(Path(sys.executable).parent), os.environ["PATH"]]))
        yield tmp_path / "slurm"


def job(slurm: Path, **options: Any) -> dict[str, Any]:
    """A launcher over that cluster."""
    return {
        "use": "slurm",
        "nodes": 2,
        "host": "127.0.0.1",
        "poll": 0.5,
        "folder": str(slurm.parent / "jobs"),
        **options,
    }


def left(slurm: Path) -> list[psutil.Process]:
    """Processes of its jobs."""
    found = []
    for process in psutil.process_iter():
        try:
            if "SLURM_JOB_ID" in process.environ() and str(slurm) in process.environ().get("PATH", ""):
                found.append(process)
        except (psutil.AccessDenied, psutil.NoSuchProcess):
            continue
    return found


def test_what_comes_back_and_what_stays_as_it_was(
    slurm: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    environment, handlers = dict(os.environ), [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    local: list[Event] = []
    run(tree(), local)
    events: list[Event] = []
    more = {"partition": "short", "memory": 4, "cpus_per_process": 2, "gpu": True, "extra": {"reservation": "today"}}
    result = run(tree(trouble={"what": "print"}, launch=job(slurm, setup=["echo said by the script"], **more)), events)
    assert (result.steps, result.cancelled) == (6, False)
    assert losses(events) == losses(local)
    assert dict(os.environ) == environment
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert capfd.readouterr() == ("", "")
    (done,) = slurm_fake.jobs(slurm)
    assert done["state"] == "COMPLETED"
    asked = {
        "job-name": "slimpajama", "nodes": "2", "ntasks-per-node": "1", "cpus-per-task": "2", "gpus-per-node": "1", "mem": "4GB",
        "partition": "short", "time": "60", "signal": "USR2@120", "reservation": "today",
    }  # fmt: skip
    assert {name: done["options"].get(name) for name in asked} == asked
    logs = list((tmp_path / "jobs").rglob("*_log.*"))
    assert any("said by a plugin" in log.read_text() for log in logs)
    assert not list((tmp_path / "jobs").rglob("*.pkl")), "the token lies in it"
    assert next((tmp_path / "jobs").iterdir()).stat().st_mode & 0o77 == 0


def test_a_ranks_own_error_is_shown(slurm: Path) -> None:
    with pytest.raises(RankError, match="rank 1 failed at step 3: ValueError: trouble of a plugin's own") as caught:
        run(tree(trouble={"what": "raise"}, launch=job(slurm)))
    assert "in _make" in caught.value.traceback
    assert left(slurm) == []
    assert slurm_fake.jobs(slurm)[0]["state"] == "FAILED"


def test_a_killed_rank_and_the_next_job(slurm: Path, tmp_path: Path) -> None:
    """Two processes of one node."""
    whole: list[Event] = []
    run(tree(), whole)
    once = {"what": "kill", "step": 5, "once": str(tmp_path / "once")}
    events: list[Event] = []
    launch = job(slurm, nodes=1, max_restarts=1)
    result = run(tree(trouble=once, train={"save_every": 2}, output=tmp_path / "run", launch=launch), events)
    assert result.steps == 6
    first, again = (e.start_step for e in events if isinstance(e, RunStarted))
    assert first == 0
    assert again in (2, 4), "that of step 4 is perhaps not written yet"
    assert losses(events) == losses(whole)
    warned = [e.message for e in events if isinstance(e, Warned)]
    (told,) = (line for line in warned if "started again from the last checkpoint" in line)
    assert re.match(r"rank 1 failed at step [45]: the process was killed by SIGKILL", told), (
        "told of step 5 it may not have"
    )
    assert [job["state"] for job in slurm_fake.jobs(slurm)] == ["FAILED", "COMPLETED"]


def test_a_job_whose_time_is_up_saves_and_the_next_goes_on(slurm: Path, tmp_path: Path) -> None:
    sent, events = threading.Event(), list[Event]()

    def heard(event: Event) -> None:
        events.append(event)
        if isinstance(event, Step) and not sent.is_set():
            sent.set()
            subprocess.run(["scancel", "--signal=USR2", slurm_fake.jobs(slurm)[0]["id"]], check=True)

    recipe = tree(train={"steps": 200, "save_every": 200}, output=tmp_path / "run", launch=job(slurm, max_restarts=1))
    assert run(recipe, on_event=heard).steps == 200
    first, second = (e.start_step for e in events if isinstance(e, RunStarted))
    assert first == 0 < second < 200
    assert any("time was up; started again" in e.message for e in events if isinstance(e, Warned))
    assert sorted(losses(events)) == list(range(1, 201))


@pytest.mark.parametrize("slurm", ["held"], indirect=True)
def test_a_job_that_waits_is_taken_back(slurm: Path) -> None:
    cancel, events = threading.Event(), list[Event]()

    def heard(event: Event) -> None:
        events.append(event)
        cancel.set()

    with pytest.raises(RunCancelled, match="before a process had begun"):
        run(tree(launch=job(slurm)), on_event=heard, cancel=cancel)
    assert isinstance(events[0], Warned)
    assert "is submitted; its logs are in" in events[0].message
    assert isinstance(events[-1], RunEnded)
    assert slurm_fake.jobs(slurm)[0]["state"].startswith("CANCELLED")


def test_an_error_of_the_callers_ends_the_job(slurm: Path) -> None:
    def heard(event: Event) -> None:
        if isinstance(event, Step):
            raise KeyError("the caller's own")

    with pytest.raises(KeyError, match="the caller's own"):
        run(tree(train={"steps": 100000}, launch=job(slurm)), on_event=heard)
    assert left(slurm) == []


def test_a_job_that_ends_before_its_processes_begin(slurm: Path) -> None:
    with pytest.raises(RunError, match=r"Slurm job \d+ ended \(FAILED\).*; its logs are in") as caught:
        run(tree(launch=job(slurm, setup=["exit 3"])))
    assert not isinstance(caught.value, RankError)


def test_a_job_that_is_not_taken(slurm: Path) -> None:
    with pytest.raises(RunError, match=r"sbatch took no job: .*invalid partition specified: closed"):
        run(tree(launch=job(slurm, partition="closed")))


@pytest.mark.slow
def test_who_is_killed_leaves_nobody_behind(slurm: Path, tmp_path: Path) -> None:
    recipe = laid(classification(tmp_path), "ddp", 2, steps=100000)
    (tmp_path / "recipe.json").write_text(
        json.dumps({**recipe, "launch": job(slurm, processes=2), "loggers": ["progress"]})
    )
    command = [sys.executable, "-m", "slimpajama", "run", str(tmp_path / "recipe.json"), f"output={tmp_path / 'run'}"]
    caller = subprocess.Popen([*command, "loggers=[{use: progress, every: 1}]"], stderr=subprocess.PIPE, text=True)
    assert caller.stderr is not None
    assert any("loss" in line for line in caller.stderr)
    caller.kill()
    caller.communicate()
    assert not psutil.wait_procs(left(slurm), timeout=20)[1]


def test_no_slurm_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RefusalError, match=r"launch 'slurm': Slurm's commands are not on PATH: sbatch.*and 1 more"):
        run(tree(launch={"use": "slurm"}))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"processes": 3, "nodes": 2}, "3 processes are not as many on each of 2 nodes"),
        ({"extra": {"gpus-per-node": 4}}, "'gpus-per-node' follows from the launcher's own options"),
    ],
)
def test_options_that_contradict_each_other(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        SlurmOptions.model_validate(options)


@pytest.mark.slow
def test_the_printed_script_runs_without_a_caller(slurm: Path, tmp_path: Path) -> None:
    recipe = laid(classification(tmp_path), "ddp", 2)
    launch = job(slurm, processes=2, setup=["export OMP_NUM_THREADS=1"])
    (tmp_path / "recipe.json").write_text(json.dumps({**recipe, "launch": launch, "output": str(tmp_path / "run")}))
    command = [sys.executable, "-m", "slimpajama", "launch", str(tmp_path / "recipe.json"), "--print"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (tmp_path / "job.sh").write_text(shown)
    taken = subprocess.run(["sbatch", str(tmp_path / "job.sh")], capture_output=True, text=True, check=True)
    assert taken.stdout.startswith("Submitted batch job ")
    while slurm_fake.jobs(slurm)[0]["state"] in ("PENDING", "RUNNING"):
        threading.Event().wait(0.1)
    assert slurm_fake.jobs(slurm)[0]["state"] == "COMPLETED"
    assert (tmp_path / "run" / "model.safetensors").is_file()
