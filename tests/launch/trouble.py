"""A plugin for tests: schedule `trouble` makes one rank of a run fail at a step, in a way that options name; task `trouble-prompts` makes
one fail while it generates."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from spcore.components import Component
from spcore.errors import RunError
from spcore.hooks import hookimpl
from spcore.interfaces.dataset import Row
from spcore.interfaces.optimizer import Schedule
from spcore.interfaces.task import BoundTask
from spcore.testing.fakes import FakePrompted

SPCORE_API = "1.0"


class TroubleOptions(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    what: Literal["none", "raise", "refuse", "kill", "leave", "print"] = "none"
    step: int = Field(3, ge=0)
    rank: int = Field(1, ge=0)
    once: str | None = None


class TroublePromptsOptions(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    what: Literal["raise", "kill"] = "raise"


class TroublePrompts(FakePrompted):
    """On rank 1 the first answer is the last."""

    def __init__(self, options: TroublePromptsOptions) -> None:
        self.options = options

    def bind(self, *args: Any, **named: Any) -> BoundTask:
        bound = super().bind(*args, **named)
        if os.environ.get("RANK") == "1":
            bound.answer = self._answer  # type: ignore[attr-defined]
        return bound

    def _answer(self, row: Row, text: str) -> dict[str, Any]:
        if self.options.what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise ValueError("trouble while it generates")


class Trouble(Schedule):
    """Constant; `once` names a file that is made at the first trouble and prevents a second."""

    def __init__(self, options: TroubleOptions) -> None:
        self.options = options

    def factor(self, step: int, total: int) -> float:
        o = self.options
        if step == o.step and int(os.environ.get("RANK", "0")) == o.rank and not (o.once and Path(o.once).exists()):
            if o.once:
                Path(o.once).touch()
            self._make()
        return 1.0

    def _make(self) -> None:
        if self.options.what == "raise":
            raise ValueError("trouble of a plugin's own")
        if self.options.what == "refuse":
            raise RunError("trouble that is known", hint="Do something else")
        if self.options.what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.options.what == "leave":
            os._exit(7)
        if self.options.what == "print":
            print("said by a plugin", flush=True)


@hookimpl
def spcore_components() -> list[Component]:
    return [
        Component(
            "task",
            "trouble-prompts",
            "launch.trouble:TroublePrompts",
            "Fails",
            options="launch.trouble:TroublePromptsOptions",
        ),
        Component("schedule", "trouble", "launch.trouble:Trouble", "Fails", options="launch.trouble:TroubleOptions"),
    ]
