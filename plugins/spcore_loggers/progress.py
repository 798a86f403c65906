"""Logger `progress`: a bar on stderr where that is a terminal, else a few plain lines."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from spcore.interfaces.logger import Checkpointed, Evaluated, Event, Logger, RunEnded, RunStarted, Step, Warned
from spcore_loggers.options import ProgressOptions


class Progress(Logger):
    """One console of its own, so that two runs in two threads do not meet."""

    def __init__(self, options: ProgressOptions, stream: IO[str] | None = None) -> None:
        self.options = options
        self._console = Console(file=stream or sys.stderr, highlight=False, soft_wrap=True)
        self._bar: Bar | None = None
        self._task: TaskID | None = None

    def start(self, output: Path | None, recipe: Mapping[str, Any]) -> None:
        """See `Logger.start`."""

    def event(self, event: Event) -> None:
        """See `Logger.event`."""
        if isinstance(event, RunStarted):
            self._started(event)
        elif isinstance(event, Step):
            self._step(event)
        elif isinstance(event, Evaluated):
            figures = "  ".join(f"{name} {short(value)}" for name, value in event.metrics.items())
            self._line(f"step {event.step}  evaluation: {figures}{'  (best so far)' if event.best else ''}")
        elif isinstance(event, Warned):
            self._line(f"note: {event.message}")
        elif isinstance(event, Checkpointed):
            self._line(f"step {event.step}  {event.kind} saved: {event.path}")
        elif isinstance(event, RunEnded):
            self.close()
            why = f": {event.error}" if event.error else ""
            self._line(f"{event.status} at step {event.step} after {event.seconds:.1f} s, {event.rows_per_second:.0f} rows/s{why}")

    def _started(self, event: RunStarted) -> None:
        facts = "; ".join(f"{name}: {value}" for name, value in event.facts.items())
        begun = f", going on after step {event.start_step}" if event.start_step else ""
        self._line(f"{event.steps} steps over {event.rows} rows, {event.parameters / 1e6:.1f} M parameters{begun}; {facts}")
        if self._console.is_terminal:
            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
            self._bar = Bar(*columns, console=self._console, transient=True)
            self._task = self._bar.add_task("", total=event.steps, completed=event.start_step)
            self._bar.start()

    def _step(self, event: Step) -> None:
        words = f"loss {event.loss:.4f}  lr {event.lr:.2e}  {event.rows_per_second:.0f} rows/s  {duration(event.eta)} left"
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=event.step, description=words)
        elif self.options.every and event.step % self.options.every == 0:
            self._line(f"step {event.step}  {words}")

    def _line(self, text: str) -> None:
        self._console.print(text, markup=False)

    def close(self) -> None:
        """See `Logger.close`."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def short(value: float) -> str:
    """A figure in a few characters."""
    return str(int(value)) if value == int(value) and abs(value) < 1e9 else f"{value:.4g}"


def duration(seconds: float) -> str:
    """Seconds as h:mm:ss or m:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
