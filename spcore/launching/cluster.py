"""Processes on several machines: what keeps them there, and the caller's side, for launchers over a scheduler.

A launcher gives `carried_out` a function that starts `keep` once on every node, with what it is told as JSON. All else is here: nodes need
no folder in common for it and no ports of their own, but they reach the caller's machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from spcore.errors import RunCancelled, RunError
from spcore.imports import undisturbed
from spcore.interfaces.launcher import Control, Emit, RunResult, RunSpec
from spcore.interfaces.logger import Warned
from spcore.launching.channel import Channel, Hub
from spcore.launching.watching import POLL, Watch
from spcore.launching.worker import command, content_of

LEAVE = 5
"""Seconds that a process has between being told to go and being killed."""
GONE = 60
"""Seconds that a scheduler has to take a job away."""
Content = Mapping[str, Any]


@dataclass(frozen=True)
class Nodes:
    """Where a run's processes are: on so many nodes, as many on each. host: name or address under which the nodes reach the caller's
    machine. max_restarts: how often all are started again. threads: of each process; None: a fair part of its node's processors."""

    count: int
    processes: int
    host: str
    max_restarts: int = 0
    threads: int | None = None


class Job(Protocol):
    """`keep` on every node, under way or waiting for its turn."""

    def over(self, *, soon: bool = False) -> str | None:
        """None while it waits or runs; else how it ended, a clause for people. Asked often. soon: it should be over by now."""

    def end(self) -> None:
        """Take it away, also where it waits, and what it leaves behind. Does not wait until it is gone; may be called again."""


def carried_out(
    spec: RunSpec, events: Emit, control: Control, nodes: Nodes, start: Callable[[Content], Job]
) -> RunResult:
    """A run in a scheduler's job, and in further ones where it failed or its time was up, each from the last checkpoint. start: called
    in this process for each. Raises the error of the rank that failed, see `Watch.error`, RunError where a job ended and nobody said
    why, RunCancelled where one was taken back before it began."""
    with undisturbed():
        from torch.distributed import TCPStore

    with contextlib.closing(Hub(nodes.host)) as hub:
        run, size = Watch(hub, events, control), nodes.count * nodes.processes
        for attempt in range(nodes.max_restarts + 1):
            # Where the processes meet is on this machine: so the port is known before they are anywhere.
            store = TCPStore(nodes.host, 0, is_master=True, wait_for_workers=False)
            job = start(_told(spec, hub, (nodes.host, store.port), nodes, attempt))
            try:
                said = _followed(run, job, size)
                hub.say("abort", attempt=attempt)  # who is left of it
            except BaseException:  # Ctrl-C a second time, or an error of a logger
                hub.say("end")
                raise
            finally:
                _gone(job, run, size)
            result = run.result if said is None and not any(run.exited.values()) else None
            if result is not None and (not result.cancelled or control.is_set()):
                return result
            if control.is_set() or attempt == nodes.max_restarts:
                break
            run.again(attempt + 1, "the job's time was up" if result else str(_error(run, said)).splitlines()[0])
    if result is not None:
        return result  # its time was up, and it has saved
    raise _error(run, said)


def _error(run: Watch, said: str | None) -> Exception:
    """Why an attempt failed. said: see `_followed`."""
    if said is not None and not run.failures and not any(run.exited.values()):
        return RunError(said)
    return run.error(run.exited)


def _told(spec: RunSpec, hub: Hub, store: tuple[str, int], nodes: Nodes, attempt: int) -> dict[str, Any]:
    """What `keep` needs."""
    how = {"nodes": nodes.count, "processes": nodes.processes, "threads": nodes.threads, "attempt": attempt}
    return {**content_of(spec, hub), **how, "store": list(store)}


def _followed(run: Watch, job: Job, size: int) -> str | None:
    """Until all processes have left, None; or until the job is over without that: how."""
    while len(run.exited) < size:
        run.listen()
        run.ask()
        if run.control.is_set() and not run.hub.greeted:
            raise RunCancelled("stopped on request before a process had begun")
        over = job.over()
        if over is not None:
            while run.listen():  # what was said last may be on its way
                pass
            return over if len(run.exited) < size else None
    return None


def _gone(job: Job, run: Watch, size: int) -> None:
    """Until the job is away, which further Ctrl-C do not change: what is started again must find nobody in the run's folder. One whose
    processes have left is not taken away, but leaves by itself."""
    interrupted: KeyboardInterrupt | None = None
    began, ended = time.monotonic(), False
    while job.over(soon=True) is None and time.monotonic() - began < GONE:
        if not ended and (len(run.exited) < size or time.monotonic() - began > LEAVE):
            job.end()
            ended = True
        try:
            run.hub.receive(POLL)
        except KeyboardInterrupt as again:
            interrupted = again
    job.end()
    if job.over(soon=True) is None:
        message = f"the scheduler has not said within {GONE} s that the job is gone; its processes leave by themselves"
        run.events(Warned(time=time.time(), message=message, step=run.step))
    if interrupted is not None:
        raise interrupted


def keep(told: Content, node: int, stopped: Callable[[Callable[[], None]], None] = lambda stop: None) -> dict[int, int]:
    """On a node: start its processes, and see that all leave when one fails, the run is ended or the caller is gone. stopped: called with
    a function that asks them to save and leave. Returns rank -> exit code, 1 for those that were killed here; the caller is told so."""
    count, first = told["processes"], node * told["processes"]
    with tempfile.TemporaryDirectory(prefix="slimpajama-") as folder, ThreadPoolExecutor(count) as waiting:
        file = Path(folder) / "run.json"
        file.touch(0o600)
        file.write_text(json.dumps(dict(told)), encoding="utf-8")
        started = {
            first + n: subprocess.Popen(command(file), env=_environment(told, first + n, n)) for n in range(count)
        }
        killed = set[int]()

        def kill() -> None:
            for rank, process in started.items():
                if process.poll() is None:
                    killed.add(rank)
                    process.kill()

        def stop() -> None:
            for process in started.values():
                if process.poll() is None:
                    process.terminate()

        def leave(code: int = 0) -> None:
            """The processes are told the same."""
            timer = threading.Timer(LEAVE, kill)
            timer.daemon = True
            timer.start()

        stopped(stop)
        try:
            channel = Channel(tuple(told["address"]), told["token"], -1 - node, told["attempt"], leave)
            ends = {waiting.submit(process.wait) for process in started.values()}
            while ends:
                done, ends = wait(ends, return_when=FIRST_COMPLETED)
                if any(end.result() for end in done):
                    leave()
        finally:
            kill()
        codes = {rank: 1 if rank in killed else process.wait() for rank, process in started.items()}
        with contextlib.suppress(OSError):  # the caller is gone
            channel.say({"exited": codes})
            channel.say({"bye": 1})
        return codes


def _environment(told: Content, rank: int, local_rank: int) -> dict[str, str]:
    """The variables of a process that torch's process groups read."""
    host, port = told["store"]
    named = {
        "RANK": rank, "LOCAL_RANK": local_rank, "WORLD_SIZE": told["nodes"] * told["processes"], "LOCAL_WORLD_SIZE": told["processes"],
        "MASTER_ADDR": host, "MASTER_PORT": port, "TORCHELASTIC_USE_AGENT_STORE": True, "TORCHELASTIC_RESTART_COUNT": told["attempt"],
    }  # fmt: skip
    threads = {"OMP_NUM_THREADS": str(told["threads"])} if told["threads"] else {}
    return {**os.environ, **{name: str(value) for name, value in named.items()}, **threads}
