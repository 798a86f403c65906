"""Files that appear whole or not at all: written beside under another name, synced, renamed. Errors of the disk become one line.

Names beside what is meant, all of which the next start clears away: `.writing-NAME` is half-written, `.replaced-NAME` was there
before and comes back where a crash left no NAME, `.removed-NAME` is being deleted.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import itertools
import json
import logging
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, get_args

from spcore.errors import OutputError, SourceError, short

log = logging.getLogger("slimpajama.files")
LEFTOVERS = WRITING, REPLACED, REMOVED = ".writing-", ".replaced-", ".removed-"
LOCK = ".lock"
_CHECKSUM = "checksum"
_REASONS = {
    errno.ENOSPC: "no space left on the disk",
    errno.EDQUOT: "the quota of disk space is used up",
    errno.EACCES: "not writable",
    errno.EPERM: "not writable",
    errno.EROFS: "read-only file system",
}


def reason(error: OSError) -> str:
    """What an OSError means, in a few words."""
    return _REASONS.get(error.errno or 0, error.strerror or str(error))


@contextlib.contextmanager
def disk_errors(what: Path) -> Iterator[None]:
    """Translate an error of the system about `what`, a file or a folder that is written to, into an OutputError of one line that
    names the file."""
    try:
        yield
    except Exception as error:  # libraries in Rust raise what they like; what is not the system's goes on as it is
        found = _of_system(error)
        if found is None:
            raise
        raise OutputError(f"{found.filename or _newest(what)}: cannot be written: {reason(found)}") from error


@contextlib.contextmanager
def read_errors() -> Iterator[None]:
    """Translate an error of the system about what a person named, and a model or a data set reads, into a SourceError of one line: a name
    that is too long, a folder that may not be looked into."""
    try:
        yield
    except OSError as error:
        named = f"{short(str(error.filename))!r}: " if error.filename is not None else ""
        raise SourceError(f"{named}cannot be read: {error.strerror or error}") from error


def check_output(path: Path) -> None:
    """Raise OutputError where a file cannot be written, before the work whose result it is for."""
    make_folder(path.parent)
    with disk_errors(path):
        if path.is_dir():
            raise OutputError(f"{path}: is a folder", hint="Name a file")
        handle, name = tempfile.mkstemp(prefix=f"{WRITING}{path.name}-", dir=path.parent)
        os.close(handle)
        os.unlink(name)


def _of_system(error: Exception) -> OSError | None:
    """An OSError as it is, and as Rust's libraries tell it: "No space left on device (os error 28)"."""
    if isinstance(error, OSError):
        return error
    told = re.search(r"\(os error (\d+)\)", str(error))
    return OSError(int(told[1]), os.strerror(int(told[1]))) if told else None


def _newest(what: Path) -> Path:
    """The file last written to in a folder: the system names none where a write fails."""
    files = [p for p in what.iterdir() if p.is_file()] if what.is_dir() else []
    return max(files, key=lambda p: p.stat().st_mtime_ns, default=what)


def sync_file(path: Path) -> None:
    """Flush a file to the disk. Raises OutputError that names it."""
    with disk_errors(path), path.open("rb") as handle:
        os.fsync(handle.fileno())


def sync_folder(path: Path) -> None:
    """Flush a folder's entries to the disk. Raises OutputError that names it."""
    with disk_errors(path):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def make_folder(path: Path) -> None:
    """Make a folder and those above it, each entry flushed to the disk. Raises OutputError."""
    if path.is_dir():
        return
    make_folder(path.parent)
    with disk_errors(path):
        path.mkdir(exist_ok=True)
    sync_folder(path.parent)


Digest = Literal["sha256", "xxh3_128"]
"""Of a file's content: sha256, which every system can check, for what is handed on; xxh3_128 finds the same damage at six times the
speed, for what a run writes again and again."""


def digest(path: Path, kind: Digest = "sha256") -> str:
    """The hexadecimal digest of a file."""
    import xxhash

    with path.open("rb") as handle:
        return hashlib.file_digest(handle, hashlib.sha256 if kind == "sha256" else xxhash.xxh3_128).hexdigest()


