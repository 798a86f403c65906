"""A plugin for tests: launcher `warm` runs in processes that are there already, so that a layout costs its steps alone."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from exact.processes import Processes
from spcore.components import Component
from spcore.hooks import hookimpl
from spcore.interfaces.launcher import Control, Emit, Launcher, RunResult, RunSpec
from spcore.interfaces.logger import Event
from spcore.interfaces.strategy import Place, Refusal
from spcore.launching.worker import spec_to_json
from spcore.session import run_rank

SPCORE_API = "1.0"
READY: dict[int, Processes] = {}
"""World size -> its processes, put here by the tests."""
AROUND: list[str] = []
"""What the next runs in processes are made in, see `Processes.launch`; the last counts."""


class WarmOptions(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    processes: int = 1


class Warm(Launcher):
    def __init__(self, options: WarmOptions) -> None:
        self.processes = options.processes

    def check(self, spec: RunSpec) -> list[Refusal]:
        return []

    def launch(self, spec: RunSpec, events: Emit, control: Control) -> RunResult:
        if self.processes == 1:
            return run_rank(spec, Place(), events, control)
        answer = READY[self.processes].launch(spec_to_json(spec), around=AROUND[-1] if AROUND else None)
        for event in answer["events"]:
            events(Event.from_json(event))
        return RunResult(**answer["result"])


@hookimpl
def spcore_components() -> list[Component]:
    return [Component("launcher", "warm", "parity.warm:Warm", "Runs at once", options="parity.warm:WarmOptions")]
