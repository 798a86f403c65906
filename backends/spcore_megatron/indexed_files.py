"""One of Megatron's indexed data sets on disk: PREFIX.bin, the tokens end to end, and PREFIX.idx, where each document begins.

megatron-core's `IndexedDataset` reads them. What it asserts, or maps into memory as it is, is checked before, so that a damaged
file is one line: the class, failing half way, writes tracebacks from its finaliser, and an array that it gave and that outlives it is memory
no longer mapped. So nothing that leaves this module is a view.
"""

from __future__ import annotations

import logging
import os
import struct
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from spcore.documents import keep_array, kept_array
from spcore.errors import DataError, OutputError, SourceError
from spcore.features import cache_folder, fingerprint
from spcore.files import alone, make_folder

with warnings.catch_warnings():  # that optional kernels of the trainer are not there is no news to who reads a file
    warnings.simplefilter("ignore")
    from megatron.core.datasets.indexed_dataset import DType, IndexedDataset, IndexedDatasetBuilder

__all__ = ["DType", "INDEX", "READING", "TOKENS", "Facts", "IndexedDatasetBuilder", "IndexedFile"]
READING = 1
"""Changes when the same files are read in another way."""
_FILES = "facts.json", "hashes.npy"
LARGE = 16 << 20
"""Bytes of tokens from which what one pass over them found is kept in the cache."""
INDEX, TOKENS = ".idx", ".bin"
_HEADER = struct.Struct("<9sQBQQ")
"""Magic, version, code of the ids' type, sequences, borders of documents (one more than documents)."""
_MAGIC = b"MMIDIDX\0\0"
log = logging.getLogger("slimpajama.spcore_megatron")


@dataclass(frozen=True)
class Facts:
    """What one pass over the tokens finds. hashes: uint64 [documents], of each document's ids. largest: of all ids, -1 where there is
    none; least: 0 where none is below. digest: of all documents and their borders."""

    hashes: np.ndarray
    largest: int
    least: int
    digest: str