def sealed_files(folder: Path, kind: Digest = "sha256") -> dict[str, dict[str, Any]]:
    """Flush a folder's files and folders to the disk and describe the files: relative name -> {"bytes", kind}. Threads read files
    while they are flushed."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    with ThreadPoolExecutor(4) as pool:
        flushed = pool.map(sync_file, files)
        digests = list(pool.map(digest, files, itertools.repeat(kind)))
        list(flushed)  # raises what it raised
    for path in (*(p for p in folder.rglob("*") if p.is_dir()), folder):
        sync_folder(path)
    return {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, kind: found}
        for path, found in zip(files, digests, strict=True)
    }


def fault(path: Path, entry: Any, *, read: bool = True) -> str | None:
    """What is wrong with a file that `sealed_files` described, None where nothing is. read: check its content, not the size alone."""
    kind = next((k for k in get_args(Digest) if k in entry), None) if isinstance(entry, Mapping) else None
    if kind is None or "bytes" not in entry:
        return "the manifest does not say what it should be"
    try:
        size = path.stat().st_size
        if size != entry["bytes"]:
            return f"{size} bytes, the manifest says {entry['bytes']}: the file is torn"
        if read and digest(path, kind) != entry[kind]:
            return "its checksum is not the manifest's: the file is damaged"
    except FileNotFoundError:
        return f"missing, the manifest says {entry['bytes']} bytes"
    except OSError as error:
        return f"cannot be read: {reason(error)}"
    return None


def sync_tree(folder: Path) -> None:
    """Flush all files and folders of a folder to the disk. Raises OutputError."""
    for path in sorted(folder.rglob("*")):
        sync_folder(path) if path.is_dir() else sync_file(path)
    sync_folder(folder)


def put_text(path: Path, text: str) -> None:
    """Write a file of a folder that is not yet in its place, where whoever puts it there flushes it. Raises OutputError."""
    with disk_errors(path):
        path.write_text(text, encoding="utf-8")


def sealed_text(content: Mapping[str, Any]) -> str:
    """A JSON object with a checksum of its own, for `read_sealed`."""
    plain = json.loads(json.dumps(content))
    return json.dumps({**plain, _CHECKSUM: _checksum(plain)}, indent=1, ensure_ascii=False)


def read_sealed(path: Path) -> dict[str, Any]:
    """Read a `sealed_text`; an object without a checksum is taken as it is. Raises ValueError that says what is wrong,
    OSError."""
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"found {type(content).__name__}, expected an object")
    said = content.pop(_CHECKSUM, None)
    if said is not None and said != _checksum(content):
        raise ValueError("its checksum is not its content's: the file is damaged")
    return content


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def newer_format(content: Mapping[str, Any], known: int) -> str | None:
    """The sentence for content of a format that this version does not read yet, None for one that it does. Raises ValueError for
    what has no format."""
    found = content.get("format")
    if not isinstance(found, int) or found < 1:
        raise ValueError(f"format {found!r}: not written by slimpajama")
    if found <= known:
        return None
    from spcore import __version__

    by = content.get("version") or (content.get("versions") or {}).get("slimpajama") or "a newer one"
    return f"format {found}, written by slimpajama {by}; this is {__version__}, which reads up to format {known}"


def write_text(path: Path, text: str) -> None:
    """Replace a file's content whole. Raises OutputError."""
    make_folder(path.parent)
    with disk_errors(path):
        handle, name = tempfile.mkstemp(prefix=f"{WRITING}{path.name}-", dir=path.parent)
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
def staged(folder: Path, *, inside: bool = False) -> Iterator[Path]:
    """A folder to write in, on the same disk as `folder`: beside it, or `inside` it; removed at the end whatever happens. What a
    killed process left there is cleared; raises OutputError while another process writes there."""
    inside = inside or os.path.ismount(folder)
    place = folder if inside else folder.parent
    make_folder(place)
    work = place / f"{WRITING}{folder.name}"
    with disk_errors(work), _claimed(work):
        try:
            for entry in list(work.iterdir()):
                remove(entry)
            with disk_errors(work):  # in here it can still see which file was being written
                yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)


