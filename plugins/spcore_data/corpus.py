"""Data set `corpus`: documents of any amount of text, read as they are asked for."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from spcore.errors import DataError, SourceError, unknown
from spcore.features import fingerprint
from spcore.interfaces.dataset import Column, Dataset, ReadReport, Row, Schema, Source
from spcore_data.content import TO_UTF8
from spcore_data.corpus_files import NOT_UTF8, CorpusFile, is_corpus, open_file
from spcore_data.corpus_index import READING, Entry
from spcore_data.corpus_pieces import MOST
from spcore_data.options import CorpusOptions
from spcore_data.splits import SPLITS, Found, choose, find, missing_path, split_of
from spcore_data.table import rows_of_shard

_HELD = ("train", "validation")
SCHEME = "corpus:"
"""Before a path it says that this reads it, where a path alone stands for a data set."""


class Corpus(Dataset):
    """Rows have one column, `text`: a document each."""

    def __init__(self, options: CorpusOptions) -> None:
        self.options = options

    def open(self, split: str | None) -> Source:
        """See `Dataset.open`. Raises SourceError where nothing is found, DataError where it cannot be read, OutputError where a large
        compressed file cannot be unpacked into the cache."""
        options = self.options
        sources = (options.source.removeprefix(SCHEME),) if isinstance(options.source, str) else options.source
        if not sources:
            raise SourceError("data: `source` is an empty list")
        subject = sources[0] if len(sources) == 1 else f"{sources[0]} and {len(sources) - 1} more"
        found, remarks = _found(sources)
        part = None
        if options.holdout is not None:
            part = SPLITS.get(split or "train", split or "train")
            if part not in _HELD:
                raise SourceError(f"data {subject!r}: {unknown('split', str(split), _HELD)}")
            named = next((f for f in found if split_of(f.path.name) == "validation"), None)
            if named is not None:
                raise SourceError(
                    f"data {subject!r}: {named.path.name} is split `validation` by its name, and `holdout` makes another",
                    hint="Leave holdout out, or name the files for training alone",
                )
        paths, said = choose(found, None if part else split, subject)
        return CorpusSource([open_file(path, options) for path in paths], options, part, subject, [*remarks, *said])


def _found(sources: Sequence[str]) -> tuple[list[Found], list[str]]:
    found: list[Found] = []
    for source in sources:
        here = find(source)
        if not here:
            raise SourceError(missing_path(source))
        found += here
    left = [f for f in found if not f.named and not is_corpus(f.path)]
    kept = [f for f in found if f not in left]
    if not kept:
        raise SourceError(f"data {sources[0]!r}: no plain text, JSON lines or Parquet there, but {left[0].path.name}")
    names = ", ".join(f.path.name for f in left[:5]) + (", ..." if len(left) > 5 else "")
    return kept, [f"{sources[0]}: not read, being no plain text, JSON lines or Parquet: {names}"] if left else []


class CorpusSource(Source):
    """Documents of files, one file after another. part: "train" or "validation" of what `holdout` makes; None: all."""

    schema = Schema({"text": Column("text")})

    def __init__(
        self, files: Sequence[CorpusFile], options: CorpusOptions, part: str | None, subject: str, remarks: list[str]
    ) -> None:
        self._files = list(files)
        self._entries = [_part(file, options, part) for file in files]
        self._starts = list(accumulate(map(len, self._entries), initial=0))
        self.length = self._starts[-1]
        self.size = sum(int(entries[:, Entry.CHARACTERS].sum()) for entries in self._entries)
        self.report = _report(files, options, remarks)
        if not self.report.read - sum(map(len, self.report.dropped.values())):
            reasons = ", ".join(self.report.dropped) or "nothing in it"
            raise DataError(f"{subject}: no documents: {reasons}")
        if not self.length:
            raise options.empty(subject, part, self.report.read)
        self.fingerprint = fingerprint(READING, [file.index.digest for file in files], options.how(), part)

    def read(self, ids: Sequence[int]) -> list[Row]:
        """See `Source.read`."""
        wanted = np.asarray(ids, np.int64)
        files = np.searchsorted(self._starts, wanted, "right") - 1
        borders = [0, *(np.flatnonzero(np.diff(files)) + 1).tolist(), len(wanted)]
        rows: list[Row] = []
        for first, end in pairwise(borders):
            if first == end:
                continue
            n = int(files[first])
            entries = self._entries[n][wanted[first:end] - self._starts[n]]
            rows += ({"text": text} for text in self._files[n].texts(entries))
        return rows

    def place(self, row: int) -> str:
        """See `Source.place`."""
        n = int(np.searchsorted(self._starts, row, "right")) - 1
        return self._files[n].place(self._entries[n][row - self._starts[n]])

    def stream(self, shard: int, shards: int, skip: int) -> Iterator[Row]:
        """See `Source.stream`."""
        yield from rows_of_shard(self, shard, shards, skip)


def _part(file: CorpusFile, options: CorpusOptions, part: str | None) -> np.ndarray:
    """The entries of a file that are a part of it."""
    entries = file.index.entries
    if part is None or options.holdout is None:
        return entries
    if options.holdout_by == "document":
        held = options.by_content(entries[:, Entry.HASH])
        return entries[held if part == "validation" else ~held]
    ends = np.cumsum(entries[:, Entry.CHARACTERS].astype(np.int64))
    border = int(int(ends[-1]) * (1 - options.holdout)) if len(ends) else 0
    at = int(np.searchsorted(ends, border, "right"))  # the document that the border cuts, or that begins at it
    begins = int(ends[at - 1]) if at else 0
    parts = file.split_at(entries[at], border - begins) if at < len(entries) and begins < border else None
    if parts is not None:
        halves = np.concatenate([entries[:at], parts[:1]]), np.concatenate([parts[1:], entries[at + 1 :]])
    else:
        whole = at + (begins < border)  # a document that begins before the border is before it
        halves = entries[:whole], entries[whole:]
    return halves[part == "validation"]


def _report(files: Sequence[CorpusFile], options: CorpusOptions, remarks: list[str]) -> ReadReport:
    dropped: dict[str, Sequence[int]] = {}
    facts: list[dict[str, Any]] = []
    for file in files:
        index = file.index
        lost: dict[str, array[int]] = index.dropped
        read = len(index.entries) + sum(map(len, lost.values()))
        if len(lost.get(NOT_UTF8, ())) * 2 > read:
            raise DataError(
                f"{file.path}:{lost[NOT_UTF8][0]}: not UTF-8, as are {len(lost[NOT_UTF8])} of {read} documents",
                hint=TO_UTF8,
            )
        for reason, lines in lost.items():
            dropped[reason if len(files) == 1 else f"{file.path.name}: {reason}"] = lines
        facts.append(
            {
                "path": str(file.path), "format": file.kind, "compression": file.compression, "document": file.documents,
                "rows": len(index.entries), "characters": int(index.entries[:, Entry.CHARACTERS].sum()),
            }
        )  # fmt: skip
    said = [*remarks, *_kinds(files, options.documents)]
    if cut := sum(file.index.pieces for file in files):
        said.append(f"{cut} documents are longer than {MOST >> 20} MiB; each is cut into pieces, at a line's end")
    read = sum(f["rows"] for f in facts) + sum(map(len, dropped.values()))
    return ReadReport(read, dropped, tuple(said), tuple(facts))


def _kinds(files: Sequence[CorpusFile], asked: str) -> list[str]:
    """What a document was taken to be where nobody said, once for all files that agree."""
    found: dict[str, list[Path]] = {}
    for file in files:
        if asked == "auto" and file.kind == "text":
            found.setdefault(file.documents, []).append(file.path)
    return [
        f"{paths[0].name}{f' and {len(paths) - 1} more' if len(paths) > 1 else ''}: a document is a {documents}"
        + (
            " (data.documents says otherwise)"
            if documents == "file"
            else ", as its lines are long (data.documents=file says otherwise)"
        )
        for documents, paths in found.items()
    ]
