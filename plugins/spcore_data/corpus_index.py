"""What is where in a corpus' file: made in one pass, kept beside the token cache for a large file, opened memory-mapped after that.

CACHE/corpora/KEY/   KEY: of the file's path, size and times of change, and of how it is read
  content            the file decompressed, where it is a large compressed one
  index.npy          uint64 [documents, 5], see `Entry`
  index.json         written last: checksum of index.npy, what was dropped, facts
"""

from __future__ import annotations

import logging
import os
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from spcore.documents import keep_array, kept_array
from spcore.errors import DataError, OutputError
from spcore.features import cache_folder, fingerprint
from spcore.files import alone, disk_errors, make_folder
from spcore_data.content import compression_of, decompressed, read_content, refuse_foreign

READING = 1
"""Changes when the same bytes are read in another way."""
LARGE = 16 << 20
"""Bytes from which a file's index is kept, and a compressed one's content."""
_BLOCK = 1 << 20
_FILES = "index.json", "index.npy"
log = logging.getLogger("slimpajama.spcore_data")


class Entry(IntEnum):
    """Columns of an index. FIRST, END: bytes of the file (of Parquet: the row's number, and the next). LINE: it begins on, from 1.
    CHARACTERS: of its text. HASH: of its text; of a piece, of the document it belongs to."""

    FIRST, END, LINE, CHARACTERS, HASH = range(5)


@dataclass
class Index:
    """entries: uint64 [documents, 5]. dropped: reason -> lines (of Parquet: rows). facts: for `ReadReport.files`. pieces: documents
    that were cut, for their length."""

    entries: np.ndarray
    dropped: dict[str, array[int]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    pieces: int = 0

    @cached_property
    def digest(self) -> str:
        """Of what the documents say and of their cuts."""
        columns = self.entries[:, [Entry.CHARACTERS, Entry.HASH]]
        return xxhash.xxh3_128_hexdigest(np.ascontiguousarray(columns).data)


class Builder:
    """Collects entries: 40 bytes each, no object."""

    def __init__(self) -> None:
        self._numbers = array("Q")
        self.index = Index(np.empty((0, 5), np.uint64))

    def add(self, first: int, end: int, line: int, text: str, hashed: int) -> None:
        """A document. text: as it is read."""
        self._numbers.extend((first, end, line, len(text), hashed))

    def extend(self, size: int, text: str) -> None:
        """The last document goes on for so many bytes."""
        last = len(self._numbers) - 5
        self._numbers[last + Entry.END] += size
        self._numbers[last + Entry.CHARACTERS] += len(text)

    def share(self, since: int, hashed: int) -> None:
        """The pieces from document `since` on have this hash in common."""
        if len(self) - since < 2:
            return
        self.index.pieces += len(self) - since == 2
        for n in range(since, len(self)):
            self._numbers[n * 5 + Entry.HASH] = hashed

    def take_back(self, since: int) -> None:
        """Forget the pieces from document `since` on."""
        self.index.pieces -= len(self) - since > 1
        del self._numbers[since * 5 :]

    def drop(self, reason: str, line: int) -> None:
        """Count a document that is not used."""
        self.index.dropped.setdefault(reason, array("Q")).append(line)

    def __len__(self) -> int:
        """Documents."""
        return len(self._numbers) // 5

    def built(self) -> Index:
        """The index."""
        self.index.entries = np.frombuffer(self._numbers, np.uint64).reshape(-1, 5) if len(self) else self.index.entries
        return self.index


class Content:
    """Bytes of a file, in memory or on disk."""

    def __init__(self, source: Path | bytes) -> None:
        self._data = source if isinstance(source, bytes) else None
        self._path = source if isinstance(source, Path) else None
        self._stamp = stamp(source) if isinstance(source, Path) else (len(source),)
        self.size = self._stamp[0]

    def read(self, first: int, end: int) -> bytes:
        """See `Blob.read`. Opens the file each time: a corpus may have more files than a process may have open."""
        if self._path is None:
            assert self._data is not None, "it is the one or the other"
            return self._data[first:end]
        with self._path.open("rb", buffering=0) as file:
            if stamp(file.fileno()) != self._stamp:
                raise DataError(f"{self._path}: the file was changed after it was opened", hint="Start again")
            file.seek(first)
            return file.read(end - first)


def stamp(file: Path | int) -> tuple[int, ...]:
    """Bytes and times of change of a file: others when it is another, or was written to."""
    found = os.stat(file)
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def kept(path: Path, how: Any) -> Path:
    """The folder for what is kept of a file that is read in such a way."""
    return cache_folder() / "corpora" / fingerprint(READING, str(path.resolve()), stamp(path), how)


def content_of(path: Path) -> tuple[Content, str | None]:
    """A file's bytes, decompressed, and its compression. Raises DataError; OutputError where a large one does not fit on the disk."""
    try:
        with path.open("rb") as file:
            head = file.read(1024)
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    compression = compression_of(head)
    if compression is not None and size < LARGE:
        return Content(read_content(path).data), compression
    refuse_foreign(path, head)
    if compression is None:
        return Content(path), None
    target = kept(path, "content") / "content"
    make_folder(target.parent)
    with alone(target.parent):
        if not target.exists():
            _unpack(path, compression, target)
    return Content(target), compression


def _unpack(path: Path, compression: str, target: Path) -> None:
    work = target.with_name(".writing-content")
    with disk_errors(work):
        try:
            with path.open("rb") as packed, work.open("wb") as file:
                for data in decompressed(path, compression, iter(lambda: packed.read(_BLOCK), b"")):
                    file.write(data)
                file.flush()
                os.fsync(file.fileno())
            work.replace(target)
        finally:
            work.unlink(missing_ok=True)


def index_of(path: Path, how: Any, build: Callable[[], Index]) -> Index:
    """The index of a file: of a large one from the cache, or made and kept there. how: whatever decides what `build` makes."""
    if path.stat().st_size < LARGE:
        return build()
    folder = kept(path, how)
    try:
        make_folder(folder)
        with alone(folder):
            return _read(folder) or _write(folder, build())
    except OutputError as error:
        log.warning("the index of %s is not kept: %s", path, error)
        return build()


def _read(folder: Path) -> Index | None:
    def made(known: dict[str, Any], entries: np.ndarray) -> Index:
        dropped = {reason: array("Q", lines) for reason, lines in known["dropped"].items()}
        return Index(entries, dropped, known["facts"], known["pieces"])

    return kept_array(folder, *_FILES, made)


def _write(folder: Path, index: Index) -> Index:
    dropped = {reason: list(lines) for reason, lines in index.dropped.items()}
    keep_array(folder, *_FILES, {"dropped": dropped, "facts": index.facts, "pieces": index.pieces}, index.entries)
    return index


def lines_in(content: Content) -> Iterator[tuple[int, bytes, int]]:
    """First byte, bytes and number of each line, its end left out."""
    buffer, at, number = b"", 0, 1
    while True:
        block = content.read(at + len(buffer), at + len(buffer) + _BLOCK)
        lines = (buffer + block).split(b"\n")
        buffer = lines.pop()
        for line in lines:
            yield at, line, number
            at, number = at + len(line) + 1, number + 1
        if not block:
            if buffer:
                yield at, buffer, number
            return


def hash_of(text: str) -> int:
    """64 bits of a text."""
    return xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass"))
