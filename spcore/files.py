"""Files that appear whole or not at all: written in a temporary folder, synced, renamed. Errors of the disk become one line."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from spcore.errors import OutputError


@contextlib.contextmanager
def disk_errors(what: Path) -> Iterator[None]:
    """Translate an OSError about `what` into an OutputError of one line."""
    try:
        yield
    except OSError as error:
        file = error.filename or what
        reason = {
            errno.ENOSPC: "no space left on the disk",
            errno.EACCES: "not writable",
            errno.EROFS: "read-only file system",
        }.get(error.errno or 0, error.strerror or str(error))
        raise OutputError(f"{file}: cannot be written: {reason}") from error


def sync_file(path: Path) -> None:
    """Flush a file to the disk."""
    with path.open("rb") as handle:
        os.fsync(handle.fileno())


def sync_folder(path: Path) -> None:
    """Flush a folder's entries to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def digest(path: Path) -> str:
    """sha256 of a file."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Replace a file's content whole."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


@contextlib.contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder`, removed at the end whatever happens: write there, then move."""
    with disk_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        work.chmod(0o755)
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run's folder; raises OutputError when another process does."""
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / ".lock").open("w")
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = os.path.samestat(os.fstat(handle.fileno()), os.stat(folder / ".lock"))
        except OSError:
            held = False
        if not held:  # or its holder took the file away between our opening and our locking it
            raise OutputError(f"{folder}: another run is writing there", hint="Give another output, or wait")
        try:
            yield
        finally:
            (folder / ".lock").unlink(missing_ok=True)
