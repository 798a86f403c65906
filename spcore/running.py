"""Runs: a recipe carried out in its folder. Locks the folder, decides between a new run, a resumed one and a refusal, tells the
loggers, and starts the launcher.

A run's folder has `recipe.yaml`, the resolved recipe, and `run.json`: its format, and fingerprints of the data and the tokenizer.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import replace
from pathlib import Path
from typing import Any

from spcore import __version__
from spcore.artifact import MANIFEST, RUN
from spcore.bars import shows_progress, silent
from spcore.components import Registry
from spcore.errors import OutputError, SlimPajamaError
from spcore.files import (
    LEFTOVERS,
    LOCK,
    clear,
    disk_errors,
    locked,
    newer_format,
    read_sealed,
    remove,
    sealed_text,
    write_text,
)
from spcore.interfaces.launcher import Control, RunResult
from spcore.interfaces.logger import Event, Logger, RunEnded, Step
from spcore.recipe import Recipe, load_recipe
from spcore.session import Session, assemble, create, run_spec

OnEvent = Callable[[Event], None]
FORMAT = 1
SAVED = "recipe.yaml"
_PRINTS = {"data": "the data", "eval.data": "the evaluation data", "tokenizer": "the model's tokenizer"}
FREE = {
    "output", "loggers", "launch", "device", "strategy", "eval.batch_tokens", "train.micro_batch_size", "train.micro_batch_tokens",
    "train.save_every", "train.keep", "train.nonfinite", "train.workers",
}  # fmt: skip
"""What may differ when a run goes on: it does not change what is learned. So may where data lies,
as long as it is the same data, and evaluation, where it does not choose the step that is saved."""
log = logging.getLogger("slimpajama.running")


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
    with silent(not shows_progress(recipe, registry)):
        return _execute(assemble(recipe, registry), overwrite, on_event, cancel or threading.Event())


def _execute(session: Session, overwrite: bool, on_event: OnEvent | None, cancel: Control) -> RunResult:
    if not session.launcher.leads:  # another process keeps the folder and tells the loggers
        result = session.launcher.launch(run_spec(session), lambda event: None, cancel)
        return replace(result, leads=False)
    with _folder(session, overwrite), _loggers(session) as loggers:

        def emit(event: Event) -> None:
            for logger in loggers:
                logger.event(event)
            if on_event is not None:
                on_event(event)

        return _launch(session, emit, cancel)


def _launch(session: Session, emit: OnEvent, cancel: Control) -> RunResult:
    began = time.monotonic()
    step, rows = 0, 0

    def watched(event: Event) -> None:
        nonlocal step, rows
        step = getattr(event, "step", None) or step
        rows += event.rows if isinstance(event, Step) else 0
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
        try:
            ended("failed", f"{type(error).__name__}: {error}".splitlines()[0])
        except SlimPajamaError as other:  # a full disk fails the logger too; what ended the run is what is raised
            log.warning("%s", other.message)
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
    """Hold the run's folder, put in order what a crash left there, and say in it what runs there."""
    recipe = session.recipe
    if recipe.output is None:
        yield
        return
    folder = Path(recipe.output)
    with locked(folder):
        with disk_errors(folder):
            _prepare(folder, session, overwrite)
            clear(folder)
            clear(folder / "checkpoints")
        write_text(folder / SAVED, recipe.to_yaml())
        write_text(folder / RUN, sealed_text(_facts(session)))
        yield


def _facts(session: Session) -> dict[str, Any]:
    """What run.json says."""
    return {
        "format": FORMAT,
        "version": __version__,
        "data": session.train.fingerprint,
        "eval.data": session.eval.fingerprint if session.eval is not None else None,
        "tokenizer": session.plan.model.processor.fingerprint,
    }


def _prepare(folder: Path, session: Session, overwrite: bool) -> None:
    """A new folder is used, an unfinished run of the same recipe goes on, anything else is refused or overwritten."""
    there = [p for p in folder.iterdir() if p.name != LOCK and not p.name.startswith(LEFTOVERS)]
    if not there:
        return
    saved = folder / SAVED
    if not saved.is_file():
        raise OutputError(f"{folder}: not empty, and no run's folder", hint="Give another output")
    if overwrite:
        # The recipe goes last: what a crash leaves is still a run's folder, and no model.
        for path in sorted(there, key=lambda p: (p.name == SAVED, p.name != MANIFEST)):
            remove(path)
        return
    facts, known = _facts(session), _known(folder)
    changed = [name for name, value in facts.items() if name in _PRINTS and known.get(name, value) != value]
    difference = _changed(load_recipe(saved, registry=session.registry), session.recipe, known, changed)
    hint = "Give another output, or --overwrite"
    if (folder / MANIFEST).is_file():
        also = f", of another recipe: {difference}" if difference else ""
        raise OutputError(f"{folder}: a finished run is there{also}", hint=hint)
    if difference:
        raise OutputError(f"{folder}: an unfinished run of another recipe is there: {difference}", hint=hint)


def _known(folder: Path) -> dict[str, Any]:
    """run.json of a folder; {} where it has none. Raises OutputError for one that is damaged, or of a newer version."""
    file = folder / RUN
    try:
        known = read_sealed(file)
        newer = newer_format(known, FORMAT)
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise OutputError(f"{file}: cannot be read: {error}", hint="Give another output, or --overwrite") from error
    if newer:
        raise OutputError(f"{file}: {newer}", hint="Install that version, or give another output")
    return known


def _changed(old: Recipe, new: Recipe, known: Mapping[str, Any], changed: list[str]) -> str | None:
    """The first thing that makes two runs different, None where one can go on as the other."""
    free = set(FREE)
    if not (old.eval.keep_best or new.eval.keep_best):
        free.add("eval")
        changed = [name for name in changed if name != "eval.data"]
    for name, data in (("data", old.data), ("eval.data", old.eval.data)):
        if data is not None and name in known and name not in changed:
            free |= {f"{name}.{f'sources.{part}.' if part else ''}source" for part in data.parts}
    found = _difference(old.to_json(), new.to_json(), free)
    if found is None and changed:
        found = f"{_PRINTS[changed[0]]} has changed since"
    return found


def _difference(old: Any, new: Any, free: Set[str], path: str = "") -> str | None:
    """The first place where two recipes differ in what is not free."""
    if path in free:
        return None
    if isinstance(old, dict) and isinstance(new, dict):
        found = (_difference(old.get(k), new.get(k), free, f"{path}.{k}" if path else k) for k in {**old, **new})
        return next(filter(None, found), None)
    return None if old == new else f"{path} is {old!r} there, {new!r} here"
