"""Launcher `local`: the processes of a run on this machine, kept by torch's elastic agent."""

from __future__ import annotations

import contextlib
import json
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from spcore.imports import undisturbed
from spcore.interfaces.launcher import Control, Emit, Launcher, RunResult, RunSpec
from spcore.interfaces.strategy import Refusal
from spcore.launching.channel import Hub
from spcore.launching.watching import POLL, Watch
from spcore.launching.worker import command, content_of, refusals
from spcore_torch.env import torchrun
from spcore_torch.options import LocalOptions


class Local(Launcher):
    """Starts `processes` of them, again from the last checkpoint up to `max_restarts` times."""

    scripts_all = True

    def __init__(self, options: LocalOptions) -> None:
        self.options, self.processes = options, options.processes

    def check(self, spec: RunSpec) -> list[Refusal]:
        """Refuses what child processes cannot have."""
        return refusals(spec, "local", self.options.max_restarts)

    def launch(self, spec: RunSpec, events: Emit, control: Control) -> RunResult:
        """See `Launcher.launch`. Raises the child's error where it is one of ours, its cause a RankError; else RankError."""
        with undisturbed():
            from spcore_torch.agent import Agent

        with contextlib.closing(Hub()) as hub, tempfile.TemporaryDirectory(prefix="slimpajama-") as folder:
            file = Path(folder) / "run.json"
            file.write_text(json.dumps(content_of(spec, hub)), encoding="utf-8")
            run = Watch(hub, events, control)
            agent = Agent(command(file), self.options.processes, self.options.max_restarts)
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

    def script(self, run: Sequence[str]) -> str:
        """See `Launcher.script`: torchrun."""
        restarts = [f"--max-restarts={self.options.max_restarts}"] if self.options.max_restarts else []
        return torchrun(["--standalone", *restarts], self.processes, run)


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
