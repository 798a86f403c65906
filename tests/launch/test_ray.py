"""Launcher `ray` on a real Ray: of a run's own, and a cluster of two nodes on this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from launch.test_local import losses, run, tree
from spcore.errors import RankError, RefusalError, RunError
from spcore.interfaces.logger import Event, RunStarted, Step, Warned

CLUSTER = """
import sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
cluster.add_node(num_cpus=1)
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Address of two nodes, a processor each, kept by a process of their own."""
    command = [sys.executable, "-c", CLUSTER]
    keeper = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert keeper.stdout is not None
    yield next(line.strip() for line in keeper.stdout if line[:1].isdigit())
    keeper.communicate("")


def on(cluster: str, **options: Any) -> dict[str, Any]:
    return {"use": "ray", "address": cluster, "nodes": 2, "host": "127.0.0.1", **options}


def of_rays() -> list[psutil.Process]:
    """Processes of a run on Ray: ours, not Ray's own."""
    found = []
    for process in psutil.process_iter():
        try:
            if "TORCHELASTIC_RESTART_COUNT" in process.environ() and "RAY_JOB_ID" in process.environ():
                found.append(process)
        except (psutil.AccessDenied, psutil.NoSuchProcess):
            continue
    return found


def test_a_ray_of_its_own(capfd: pytest.CaptureFixture[str]) -> None:
    environment, handlers = dict(os.environ), [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    before = {process.pid for process in psutil.process_iter()}
    local, events = list[Event](), list[Event]()
    run(tree(), local)
    result = run(tree(launch={"use": "ray"}), events)
    assert (result.steps, result.cancelled) == (6, False)
    assert losses(events) == losses(local)
    assert dict(os.environ) == environment
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert "ray" not in sys.modules
    assert capfd.readouterr().out == ""
    new = [p for p in psutil.process_iter() if p.pid not in before and "raylet" in p.name()]
    assert not [p for p in new if psutil.Process().pid in {parent.pid for parent in p.parents()}], (
        "it ends with the run"
    )


@pytest.mark.slow
def test_a_ranks_own_error_is_shown(cluster: str) -> None:
    with pytest.raises(RankError, match="rank 1 failed at step 3: ValueError: trouble of a plugin's own") as caught:
        run(tree(trouble={"what": "raise"}, launch=on(cluster)))
    assert "in _make" in caught.value.traceback
    assert of_rays() == []


@pytest.mark.slow
def test_a_killed_rank_and_a_restart(cluster: str, tmp_path: Path) -> None:
    whole, events = list[Event](), list[Event]()
    run(tree(), whole)
    once = {"what": "kill", "step": 5, "once": str(tmp_path / "once")}
    recipe = tree(trouble=once, train={"save_every": 2}, output=tmp_path / "run", launch=on(cluster, max_restarts=1))
    assert run(recipe, events).steps == 6
    first, again = (e.start_step for e in events if isinstance(e, RunStarted))
    assert first == 0
    assert again in (2, 4), "that of step 4 is perhaps not written yet"
    assert losses(events) == losses(whole)
    warned = [e.message for e in events if isinstance(e, Warned)]
    assert any("SIGKILL" in line and "started again from the last checkpoint" in line for line in warned), warned


@pytest.mark.slow
def test_a_cancelled_run_saves(cluster: str, tmp_path: Path) -> None:
    cancel = threading.Event()

    def heard(event: Event) -> None:
        if isinstance(event, Step) and event.step == 2:
            cancel.set()

    result = run(tree(output=tmp_path / "run", train={"steps": 400}, launch=on(cluster)), on_event=heard, cancel=cancel)
    assert result.cancelled
    assert 2 <= result.steps < 400
    assert of_rays() == []


@pytest.mark.slow
def test_nodes_that_are_not_there(cluster: str) -> None:
    with pytest.raises(RunError, match=r"Ray has no 2 nodes with .*'CPU': 8.* within 1 s; it has .*'CPU': 2"):
        run(tree(launch=on(cluster, cpus_per_process=8, wait=1)))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"nodes": 2}, "launch.nodes 2: a Ray of the run's own is this machine alone; give launch.address"),
        ({"address": "ray://head:10001"}, "launch.address 'ray://head:10001': runs speak to the cluster itself"),
    ],
)
def test_what_it_cannot_do_is_refused(options: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(RefusalError, match=said):
        run(tree(launch={"use": "ray", **options}))
