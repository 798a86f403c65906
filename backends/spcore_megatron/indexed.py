"""Data set `megatron-indexed`: corpora that were tokenised for Megatron-LM (`.bin` and `.idx`), as they are.

A row is a document: its ids, a list under `tokens`, which tasks that learn from tokens take in a text's place (`causal-lm`).
"""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from itertools import accumulate, groupby
from operator import itemgetter
from pathlib import Path

import numpy as np

from spcore.errors import DataError, SourceError, nearest, unknown
from spcore.features import fingerprint
from spcore.interfaces.dataset import Column, Dataset, ReadReport, Row, Schema, Source
from spcore_megatron.indexed_files import INDEX, READING, TOKENS, IndexedFile
from spcore_megatron.indexed_options import IndexedOptions

SCHEME = "megatron:"
COLUMN = "tokens"
_HELD = ("train", "validation")


class Indexed(Dataset):
    """Rows have one column, `tokens`: a document's ids each."""

    def __init__(self, options: IndexedOptions) -> None:
        self.options = options

    def open(self, split: str | None) -> Source:
        """See `Dataset.open`. Raises SourceError where nothing is found, DataError where files are damaged or do not belong together."""
        options = self.options
        sources = (options.source.removeprefix(SCHEME),) if isinstance(options.source, str) else options.source
        if not sources:
            raise SourceError("data: `source` is an empty list")
        subject = sources[0] if len(sources) == 1 else f"{sources[0]} and {len(sources) - 1} more"
        known = _HELD if options.holdout is not None else _HELD[:1]
        part = split or known[0]
        if part not in known:
            hint = None if options.holdout is not None else "data.holdout=0.01 makes a split `validation`"
            raise SourceError(f"data {subject!r}: {unknown('split', part, known)}", hint=hint)
        prefixes = [prefix for source in sources for prefix in _prefixes(source)]
        return IndexedSource([IndexedFile(prefix) for prefix in prefixes], options, part, subject)


def _prefixes(source: str) -> list[Path]:
    """The data sets that a source stands for, without suffixes."""
    path = Path(source).expanduser()
    if path.is_dir():
        found = sorted(path.glob(f"*{INDEX}"))
        if not found:
            raise SourceError(f"data {source!r}: a folder without {INDEX} files")
        return [p.with_suffix("") for p in found]
    if any(c in source for c in "*?["):
        found = sorted(p for p in map(Path, glob.glob(str(path))) if p.suffix == INDEX)
        if not found:
            raise SourceError(f"data {source!r}: no {INDEX} file matches")
        return [p.with_suffix("") for p in found]
    prefix = path.with_suffix("") if path.suffix in (INDEX, TOKENS) else path
    if not any(prefix.with_name(prefix.name + suffix).exists() for suffix in (INDEX, TOKENS)):
        there = [p.name.removesuffix(INDEX) for p in prefix.parent.glob(f"*{INDEX}")] if prefix.parent.is_dir() else []
        near = nearest(prefix.name, there)
        hint = f"did you mean {str(prefix.parent / near) + INDEX!r}?" if near else None
        raise SourceError(f"data {source!r}: there is no {prefix}{INDEX}", hint=hint)
    return [prefix]


class IndexedSource(Source):
    """Documents of files, one file after another. part: "train" or "validation" of what `holdout` makes, else all."""

    def __init__(self, files: Sequence[IndexedFile], options: IndexedOptions, part: str, subject: str) -> None:
        self._files = list(files)
        self._numbers = [_part(file, options, part) for file in files]
        self._starts = list(accumulate(map(len, self._numbers), initial=0))
        self.length = self._starts[-1]
        counts = [
            int((file.starts[n + 1] - file.starts[n]).sum()) for file, n in zip(files, self._numbers, strict=True)
        ]
        self.size = sum(n * file.dtype.itemsize for n, file in zip(counts, files, strict=True))
        documents = sum(map(len, files))
        if not documents:
            raise DataError(f"{subject}: no documents")
        if not self.length:
            raise options.empty(subject, part, documents)
        facts = [file.facts for file in files]
        negative = next((file for file, found in zip(files, facts, strict=True) if found.least < 0), None)
        if negative is not None:
            raise DataError(f"{negative.tokens}: an id of {negative.facts.least}: damaged, or no tokens")
        column = Column("list", largest=max(found.largest for found in facts))
        self.schema = Schema({COLUMN: column}, default_task="causal-lm", column_map={"text": COLUMN})
        self.report = ReadReport(documents, files=tuple(
            {"path": str(file.index), "format": f"Megatron's index of {file.dtype.name}", "rows": len(file), "tokens": int(file.starts[-1])}
            for file in files
        ))  # fmt: skip
        self.fingerprint = fingerprint(READING, [found.digest for found in facts], options.how(), part)

    def read(self, ids: Sequence[int]) -> list[Row]:
        """See `Source.read`."""
        rows: list[Row] = []
        for n, found in groupby(map(self._found, ids), key=itemgetter(0)):
            documents = self._files[n].documents(number for _, number in found)
            rows += ({COLUMN: tokens.tolist()} for tokens in documents)
        return rows

    def place(self, row: int) -> str:
        """See `Source.place`."""
        n, number = self._found(row)
        return f"{self._files[n].prefix}: document {number}"

    def stream(self, shard: int, shards: int, skip: int) -> Iterator[Row]:
        """See `Source.stream`."""
        assert self.length is not None, "counted when it was opened"
        for row in range(shard, self.length, shards)[skip:]:
            yield from self.read([row])

    def _found(self, row: int) -> tuple[int, int]:
        """A row's file and its number there."""
        n = int(np.searchsorted(self._starts, row, "right")) - 1
        return n, int(self._numbers[n][row - self._starts[n]])


def _part(file: IndexedFile, options: IndexedOptions, part: str) -> np.ndarray:
    """Numbers of a file's documents that are a part of it."""
    every = np.arange(len(file))
    if options.holdout is None:
        return every
    if options.holdout_by == "document":
        held = options.by_content(file.facts.hashes)
    else:  # those that begin behind the share of tokens that stays
        held = file.starts[:-1] >= file.starts[-1] * (1 - options.holdout)
    return every[held if part == "validation" else ~held]
