"""Launcher `inline`: a run in the caller's own process."""

from __future__ import annotations

from spcore.interfaces.launcher import Control, Emit, Launcher, RunResult, RunSpec
from spcore.interfaces.strategy import Place, Refusal
from spcore_torch.options import InlineOptions


class Inline(Launcher):
    """Starts nothing."""

    processes = 1

    def __init__(self, options: InlineOptions) -> None:
        self.options = options

    def check(self, spec: RunSpec) -> list[Refusal]:
        """Refuses strategies that need processes of their own."""
        size = spec.layout.world_size
        if size != 1:
            why = f"the layout has {size} processes, it runs one"
        elif not spec.inline:
            why = "the strategy needs a process of its own"
        else:
            return []
        return [Refusal("launch 'inline'", why, "use launch=local and launch.processes")]

    def launch(self, spec: RunSpec, events: Emit, control: Control) -> RunResult:
        """See `Launcher.launch`. What the run raises is raised as it is."""
        from spcore.session import run_rank

        return run_rank(spec, Place(), events, control)
