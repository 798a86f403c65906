"""Progress bars of libraries, for downloads and conversions, and of the core's own long work: shown on a terminal, and never round a run that shows none of its own."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spcore.components import Registry
    from spcore.recipe import Recipe

_SILENT: ContextVar[bool] = ContextVar("slimpajama-silent", default=False)
_LOCK = threading.Lock()
_OFF: dict[object, int] = {}
"""Libraries, by their switch, that are silent for so many callers."""


def on_terminal() -> bool:
    """Whether somebody sees bars at all."""
    return sys.stderr is not None and sys.stderr.isatty()


@contextlib.contextmanager
def silent(wanted: bool = True) -> Iterator[None]:
    """No library shows a bar for what is done inside, in this thread."""
    token = _SILENT.set(wanted or _SILENT.get())
    try:
        yield
    finally:
        _SILENT.reset(token)


def terminal_loggers(names: Iterable[str], registry: Registry) -> list[str]:
    """Those of some loggers that show a run on the terminal."""
    return [name for name in names if registry.load("logger", name).terminal]


def shows_progress(recipe: Recipe, registry: Registry) -> bool:
    """Whether a run shows its progress."""
    return bool(terminal_loggers((part.use for part in recipe.loggers), registry))


@contextlib.contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar for work of the core's own, silent where libraries' are; gives what is told how much of `total` is done."""
    if not on_terminal() or _SILENT.get():
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)


@contextlib.contextmanager
def of_library(off: Callable[[], None], on: Callable[[], None], are_off: Callable[[], bool]) -> Iterator[None]:
    """Round a library's work: its bars are off unless they are wanted, and afterwards as they were. Threads may overlap."""
    if on_terminal() and not _SILENT.get():
        yield
        return
    with _LOCK:
        held = _OFF.get(off, 0)
        if held or not are_off():
            off()
            _OFF[off] = held + 1
        ours = off in _OFF
    try:
        yield
    finally:
        with _LOCK:
            if ours:
                _OFF[off] -= 1
                if not _OFF[off]:
                    del _OFF[off]
                    on()
