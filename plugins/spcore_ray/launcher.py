"""Launcher `ray`: the processes of a run on a Ray cluster, or on a Ray of its own on this machine.

What speaks to Ray is a process of its own (`spcore_ray.driver`): to connect changes signal handlers, the environment and more of the process
that does, which is the caller's.
"""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from spcore.interfaces.launcher import Control, Emit, Launcher, RunResult, RunSpec
from spcore.interfaces.strategy import Refusal
from spcore.launching.channel import LOOPBACK
from spcore.launching.cluster import Content, Nodes, carried_out
from spcore.launching.worker import refusals
from spcore_ray.options import RayOptions

START = """
import json, sys
asked = json.loads(sys.stdin.readline())
sys.path[:] = asked["told"]["path"]
from spcore_ray.driver import drive
drive(asked)
"""
PORT = 6379
"""Ray's own."""


class Ray(Launcher):
    """An actor on each node keeps the processes there."""

    def __init__(self, options: RayOptions) -> None:
        self.options, self.processes = options, options.processes
        self.address = options.address or os.environ.get("RAY_ADDRESS") or None

    def check(self, spec: RunSpec) -> list[Refusal]:
        """Refuses several nodes where there is one, and addresses of other kinds."""
        found = refusals(spec, "ray", self.options.max_restarts)
        if self.address is None and self.options.nodes > 1:
            why = "a Ray of the run's own is this machine alone"
            found.append(Refusal(f"launch.nodes {self.options.nodes}", why, "give launch.address, or set RAY_ADDRESS"))
        if self.address is not None and "://" in self.address:
            why = "runs speak to the cluster itself, from one of its machines"
            found.append(
                Refusal(f"launch.address {self.address!r}", why, "give host:port, or submit it with `ray job submit`")
            )
        return found

    def launch(self, spec: RunSpec, events: Emit, control: Control) -> RunResult:
        """See `Launcher.launch`. Raises as `spcore.launching.cluster.carried_out`."""
        o = self.options
        host = o.host or (LOOPBACK if self.address is None else socket.gethostname())
        nodes = Nodes(o.nodes, o.processes // o.nodes, host, o.max_restarts, o.cpus_per_process)
        return carried_out(spec, events, control, nodes, self._started)

    def script(self, run: Sequence[str]) -> str:
        """What is typed on which machine."""
        if self.address is None:
            return shlex.join(run)
        head, _, port = self.address.partition(":")
        host = "HEAD" if head in ("auto", "local") else head
        return "\n".join(
            [
                "# on the first machine", f"ray start --head --port={port or PORT}",
                f"# on each of the other {self.options.nodes - 1}", f"ray start --address={host}:{port or PORT}",
                "# then, on the first", shlex.join(run), "",
            ]
        )  # fmt: skip

    def _started(self, told: Content) -> _Driver:
        o, count = self.options, self.options.processes // self.options.nodes
        needs: dict[str, Any] = {"CPU": o.cpus_per_process * count, **o.resources}
        if o.gpu:
            needs["GPU"] = count
        return _Driver({"told": dict(told), "address": self.address, "needs": needs, "nodes": o.nodes, "wait": o.wait})


class _Driver:
    """The process that speaks to Ray."""

    def __init__(self, asked: dict[str, Any]) -> None:
        self._why: str | None = None
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  # closed when the process has ended
        # A session of its own: Ctrl-C in a terminal is the caller's to judge. It ends when its input does.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", START],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=self._said, start_new_session=True,
            env={"RAY_USAGE_STATS_ENABLED": "0", **os.environ},  # it would report to its makers
        )  # fmt: skip
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asked).encode() + b"\n")
        self._process.stdin.flush()

    def over(self, *, soon: bool = False) -> str | None:
        """See `spcore.launching.cluster.Job`."""
        if self._why is None and self._process.poll() is not None:
            with self._said:
                self._said.seek(0)
                lines = self._said.read().decode(errors="replace").strip().splitlines()
            silent = f"the process that speaks to Ray left with exit code {self._process.returncode}"
            self._why = lines[-1] if lines else silent
        return self._why

    def end(self) -> None:
        """See `spcore.launching.cluster.Job`."""
        assert self._process.stdin is not None
        self._process.stdin.close()
