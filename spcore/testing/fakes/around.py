"""A launcher that runs in the caller's process, a logger that keeps what it is told."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spcore.interfaces.launcher import Control, Emit, Launcher, RunResult, RunSpec
from spcore.interfaces.logger import Event, Logger
from spcore.interfaces.strategy import Place, Refusal


class FakeLauncher(Launcher):
    """Kind `launcher`. launched: specs it was given."""

    processes = 1

    def __init__(self) -> None:
        self.launched: list[RunSpec] = []

    def check(self, spec: RunSpec) -> list[Refusal]:
        """More than one process, and strategies that need their own, are refused."""
        if spec.layout.world_size == 1 and spec.inline:
            return []
        return [Refusal("launch 'fake'", "it runs one process, the caller's own", "use launch=local")]

    def launch(self, spec: RunSpec, events: Emit, control: Control) -> RunResult:
        """Run the one rank here."""
        from spcore.session import run_rank

        self.launched.append(spec)
        return run_rank(spec, Place(), events, control)


class FakeLogger(Logger):
    """Kind `logger`. started: (output, recipe); told: events; closed: how often."""

    def __init__(self) -> None:
        self.started: list[tuple[Path | None, Mapping[str, Any]]] = []
        self.told: list[Event] = []
        self.closed = 0

    def start(self, output: Path | None, recipe: Mapping[str, Any]) -> None:
        """Keep it."""
        self.started.append((output, recipe))

    def event(self, event: Event) -> None:
        """Keep it."""
        self.told.append(event)

    def close(self) -> None:
        """Count it."""
        self.closed += 1
