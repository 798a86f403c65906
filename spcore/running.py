"""Runs: a recipe carried out in its folder. Locks the folder, decides between a new run, a resumed one and a refusal, tells the
loggers, and starts the launcher.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from spcore.artifact import MANIFEST
from spcore.components import Registry
from spcore.errors import OutputError
from spcore.files import locked, write_text
from spcore.interfaces.launcher import Control, RunResult
from spcore.interfaces.logger import Event, Logger, RunEnded
from spcore.recipe import Recipe
from spcore.recipe_files import Text
from spcore.session import Session, assemble, create, run_spec

OnEvent = Callable[[Event], None]


def execute(
    recipe: Recipe,
    registry: Registry,
    *,
    overwrite: bool = False,
    on_event: OnEvent | None = None,
    cancel: Control | None = None,
) -> RunResult:
    """Carry out a recipe. on_event: told every event after the loggers. cancel: set it to stop at a step's end.

    Raises whatever `assemble` refuses, OutputError for a folder that cannot be used, RankError for a process that failed.
    """
    session = assemble(recipe, registry)
    with _folder(session, overwrite), _loggers(session) as loggers:

        def emit(event: Event) -> None:
            for logger in loggers:
                logger.event(event)
            if on_event is not None:
                on_event(event)

        return _launch(session, emit, cancel or threading.Event())


def _launch(session: Session, emit: OnEvent, cancel: Control) -> RunResult:
    began = time.monotonic()
    step, rows = 0, 0

    def watched(event: Event) -> None:
        nonlocal step, rows
        step, rows = getattr(event, "step", None) or step, rows + getattr(event, "rows", 0) * (event.name == "step")
        emit(event)

    def ended(status: str, error: str | None = None) -> None:
        seconds = time.monotonic() - began
        emit(
            RunEnded(
                time=time.time(),
                step=step,
                status=status,
                seconds=seconds,
                rows_per_second=rows / max(seconds, 1e-9),
                error=error,
            )
        )

    try:
        result = session.launcher.launch(run_spec(session), watched, cancel)
    except BaseException as error:
        ended("failed", f"{type(error).__name__}: {error}".splitlines()[0])
        raise
    ended("cancelled" if result.cancelled else "finished")
    return result


@contextlib.contextmanager
def _loggers(session: Session) -> Iterator[list[Logger]]:
    output = Path(session.recipe.output) if session.recipe.output else None
    with contextlib.ExitStack() as stack:
        loggers = []
        for part in session.recipe.loggers:
            logger: Logger = create(session.registry, "logger", part)
            stack.callback(logger.close)
            logger.start(output, session.recipe.to_json())
            loggers.append(logger)
        yield loggers


@contextlib.contextmanager
def _folder(session: Session, overwrite: bool) -> Iterator[None]:
    """Hold the run's folder; it then has `recipe.yaml`, the resolved recipe."""
    recipe = session.recipe
    if recipe.output is None:
        yield
        return
    folder = Path(recipe.output)
    with locked(folder):
        _prepare(folder, recipe, overwrite)
        write_text(folder / "recipe.yaml", recipe.to_yaml())
        yield


def _prepare(folder: Path, recipe: Recipe, overwrite: bool) -> None:
    """A new folder is used, an unfinished run of the same recipe goes on, anything else is refused or overwritten."""
    there = [p for p in folder.iterdir() if p.name != ".lock"]
    if not there:
        return
    saved = folder / "recipe.yaml"
    if not saved.is_file():
        raise OutputError(f"{folder}: not empty, and no run's folder", hint="Give another output")
    if overwrite:
        for path in there:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return
    if (folder / MANIFEST).is_file():
        raise OutputError(f"{folder}: a finished run is there", hint="Give another output, or --overwrite")
    difference = _difference(Text.read(saved).tree, json.loads(json.dumps(recipe.to_json())))
    if difference:
        raise OutputError(
            f"{folder}: an unfinished run of another recipe is there: {difference}",
            hint="Give another output, or --overwrite",
        )


def _difference(old: Any, new: Any, path: str = "") -> str | None:
    """The first place where two recipes differ, loggers and output aside: they do not change the result."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            if not path and key in ("loggers", "output"):
                continue
            found = _difference(old.get(key), new.get(key), f"{path}.{key}" if path else key)
            if found:
                return found
        return None
    return None if old == new else f"{path} is {old!r} there, {new!r} here"
