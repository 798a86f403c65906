"""A disk that fails where it is told to: every operation on files below a folder is counted, and one of them is refused, or all
from one on, or the process is gone from one on."""

from __future__ import annotations

import builtins
import contextlib
import errno
import io
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from spcore import files

Kind = Literal["once", "full", "crash"]
_GROWING = ("open", "write", "mkdir", "rename", "replace", "link", "exchange")
"""What a full disk refuses; deleting works."""


class Crash(BaseException):
    """The process is gone: raised by every operation from then on, so that nothing that cleans up has any effect."""


class FaultyDisk:
    """operations: (what, file name) in order. at: the number of the one that fails, None for none. once: it alone (EIO). full: it
    and all that need room after it (ENOSPC). crash: nothing happens any more."""

    def __init__(self, root: Path, at: int | None = None, kind: Kind = "once") -> None:
        self.root, self.at, self.kind = str(root), at, kind
        self.operations: list[tuple[str, str]] = []
        self._synced: dict[int, tuple[int, int]] = {}
        self._lock = threading.Lock()

    def touch(self, what: str, path: Any) -> None:
        """Count an operation, and fail where it is due."""
        path = os.fspath(path)
        name = os.fsdecode(path)
        if not name.startswith(self.root):
            return
        with self._lock:
            number = len(self.operations)
            self.operations.append((what, Path(name).name))
        if self.at is None or number < self.at:
            return
        if self.kind == "crash":
            raise Crash
        if self.kind == "once" and number == self.at:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        if self.kind == "full" and what in _GROWING:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def remember(self, handle: int) -> None:
        """A file's content is on the disk as it is now."""
        found = os.fstat(handle)
        self._synced[found.st_ino] = (found.st_size, found.st_mtime_ns)

    def lose_power(self) -> None:
        """What was not flushed since it was last written is half there."""
        for path in Path(self.root).rglob("*"):
            found = path.lstat()
            if path.is_file() and self._synced.get(found.st_ino) != (found.st_size, found.st_mtime_ns):
                os.truncate(path, found.st_size // 2)


class _Counted(io.FileIO):
    """A file whose writes are counted."""

    def __init__(self, disk: FaultyDisk, path: str, file: Any, mode: str, closefd: bool, opener: Any) -> None:
        super().__init__(file, mode, closefd=closefd, opener=opener)
        self._disk, self._path = disk, path

    def write(self, data: Any) -> int:
        """See `FaultyDisk.touch`."""
        self._disk.touch("write", self._path)
        return super().write(data)


@contextlib.contextmanager
def faulty(disk: FaultyDisk) -> Iterator[FaultyDisk]:
    """Have everything in this process that writes files do it on that disk. Libraries that are not Python are not seen."""
    for path in Path(disk.root).rglob("*"):
        with contextlib.suppress(OSError):
            found = path.lstat()
            disk._synced[found.st_ino] = (found.st_size, found.st_mtime_ns)
    before: list[tuple[Any, str, Any]] = []

    def put(owner: Any, name: str, made: Any) -> None:
        before.append((owner, name, getattr(owner, name)))
        setattr(owner, name, made)

    real_open, real_fsync = io.open, os.fsync
    for name in ("rename", "replace", "link", "unlink", "remove", "rmdir", "mkdir"):
        put(os, name, _counting(disk, name, getattr(os, name)))
    put(os, "fsync", _syncing(disk, real_fsync))
    put(files, "_exchanged", _counting(disk, "exchange", files._exchanged))
    opened = _opening(disk, real_open)
    put(io, "open", opened)
    put(builtins, "open", opened)
    try:
        yield disk
    finally:
        for owner, name, value in reversed(before):
            setattr(owner, name, value)


def _counting(disk: FaultyDisk, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
    def counted(path: Any, *args: Any, dir_fd: int | None = None, **kwargs: Any) -> Any:
        whole = Path(os.readlink(f"/proc/self/fd/{dir_fd}")) / path if dir_fd is not None else path
        disk.touch(name, whole)
        return real(path, *args, **kwargs, **({"dir_fd": dir_fd} if dir_fd is not None else {}))

    return counted


def _syncing(disk: FaultyDisk, real: Callable[[int], None]) -> Callable[[int], None]:
    def fsync(handle: int) -> None:
        disk.touch("fsync", os.readlink(f"/proc/self/fd/{handle}"))
        real(handle)
        disk.remember(handle)

    return fsync


def _opening(disk: FaultyDisk, real: Callable[..., Any]) -> Callable[..., Any]:
    def opened(
        file: Any, mode: str = "r", buffering: int = -1, encoding: Any = None, errors: Any = None, newline: Any = None,
        closefd: bool = True, opener: Any = None,
    ) -> Any:  # fmt: skip
        path = os.readlink(f"/proc/self/fd/{file}") if isinstance(file, int) else os.fsdecode(os.fspath(file))
        if not set("wax") & set(mode) or not path.startswith(disk.root):
            return real(file, mode, buffering, encoding, errors, newline, closefd, opener)
        disk.touch("open", path)
        raw = _Counted(disk, path, file, mode.replace("b", "").replace("t", ""), closefd, opener)
        if buffering == 0:
            return raw
        buffered = io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding or "utf-8", errors, newline)

    return opened


def count(root: Path, work: Callable[[], object]) -> list[tuple[str, str]]:
    """The operations of a piece of work on a whole disk."""
    with faulty(FaultyDisk(root)) as disk:
        work()
    return disk.operations