class IndexedFile:
    """Documents by number. prefix: the path without suffix. starts: int64 [documents + 1], the token that each begins with. dtype: of
    the ids as they are stored."""

    def __init__(self, prefix: Path) -> None:
        """Raises SourceError where one of the two files is missing, DataError where they are not what they should be."""
        self.prefix = prefix
        self.index, self.tokens = (prefix.with_name(prefix.name + suffix) for suffix in (INDEX, TOKENS))
        self.dtype = np.dtype(self._checked_header())
        self._stamp = self._stamps()
        try:
            self._data = IndexedDataset(str(prefix))
        except AssertionError:
            raise DataError(f"{self.index}: damaged: its last document does not end with its last sequence") from None
        lengths = np.array(self._data.sequence_lengths, np.int64)
        borders = np.array(self._data.document_indices, np.int64)
        self._check(lengths, borders, np.array(self._data.index.sequence_pointers, np.int64))
        self._borders = borders
        self.starts = np.concatenate([[0], np.cumsum(lengths)])[borders]

    def __len__(self) -> int:
        """Documents."""
        return len(self._borders) - 1

    def _checked_header(self) -> Any:
        """The ids' type, once the index has the size that it says."""
        for path, other in ((self.index, self.tokens), (self.tokens, self.index)):
            if not path.is_file():
                beside = f"; {other.name} is there, and the two belong together" if other.is_file() else ""
                raise SourceError(f"data {str(self.prefix)!r}: there is no {path}{beside}")
        try:
            with self.index.open("rb") as file:
                head, size = file.read(_HEADER.size), os.fstat(file.fileno()).st_size
        except OSError as error:
            raise DataError(f"{self.index}: cannot be read: {error.strerror}") from error
        if not head.startswith(_MAGIC):
            raise DataError(f"{self.index}: not an index of Megatron's: it does not begin with {_MAGIC[:7].decode()}")
        if len(head) < _HEADER.size:
            raise DataError(f"{self.index}: cut short: {size} bytes", hint="Fetch it again")
        _, version, code, sequences, borders = _HEADER.unpack(head)
        if version != 1:
            raise DataError(f"{self.index}: version {version} of the format; version 1 is read")
        known = {kind.value: kind.name for kind in DType}
        if code not in known or not np.issubdtype(np.dtype(known[code]), np.integer):
            stored = known.get(code, f"type {code}, which is none")
            raise DataError(f"{self.index}: stores {stored}; tokens are whole numbers")
        expected = _HEADER.size + 12 * sequences + 8 * borders
        if size == expected + sequences and sequences:
            raise DataError(f"{self.index}: of several modalities, one byte a sequence says which; text alone is read")
        if size != expected or not borders:
            raise DataError(
                f"{self.index}: {size} bytes where its head says {expected}: damaged", hint="Fetch it again"
            )
        if not self.tokens.stat().st_size:
            raise DataError(f"{self.tokens}: empty", hint="Fetch it again")
        return DType.dtype_from_code(code)

    def _check(self, lengths: np.ndarray, borders: np.ndarray, pointers: np.ndarray) -> None:
        """Raise DataError for an index that contradicts itself or the tokens."""
        ends = np.cumsum(lengths) * self.dtype.itemsize
        size = int(ends[-1]) if len(ends) else 0
        found = self.tokens.stat().st_size
        if (lengths < 0).any() or borders[0] != 0 or (np.diff(borders) < 0).any():
            raise DataError(f"{self.index}: damaged: its lengths or borders run backwards", hint="Fetch it again")
        if len(ends) and (pointers[0] != 0 or (pointers[1:] != ends[:-1]).any()):
            raise DataError(
                f"{self.index}: its sequences do not lie end to end: damaged, or written by another program"
            )
        if found != size:
            raise DataError(
                f"{self.tokens}: {found} bytes where {self.index.name} says {size}: cut short, or another data set's",
                hint="Fetch both again",
            )

    def _stamps(self) -> list[tuple[int, ...]]:
        found = (path.stat() for path in (self.index, self.tokens))
        return [(s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino) for s in found]

    def documents(self, numbers: Iterable[int]) -> list[np.ndarray]:
        """The ids of documents: [tokens] each. Raises DataError where the files were changed since they were opened."""
        if self._stamps() != self._stamp:
            raise DataError(f"{self.prefix}: its files were changed after they were opened", hint="Start again")
        return [self._document(n) for n in numbers]

    def _document(self, n: int) -> np.ndarray:
        first, end = self._borders[n : n + 2].tolist()
        return np.concatenate(self._data[first:end]) if end > first else np.empty(0, self.dtype)

    @cached_property
    def facts(self) -> Facts:
        """See `Facts`; of large data from the cache, or kept there."""
        if self.tokens.stat().st_size < LARGE:
            return self._read_through()
        folder = cache_folder() / "indexed" / fingerprint(READING, str(self.prefix.resolve()), self._stamp)
        try:
            make_folder(folder)
            with alone(folder):
                return _kept(folder) or _keep(folder, self._read_through())
        except OutputError as error:
            log.warning("what was found of %s is not kept: %s", self.prefix, error)
            return self._read_through()

    def _read_through(self) -> Facts:
        hashes, largest, least = np.empty(len(self), np.uint64), -1, 0
        for n in range(len(self)):
            ids = self._document(n)
            hashes[n] = xxhash.xxh3_64_intdigest(ids.data)
            if len(ids):
                largest, least = max(largest, int(ids.max())), min(least, int(ids.min()))
        whole = xxhash.xxh3_128(np.ascontiguousarray(self.starts).data)
        whole.update(hashes.data)
        return Facts(hashes, largest, least, whole.hexdigest())


def _kept(folder: Path) -> Facts | None:
    return kept_array(
        folder, *_FILES, lambda known, hashes: Facts(hashes, known["largest"], known["least"], known["digest"])
    )


def _keep(folder: Path, facts: Facts) -> Facts:
    known = {"largest": facts.largest, "least": facts.least, "digest": facts.digest}
    keep_array(folder, *_FILES, known, facts.hashes)
    return facts
