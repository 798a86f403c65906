"""Launcher `local`: the processes of a run on this machine, kept by torch's elastic agent."""

from __future__ import annotations

import contextlib
import json
import logging
import signal
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spcore import errors
from spcore.errors import RankError, SlimPajamaError
from spcore.imports import undisturbed
from spcore.interfaces.launcher import Control, Emit, Launcher, RunResult, RunSpec
from spcore.interfaces.logger import Event, Warned
from spcore.interfaces.strategy import Refusal
from spcore_torch.channel import Hub
from spcore_torch.options import LocalOptions
from spcore_torch.worker import spec_to_json

POLL = 0.1
"""Seconds between two looks at the caller's wish to stop."""
START = """
import json, sys
with open(sys.argv[1], encoding="utf-8") as file:
    sys.path[:] = json.load(file)["path"]
from spcore_torch.worker import start
start(sys.argv[1])
"""
"""What a process runs: it finds this package wherever the caller has it from."""


class Local(Launcher):
    """Starts `processes` of them, again from the last checkpoint up to `max_restarts` times."""

    def __init__(self, options: LocalOptions) -> None:
        self.options, self.processes = options, options.processes

    def check(self, spec: RunSpec) -> list[Refusal]:
        """Refuses what child processes cannot have: parts without an import path."""
        found = []
        if not sys.executable:
            why = "this program has a Python of its own built in, and processes need the path of one (sys.executable)"
            found.append(Refusal("launch 'local'", why, "use launch=inline"))
        if spec.registry.local:
            why = (
                f"it cannot import what was registered by hand without an import path: {', '.join(spec.registry.local)}"
            )
            found.append(Refusal("launch 'local'", why, "put them into a module, or use launch=inline"))
        if self.options.max_restarts and not spec.recipe.get("train", {}).get("save_every"):
            why = "there would be no checkpoint to go on from"
            found.append(Refusal(f"launch.max_restarts {self.options.max_restarts}", why, "give train.save_every"))
        return found

    def launch(self, spec: RunSpec, events: Emit, control: Control) -> RunResult:
        """See `Launcher.launch`. Raises the child's error where it is one of ours, its cause a RankError; else RankError."""
        with undisturbed():
            from spcore_torch.agent import Agent

        with contextlib.closing(Hub()) as hub, tempfile.TemporaryDirectory(prefix="slimpajama-") as folder:
            file = Path(folder) / "run.json"
            content = {
                "spec": spec_to_json(spec), "address": hub.address, "token": hub.token, "path": [str(path) for path in sys.path],
                "level": logging.getLogger("slimpajama").getEffectiveLevel(),
            }  # fmt: skip
            file.write_text(json.dumps(content), encoding="utf-8")
            run = _Run(hub, events, control)
            command = [sys.executable, "-P", "-c", START, str(file)]
            agent = Agent(command, self.options.processes, self.options.max_restarts)
            agent.start()
            try:
                while agent.is_alive():
                    run.listen()
                    run.ask()
            finally:  # Ctrl-C a second time, or an error of a logger
                hub.say("end")
                _wait(hub, agent)
            run.listen()
        if agent.broken is not None:
            raise agent.broken
        return run.ended(agent.exit_codes)


def _wait(hub: Hub, agent: threading.Thread) -> None:
    """Until the processes are gone, which were told to go and are killed else: a program that ended before its agent would abort, and
    leave them behind. So further Ctrl-C change nothing."""
    interrupted: KeyboardInterrupt | None = None
    while agent.is_alive():
        try:
            hub.receive(POLL)
        except KeyboardInterrupt as again:
            interrupted = again
    if interrupted is not None:
        raise interrupted


@dataclass
class _Run:
    """What the parent knows of its processes."""

    hub: Hub
    events: Emit
    control: Control
    attempt: int = 0
    step: int | None = None
    result: RunResult | None = None
    failures: list[tuple[int, dict[str, Any]]] = field(default_factory=list)

    def listen(self) -> None:
        """Take in what has come."""
        for rank, attempt, message in self.hub.receive(POLL):
            if attempt > self.attempt:
                self._restarted(attempt)
            if attempt == self.attempt:
                self._heard(rank, message)

    def ask(self) -> None:
        """Pass on the caller's wish to stop."""
        if self.hub.said is None and self.control.is_set():
            self.hub.say("stop")

    def _restarted(self, attempt: int) -> None:
        said = str(self.error({})).splitlines()[0] if self.failures else "a process died"
        self.attempt, self.failures = attempt, []
        self.events(Warned(time=time.time(), message=f"{said}; started again from the last checkpoint", step=self.step))

    def _heard(self, rank: int, message: dict[str, Any]) -> None:
        if "event" in message:
            event = Event.from_json(message["event"])
            self.step = getattr(event, "step", None) or self.step
            self.events(event)
            self.ask()
            self.hub.answer(rank, self.attempt, "heard")
        elif "log" in message:
            told = message["log"]
            logging.getLogger(told["name"]).log(told["level"], "rank %d: %s", rank, told["message"])
        elif "result" in message:
            self.result = RunResult(**message["result"])
        elif "failed" in message or "lost" in message:
            if "failed" in message:
                self.failures.append((rank, message["failed"]))
            self.hub.say("abort", attempt=self.attempt)

    def ended(self, exit_codes: dict[int, int] | None) -> RunResult:
        """The run's result. exit_codes: rank -> code of the processes that failed, None where all left in order."""
        if exit_codes is None and self.result is not None:
            return self.result
        raise self.error(exit_codes or {})

    def error(self, exit_codes: dict[int, int]) -> Exception:
        """The failure that came first in cause, not in time: a rank's own error, else a process that died and said nothing, else the echo
        of that in another. Code 1 is that of processes which were told to go, -SIGTERM of those which had not heard."""
        own = [(rank, report) for rank, report in self.failures if not report["echo"]]
        died = [(rank, code) for rank, code in sorted(exit_codes.items()) if code not in (1, -signal.SIGTERM)]
        if not own and (died or not self.failures):
            rank, code = (died or sorted(exit_codes.items()) or [(0, 0)])[0]
            return RankError(rank, self.step, _death(code))
        rank, report = (own or self.failures)[0]
        remote = RankError(rank, self.step, report["traceback"])
        kind = getattr(errors, report["kind"] or "", None)
        if not (isinstance(kind, type) and issubclass(kind, SlimPajamaError)):
            return remote
        error = kind.__new__(kind)
        SlimPajamaError.__init__(error, report["message"], hint=report["hint"])
        error.__cause__ = remote
        return error


def _death(code: int) -> str:
    if code >= 0:
        return f"the process left with exit code {code} and said nothing"
    hint = "; out of memory, perhaps" if -code == signal.SIGKILL else ""
    return f"the process was killed by {signal.Signals(-code).name}{hint}"
