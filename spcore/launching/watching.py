"""The caller's side of a run in other processes: passes on what they tell, and says why they failed."""

from __future__ import annotations

import logging
import signal
import time
from dataclasses import dataclass, field
from typing import Any

from spcore import errors
from spcore.errors import RankError, SlimPajamaError
from spcore.interfaces.launcher import Control, Emit, RunResult
from spcore.interfaces.logger import Event, Warned
from spcore.launching.channel import Hub

POLL = 0.1
"""Seconds between two looks at the caller's wish to stop."""


@dataclass
class Watch:
    """What the caller's process knows of a run's. events: told what they tell. attempt: the last that was heard of. exited: rank -> code
    of the processes of that attempt that have left, as far as what keeps them says so."""

    hub: Hub
    events: Emit
    control: Control
    attempt: int = 0
    step: int | None = None
    result: RunResult | None = None
    exited: dict[int, int] = field(default_factory=dict)
    failures: list[tuple[int, dict[str, Any]]] = field(default_factory=list)

    def listen(self) -> bool:
        """Take in what has come. Returns whether something had."""
        received = self.hub.receive(POLL)
        for rank, attempt, message in received:
            if attempt > self.attempt:
                said = str(self.error({})).splitlines()[0] if self.failures else "a process died"
                self.again(attempt, said)
            if attempt == self.attempt:
                self._heard(rank, message)
        return bool(received)

    def ask(self) -> None:
        """Pass on the caller's wish to stop."""
        if self.hub.said is None and self.control.is_set():
            self.hub.say("stop")

    def again(self, attempt: int, why: str) -> None:
        """A further attempt begins. why: the one before ended, a clause for people."""
        self.attempt, self.failures, self.exited, self.result, self.hub.greeted = attempt, [], {}, None, False
        self.events(Warned(time=time.time(), message=f"{why}; started again from the last checkpoint", step=self.step))

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
        elif "exited" in message:
            self.exited.update((int(rank), code) for rank, code in message["exited"].items())
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
