"""Logger `progress`: a bar on stderr where that is a terminal, else a few plain lines."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO, cast

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TaskID
from rich.progress import Progress as Bar
from rich.table import Column
from rich.text import Text

from spcore.interfaces.logger import Checkpointed, Evaluated, Event, Logger, RunEnded, RunStarted, Step, Warned
from spcore_loggers.figures import count, duration, rounded, short
from spcore_loggers.options import ProgressOptions
from spcore_loggers.stream import LastingStream

_WIDE = 80
"""Characters a terminal must have for the bar itself; a narrower one shows only the counter and the figures."""


class Progress(Logger):
    """On a terminal: a bar with loss, lr, rows a second and the time left; above it start, evaluations, checkpoints and
    warnings. Elsewhere only start, evaluations, warnings and end, and every `every`-th step.

    It writes through a console of its own and leaves sys.stdout and sys.stderr as they are, so that runs in several
    threads do not meet. stream: None for the stderr that `start` finds.
    """

    terminal = True

    def __init__(self, options: ProgressOptions, stream: IO[str] | None = None) -> None:
        self._every = options.every
        self._stream = stream
        self._console: Console | None = None
        self._bar: Bar | None = None
        self._task = TaskID(0)
        self._model = ""

    def start(self, output: Path | None, recipe: Mapping[str, object]) -> None:
        """See `Logger.start`."""
        self.close()
        self._model = ""
        stream = self._stream or sys.stderr
        if stream is None:  # a process without a console
            self._console = None
            return
        # rich would take FORCE_COLOR, which CI sets, for a terminal, and draw bars into a log
        terminal = not stream.closed and stream.isatty()
        lasting = cast(IO[str], LastingStream(stream))
        self._console = Console(file=lasting, force_terminal=terminal, force_jupyter=False, highlight=False)

    def event(self, event: Event) -> None:
        """See `Logger.event`."""
        if isinstance(event, Step):
            self._step(event)
        elif isinstance(event, RunStarted):
            self._line(started(event))
            self._open_bar(event)
        elif isinstance(event, Evaluated):
            self._line(evaluated(event), "bold")
        elif isinstance(event, Warned):
            self._line(f"warning: {event.message}", "yellow")
        elif isinstance(event, Checkpointed):
            self._saved(event)
        elif isinstance(event, RunEnded):
            self.close()
            self._line(ended(event, self._model), "red" if event.status == "failed" else "green")

    def close(self) -> None:
        """See `Logger.close`."""
        if self._bar is not None:
            bar, self._bar = self._bar, None
            bar.stop()

    def _open_bar(self, event: RunStarted) -> None:
        self.close()
        if self._console is None or not self._console.is_terminal or self._console.is_dumb_terminal:
            return
        columns: list[ProgressColumn] = [MofNCompleteColumn(table_column=Column(no_wrap=True)), FiguresColumn()]
        if self._console.width >= _WIDE:
            columns.insert(0, BarColumn(bar_width=16, table_column=Column(no_wrap=True)))
        self._bar = Bar(*columns, console=self._console, transient=True, redirect_stdout=False, redirect_stderr=False)
        self._task = self._bar.add_task("", total=event.steps, completed=event.start_step)
        self._bar.start()

    def _step(self, event: Step) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=event.step, description=stepped(event))
        elif self._every and event.step % self._every == 0:
            self._line(f"step {event.step}  {stepped(event)}")

    def _saved(self, event: Checkpointed) -> None:
        if event.kind == "model":
            self._model = event.path  # told at the end
        elif self._bar is not None:
            self._line(f"step {event.step}  {event.kind} saved: {event.path}", "dim")

    def _line(self, text: str, style: str = "") -> None:
        if self._console is not None:
            # as Text: no markup, no :emoji:; soft wrap: a log's lines are as long as they are
            self._console.print(Text(" ".join(text.splitlines()), style), soft_wrap=True)


class FiguresColumn(ProgressColumn):
    """A step's figures on one line. In a narrow terminal they are cut and the counter stays: rich narrows columns that may
    wrap first, so this one may and its text does not."""

    def render(self, task: Task) -> Text:
        """See rich's `ProgressColumn.render`."""
        return Text(task.description, no_wrap=True, overflow="ellipsis")


def started(event: RunStarted) -> str:
    """The line for a run's start."""
    parts = [f"{event.steps:,} steps"]
    if event.rows is not None:
        parts[0] += f" over {event.rows:,} rows"
        if event.features is not None and event.features != event.rows:
            parts[0] += f" ({event.features:,} features)"
    trained = f" ({count(event.trainable)} trained)" if event.trainable != event.parameters else ""
    parts.append(f"{count(event.parameters)} parameters{trained}")
    if event.start_step:
        parts.append(f"going on after step {event.start_step:,}")
    facts = "; ".join(f"{name}: {value}" for name, value in event.facts.items())
    return ", ".join(parts) + (f"; {facts}" if facts else "")


def stepped(event: Step) -> str:
    """A step's figures."""
    left_out = "" if event.applied else "  left out"
    return f"loss {short(event.loss)}  lr {event.lr:.2e}  {rounded(event.rows_per_second)} rows/s  {duration(event.eta)} left{left_out}"


def evaluated(event: Evaluated) -> str:
    """The line for an evaluation."""
    figures = "".join(f"  {name} {short(value)}" for name, value in event.metrics.items())
    return f"step {event.step}{figures}{'  (best so far)' if event.best else ''}"


def ended(event: RunEnded, model: str) -> str:
    """The line for a run's end. model: where it was saved, "" where it was not."""
    rate = f", {rounded(event.rows_per_second)} rows/s" if event.rows_per_second else ""
    saved = f"; saved in {model}" if model else ""
    why = f": {event.error}" if event.error else ""
    return f"{event.status} at step {event.step} after {duration(event.seconds)}{rate}{saved}{why}"
