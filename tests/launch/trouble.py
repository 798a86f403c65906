"""A plugin for tests: schedule `trouble` makes one rank of a run fail at a step, in a way that options name."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from spcore.components import Component
from spcore.errors import RunError
from spcore.hooks import hookimpl
from spcore.interfaces.optimizer import Schedule

SPCORE_API = "1.0"


class TroubleOptions(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    what: Literal["none", "raise", "refuse", "kill", "leave", "print"] = "none"
    step: int = Field(3, ge=0)
    rank: int = Field(1, ge=0)
    once: str | None = None


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
        Component("schedule", "trouble", "launch.trouble:Trouble", "Fails", options="launch.trouble:TroubleOptions"),
    ]
