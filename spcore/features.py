"""Rows made into features, once: numbered, counted, kept as columns, and cached on disk where they are many.

A `FeatureStore` holds every array of all features end to end with offsets, so a corpus of any size is a few memory-mapped
files. The cache's key is a fingerprint of everything that decides the content.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from spcore.errors import DataError, OutputError
from spcore.files import disk_errors
from spcore.interfaces.dataset import Row, Source
from spcore.interfaces.task import BoundTask, Feature

CACHE_FROM_ROWS = 50_000
"""Smaller sources are featurised anew each time: that is faster than looking."""
_CHUNK = 1024
log = logging.getLogger("slimpajama.features")


@dataclass
class Counts:
    """What became of the rows: read, used, features made, texts cut, rows dropped by reason with the first row numbers and
    places. reader: what the reader of the files dropped before, of the whole split: reason -> rows and first lines."""

    read: int = 0
    used: int = 0
    features: int = 0
    truncated: int = 0
    truncated_tokens: int = 0
    dropped: dict[str, list[int]] = field(default_factory=dict)
    dropped_total: dict[str, int] = field(default_factory=dict)
    places: dict[str, list[str]] = field(default_factory=dict)
    reader: dict[str, dict[str, Any]] = field(default_factory=dict)

    def drop(self, reason: str, row: int, place: str | None = None) -> None:
        """Count a dropped row. place: where it stands, None for its number."""
        self.dropped_total[reason] = self.dropped_total.get(reason, 0) + 1
        first = self.dropped.setdefault(reason, [])
        if len(first) < 5:
            first.append(row)
            self.places.setdefault(reason, []).append(place or f"row {row}")

    def to_json(self) -> dict[str, Any]:
        """For report.json."""
        dropped = {
            r: {"rows": n, "first_rows": self.dropped[r], "first": self.places[r]}
            for r, n in self.dropped_total.items()
        }
        return {
            "rows_read": self.read, "rows_used": self.used, "features": self.features, "texts_truncated": self.truncated,
            "tokens_truncated": self.truncated_tokens, "dropped": dropped,
            "dropped_by_reader": self.reader,
        }  # fmt: skip

    def remarks(self) -> list[str]:
        """Lines for the user about what was dropped or cut."""
        lines = []
        for reason, n in self.dropped_total.items():
            first = ", ".join(self.places.get(reason) or [f"row {row}" for row in self.dropped[reason]])
            lines.append(f"{n} of {self.read} rows dropped: {reason} ({first}{', ...' if n > 5 else ''})")
        if self.truncated:
            lines.append(
                f"{self.truncated} of {self.features} texts were longer than data.max_length: {self.truncated_tokens} tokens cut"
            )
        return lines


@dataclass(frozen=True)
class _Column:
    """One array of all features. data: all values end to end; starts [n + 1]; shapes: [n, ndim], -1 where a feature lacks it."""

    data: np.ndarray
    starts: np.ndarray
    shapes: np.ndarray


class FeatureStore:
    """Features by position. lengths: int64 [n]. counts: see `Counts`."""

    def __init__(
        self, ids: np.ndarray, rows: np.ndarray, lengths: np.ndarray, columns: Mapping[str, _Column], counts: Counts
    ) -> None:
        self.ids, self.rows, self.lengths, self._columns, self.counts = ids, rows, lengths, columns, counts

    def __len__(self) -> int:
        """Features."""
        return len(self.ids)

    def __getitem__(self, i: int) -> Feature:
        """The feature at a position; arrays are views."""
        arrays = {
            name: c.data[c.starts[i] : c.starts[i + 1]].reshape(c.shapes[i])
            for name, c in self._columns.items()
            if (c.shapes[i, 0] >= 0 if c.shapes.shape[1] else c.starts[i + 1] > c.starts[i])
        }
        return Feature(int(self.ids[i]), int(self.rows[i]), arrays, int(self.lengths[i]))

    def annotate(self, rows: list[dict[str, Any]]) -> None:
        """Add arrays to all features: rows {"feature_id", name: array}, one a feature, in feature order."""
        assert [row["feature_id"] for row in rows] == self.ids.tolist(), "annotations do not cover the features"
        named = [{k: np.asarray(v) for k, v in row.items() if k not in ("feature_id", "row_id")} for row in rows]
        self._columns = {**self._columns, **_columns(named)}

    @classmethod
    def of(cls, features: Iterable[Feature], counts: Counts | None = None) -> FeatureStore:
        """A store of features as they are numbered."""
        return _gather(list(features), counts or Counts())

    def save(self, folder: Path) -> None:
        """Write into a new folder, whole or not at all. Raises OutputError."""
        with disk_errors(folder):
            self._save(folder)

    def _save(self, folder: Path) -> None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".features-", dir=folder.parent))
        try:
            for name, array in (("ids", self.ids), ("rows", self.rows), ("lengths", self.lengths)):
                np.save(work / f"{name}.npy", array)
            for n, column in enumerate(self._columns.values()):
                np.save(work / f"{n}.data.npy", column.data)
                np.save(work / f"{n}.starts.npy", column.starts)
                np.save(work / f"{n}.shapes.npy", column.shapes)
            (work / "index.json").write_text(json.dumps({"columns": list(self._columns), "counts": vars(self.counts)}))
            try:
                work.rename(folder)
            except OSError:  # another process was faster; its content is the same
                if not folder.is_dir():
                    raise
        finally:
            shutil.rmtree(work, ignore_errors=True)

    @classmethod
    def load(cls, folder: Path) -> FeatureStore:
        """Open what `save` wrote, memory-mapped."""
        index = json.loads((folder / "index.json").read_text())

        def opened(name: str) -> np.ndarray:
            array: np.ndarray = np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            return array

        columns = {
            name: _Column(opened(f"{n}.data"), opened(f"{n}.starts"), opened(f"{n}.shapes"))
            for n, name in enumerate(index["columns"])
        }
        return cls(opened("ids"), opened("rows"), opened("lengths"), columns, Counts(**index["counts"]))


def _gather(features: list[Feature], counts: Counts) -> FeatureStore:
    whole = [np.array([getattr(f, what) for f in features], np.int64) for what in ("id", "row_id", "length")]
    return FeatureStore(whole[0], whole[1], whole[2], _columns([f.arrays for f in features]), counts)


def _columns(features: list[dict[str, np.ndarray]]) -> dict[str, _Column]:
    columns = {}
    for name in dict.fromkeys(name for arrays in features for name in arrays):
        found = [np.asarray(arrays[name]) if name in arrays else None for arrays in features]
        ndim = next(a.ndim for a in found if a is not None)
        flat = [a.ravel() if a is not None else np.empty(0, np.int64) for a in found]
        starts = np.concatenate([[0], np.cumsum([len(a) for a in flat])]).astype(np.int64)
        shapes = np.array([a.shape if a is not None else (-1,) * ndim for a in found], np.int64).reshape(
            len(found), ndim
        )
        data = np.concatenate([a for a in flat if len(a)] or [np.empty(0, np.int64)])
        columns[name] = _Column(data, starts, shapes)
    return columns


def featurize(source: Source, task: BoundTask, *, limit: int | None, key: str | None = None) -> FeatureStore:
    """All features of a map-style source, numbered in row order. A row for which the task raises DataError is dropped and
    counted. limit: longest feature allowed (an assertion on tasks). key: of the cache, None for none.

    Called by `spcore.session` in every process; only the first to come computes where a cache is used.
    """
    assert source.length is not None, "streamed sources are read by `spcore.streaming`"
    folder = cache_folder() / "features" / key if key and source.length >= CACHE_FROM_ROWS else None
    if folder is None:
        return _featurized(source, task, limit)
    with _one_at_a_time(folder):
        if (folder / "index.json").is_file():
            try:
                return FeatureStore.load(folder)
            except (OSError, ValueError, EOFError) as error:
                log.warning("%s: damaged, made anew: %s", folder, error)
                shutil.rmtree(folder, ignore_errors=True)
        store = _featurized(source, task, limit)
        try:
            store.save(folder)
        except OutputError as error:  # a cache is a convenience
            log.warning("features are not cached: %s", error)
    return store


@contextlib.contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """The processes of a run ask for the same features at once: one makes them, the others wait. Where the cache cannot be locked,
    each makes its own."""
    with contextlib.ExitStack() as stack:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(folder.parent, os.O_RDONLY)
            stack.callback(os.close, handle)
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:
            log.debug("%s: not locked: %s", folder.parent, error)
        yield


def _featurized(source: Source, task: BoundTask, limit: int | None) -> FeatureStore:
    assert source.length is not None, "the caller looked"
    dropped = {
        reason: {"rows": len(lines), "first_lines": list(lines[:5])} for reason, lines in source.report.dropped.items()
    }
    counts, features = Counts(reader=dropped), []
    for at in range(0, source.length, _CHUNK):
        rows = source.read(range(at, min(at + _CHUNK, source.length)))
        for row_id, row in enumerate(rows, at):
            features.extend(numbered(row, row_id, task, counts, limit, source))
    return FeatureStore.of(features, counts)


def numbered(
    row: Row, row_id: int, task: BoundTask, counts: Counts, limit: int | None, source: Source | None = None
) -> list[Feature]:
    """Features of one row with their ids; counts them, or counts the row as dropped. source: that can say where the row stands."""
    counts.read += 1
    try:
        made = task.featurize(row)
    except DataError as error:
        counts.drop(error.message, row_id, source.place(row_id) if source is not None else None)
        return []
    counts.used += 1
    numbered_features = []
    for feature in made:
        assert limit is None or feature.length <= limit, (
            f"a feature of {feature.length} tokens where {limit} is the limit"
        )
        numbered_features.append(
            Feature(counts.features, row_id, feature.arrays, feature.length, truncated=feature.truncated)
        )
        counts.features += 1
        counts.truncated += feature.truncated > 0
        counts.truncated_tokens += feature.truncated
    return numbered_features


def cache_folder() -> Path:
    """Where caches lie: SLIMPAJAMA_CACHE, else XDG_CACHE_HOME/slimpajama, else ~/.cache/slimpajama."""
    if own := os.environ.get("SLIMPAJAMA_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "slimpajama"


def fingerprint(*parts: Any) -> str:
    """A hash of JSON-able parts."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]