@contextlib.contextmanager
def cached(folder: Path) -> Iterator[Path]:
    """A folder to write in that becomes `folder` on leaving, whole: for what every process that needs it makes alike, several at once too.
    Raises OutputError."""
    with staged(folder.with_name(f"{folder.name}-{os.getpid()}")) as work:
        yield work
        sync_tree(work)
        with disk_errors(folder):
            replace_folder(work, folder)


@contextlib.contextmanager
def _claimed(work: Path) -> Iterator[None]:
    """Hold a folder that is made for it: against another process, not against what a dead one left."""
    work.mkdir(exist_ok=True)
    handle = os.open(work, os.O_RDONLY)
    try:
        if not _lock(handle, work):
            raise OutputError(f"{work.parent}: another process is writing there", hint="Give another folder, or wait")
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a folder against another process, for whose end it waits: what a killed run left running may be about to write."""
    with disk_errors(folder):
        handle = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def _lock(handle: int, path: Path) -> bool:
    """Lock an open file or folder; False where another has it, or where it is no longer what lies at `path`. Raises OSError where
    the file system has no locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run's folder; raises OutputError when another process does, or where the file system has no locks."""
    make_folder(folder)
    path = folder / LOCK
    with disk_errors(folder):
        file = path.open("w")
    with file:
        try:
            held = _lock(file.fileno(), path)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise OutputError(
                f"{folder}: its file system has no locks ({reason(error)}), so two runs could write there at once",
                hint="Give an output on another file system",
            ) from error
        if not held:
            raise OutputError(f"{folder}: another run is writing there", hint="Give another output, or wait")
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def replace_folder(work: Path, target: Path) -> None:
    """Make a whole and synced folder `target`, which may be there already: then the two change places at once where the system can,
    else by two renames that `restore` finishes. What was there is deleted. Raises OSError."""
    aside = target.parent / f"{REPLACED}{target.name}"
    if not target.exists():
        work.rename(target)
        sync_folder(target.parent)
        return
    remove(aside)
    if _exchanged(work, target):
        sync_folder(target.parent)
        remove(work)
        return
    target.rename(aside)
    try:
        work.rename(target)
    except OSError:
        aside.rename(target)
        raise
    sync_folder(target.parent)
    remove(aside)


def _exchanged(one: Path, other: Path) -> bool:
    """Have two folders change names in one operation; False where system or file system cannot."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2" if sys.platform == "linux" else "renameatx_np", None)
    if call is None:
        return False
    here, exchange = (-100, 2) if sys.platform == "linux" else (-2, 2)  # AT_FDCWD; RENAME_EXCHANGE, RENAME_SWAP
    if call(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), str(other))


def restore(target: Path) -> None:
    """Bring back what a crash between the two renames of `replace_folder` left under another name. Several may try at once."""
    if not target.exists():
        with contextlib.suppress(FileNotFoundError):
            (target.parent / f"{REPLACED}{target.name}").rename(target)


def restore_all(parent: Path) -> None:
    """`restore` for everything in a folder."""
    for aside in parent.glob(f"{REPLACED}*"):
        restore(parent / aside.name.removeprefix(REPLACED))


def clear(parent: Path) -> None:
    """Put in order what crashes left in a folder that nobody else writes to. Raises OSError."""
    restore_all(parent)
    for prefix in LEFTOVERS:
        for path in parent.glob(f"{prefix}*"):
            try:
                remove(path)
            except OSError as error:
                if prefix != REMOVED:  # nothing will be written there
                    raise
                log.warning("%s: cannot be deleted: %s", path, reason(error))


def remove(path: Path) -> None:
    """Delete a file or a folder, where it is there. A folder loses its name first, so that none is ever seen in part. Raises OSError."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    shutil.rmtree(path if path.name.startswith(LEFTOVERS) else take_away(path))


def take_away(folder: Path) -> Path:
    """Have a folder lose its name, for `clear` to delete; where it is now. Raises OSError."""
    return folder.rename(folder.parent / f"{REMOVED}{folder.name}")
