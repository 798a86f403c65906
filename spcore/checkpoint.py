"""Training state on disk: whole or not at all, checksummed, found by reading manifests, pruned.

A checkpoint is the folder `step-00000500`: the engine's files, `progress.json`, and `manifest.json` with every file's size and
checksum, written last. It is made in a temporary folder, synced, and renamed into place; older ones are deleted only after
the new one is whole.
"""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from spcore import __version__
from spcore.errors import CheckpointError, OutputError
from spcore.files import (
    WRITING,
    alone,
    clear,
    disk_errors,
    fault,
    make_folder,
    newer_format,
    put_text,
    read_sealed,
    reason,
    remove,
    replace_folder,
    restore_all,
    sealed_files,
    sealed_text,
    sync_file,
    sync_folder,
)
from spcore.interfaces.strategy import Pending

FORMAT = 2
"""2: files of several ranks may each hold a part of a tensor. 1, where one held everything, is read too."""
MANIFEST = "manifest.json"
log = logging.getLogger("slimpajama.checkpoint")


class Shared:
    """A save that all ranks make. Each asks for its own part; that all are through, they find out together (`Trainer`), and then the
    writer's thread, which makes the checkpoint whole, hears of it."""

    def __init__(self, own: Pending) -> None:
        self.own = own
        self._known, self._whole = threading.Event(), False

    def told(self, whole: bool) -> None:
        """Every rank has written; or the run ends before that is known."""
        self._whole = whole
        self._known.set()

    def wait(self) -> None:
        """Return when every rank has written. Raises OutputError where that will not be known."""
        self._known.wait()
        if not self._whole:
            raise OutputError("a checkpoint was not finished: the run ended while processes were writing it")


class CheckpointStore:
    """The checkpoints of a run. keep: how many."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder, keep
        self._sealing: Future[None] | None = None

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step is written."""
        return self.folder / f"step-{step:08d}"

    def _found(self) -> list[tuple[int, Path]]:
        """(step, folder) in order of step, whatever the width of the number."""
        if not self.folder.is_dir():
            return []
        named = ((re.fullmatch(r"step-(\d+)", p.name), p) for p in self.folder.iterdir() if p.is_dir())
        return sorted((int(match.group(1)), path) for match, path in named if match)

    def steps(self) -> list[int]:
        """Steps that have a folder, in order."""
        return [step for step, _ in self._found()]

    def latest(self) -> Path | None:
        """The last whole checkpoint; damaged ones are named in the log and passed over. None where there is none.

        Raises CheckpointError where there are checkpoints but none is whole, and for one of a newer format.
        """
        restore_all(self.folder)
        problems = []
        for _, path in reversed(self._found()):
            try:
                verify(path)
                return path
            except _Newer as error:
                raise CheckpointError(error.message, hint=error.hint) from None  # a kind that every process knows
            except CheckpointError as error:
                problems.append(error.message)
                log.warning("%s", error.message)
        if problems:
            raise CheckpointError(
                f"no whole checkpoint in {self.folder}: {problems[0]}", hint="Start anew with --overwrite"
            )
        return None

    @contextlib.contextmanager
    def writing(self, step: int, writer: bool, *, later: list[Callable[[], None]] | None = None) -> Iterator[Path]:
        """A folder to write step's state into; on leaving, the writer makes it whole and prunes. The name of the temporary
        folder is the same on every rank. later: that goes on in a thread of its own until `settled`, after these calls, to which
        the caller may add until it leaves. Raises OutputError."""
        work = self.folder / f"{WRITING}{step:08d}"
        if not writer:
            with disk_errors(work):
                yield work
            return
        self.settled()
        make_folder(self.folder)
        with contextlib.ExitStack() as held:
            held.enter_context(alone(self.folder))
            with disk_errors(work):
                clear(self.folder)
                work.mkdir()
                held.push(_dropping(work))
                with disk_errors(work):  # in here it can still see which file was being written
                    yield work
            rest = held.pop_all()
            if later is None:
                self._seal(rest, work, step)
                return
            pool = ThreadPoolExecutor(1, "checkpoint")
            self._sealing = pool.submit(self._seal, rest, work, step, later)
            pool.shutdown(wait=False)

    def settled(self, *, wait: bool = True) -> bool:
        """Whether the checkpoint written last, if any, is whole. Raises the OutputError that its rest met, once. wait: until it is over."""
        sealing = self._sealing
        if sealing is None:
            return True
        if not wait and not sealing.done():
            return False
        self._sealing = None
        sealing.result()
        return True

    def _seal(
        self, held: contextlib.ExitStack, work: Path, step: int, first: Sequence[Callable[[], None]] = ()
    ) -> None:
        """Make a written folder whole, in its place; then let go of what was held for it."""
        with held, disk_errors(work):
            for call in first:
                call()
            self._finish(work, step)
            self._prune(step)

    def _finish(self, work: Path, step: int) -> None:
        """The manifest comes last: what has one is whole."""
        files = sealed_files(work, "xxh3_128")
        content = {"format": FORMAT, "version": __version__, "step": step, "files": files}
        put_text(work / MANIFEST, sealed_text(content))
        sync_file(work / MANIFEST)
        sync_folder(work)
        replace_folder(work, self.path(step))

    def _prune(self, step: int) -> None:
        """Delete old ones. Those of later steps were passed over as damaged: they must not count as kept."""
        upto = [path for at, path in self._found() if at <= step and path != self.path(step)]
        for old in upto[: max(0, len(upto) + 1 - self.keep)]:
            try:
                remove(old)
            except OSError as error:  # the new one is whole: no reason to end a run
                log.warning("%s: an old checkpoint that cannot be deleted: %s", old, reason(error))


def _dropping(work: Path) -> Callable[[Any, Any, Any], None]:
    """An exit that deletes a folder where what it was for has failed."""

    def exit_(kind: Any, error: Any, trace: Any) -> None:
        if kind is not None:
            shutil.rmtree(work, ignore_errors=True)

    return exit_


class _Newer(CheckpointError):
    """A checkpoint of a format that this version does not read: passing over it would lose it."""


def verify(folder: Path) -> None:
    """Check a checkpoint against its manifest. Raises CheckpointError that names the file."""
    manifest = folder / MANIFEST
    try:
        content = read_sealed(manifest)
        newer = newer_format(content, FORMAT)
    except FileNotFoundError:
        raise CheckpointError(f"{manifest}: missing; the checkpoint is not whole") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{manifest}: cannot be read: {error}") from error
    if newer:
        raise _Newer(f"{manifest}: {newer}", hint="Install that version, or start anew with --overwrite")
    files = content.get("files")
    if not isinstance(files, dict) or not files:
        raise CheckpointError(f"{manifest}: names no files: the file is damaged")
    for name, entry in files.items():
        if wrong := fault(folder / name, entry):
            raise CheckpointError(f"{folder / name}: {wrong}")
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in files and path != manifest:
            raise CheckpointError(f"{path}: not in the manifest, which must be written last")
