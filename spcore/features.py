"""Rows made into features: numbered, counted, kept as columns.

A `FeatureStore` gives features by position. Its arrays lie end to end with offsets, in memory (here) or in memory-mapped shards on
disk (`spcore.shards`); `spcore.featurizing` makes them of a data set.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from spcore.errors import DataError
from spcore.interfaces.dataset import Row, Source
from spcore.interfaces.task import BoundTask, Feature

_CUT = ("truncated", "truncated_tokens", "truncated_targets", "truncated_target_tokens")
_FIRST = 5
"""Rows that are named of those dropped for one reason."""


@dataclass
class Counts:
    """What became of the rows: read, used, features made, texts and targets cut, rows dropped by reason with the first row numbers and
    places. reader: what the reader of the files dropped before, of the whole split: reason -> rows and first lines."""

    read: int = 0
    used: int = 0
    features: int = 0
    truncated: int = 0
    truncated_tokens: int = 0
    truncated_targets: int = 0
    truncated_target_tokens: int = 0
    dropped: dict[str, list[int]] = field(default_factory=dict)
    dropped_total: dict[str, int] = field(default_factory=dict)
    places: dict[str, list[str]] = field(default_factory=dict)
    reader: dict[str, dict[str, Any]] = field(default_factory=dict)

    def drop(self, reason: str, row: int, place: str | None = None) -> None:
        """Count a dropped row. place: where it stands, None for its number."""
        self.dropped_total[reason] = self.dropped_total.get(reason, 0) + 1
        first = self.dropped.setdefault(reason, [])
        if len(first) < _FIRST:
            first.append(row)
            self.places.setdefault(reason, []).append(place or f"row {row}")

    def add(self, later: Counts) -> None:
        """Take in the counts of rows that follow."""
        for name in ("read", "used", "features", *_CUT):
            setattr(self, name, getattr(self, name) + getattr(later, name))
        for reason, n in later.dropped_total.items():
            self.dropped_total[reason] = self.dropped_total.get(reason, 0) + n
            for mine, theirs in ((self.dropped, later.dropped), (self.places, later.places)):
                mine[reason] = [*mine.get(reason, []), *theirs.get(reason, [])][:_FIRST]  # type: ignore[index, assignment]

    def to_json(self) -> dict[str, Any]:
        """For report.json."""
        dropped = {
            r: {"rows": n, "first_rows": self.dropped[r], "first": self.places[r]}
            for r, n in self.dropped_total.items()
        }
        return {
            "rows_read": self.read, "rows_used": self.used, "features": self.features, "texts_truncated": self.truncated,
            "tokens_truncated": self.truncated_tokens, "targets_truncated": self.truncated_targets,
            "target_tokens_truncated": self.truncated_target_tokens, "dropped": dropped,
            "dropped_by_reader": self.reader,
        }  # fmt: skip

    def remarks(self) -> list[str]:
        """Lines for the user about what was dropped or cut."""
        lines = []
        for reason, n in self.dropped_total.items():
            first = ", ".join(self.places.get(reason) or [f"row {row}" for row in self.dropped[reason]])
            lines.append(f"{n} of {self.read} rows dropped: {reason} ({first}{', ...' if n > _FIRST else ''})")
        if self.truncated:
            lines.append(
                f"{self.truncated} of {self.features} texts were longer than data.max_length: {self.truncated_tokens} tokens cut"
            )
        if self.truncated_targets:
            cut = f"{self.truncated_targets} of {self.features} targets were longer than the task allows"
            lines.append(f"{cut}: {self.truncated_target_tokens} tokens cut")
        return lines


@dataclass(frozen=True)
class Column:
    """One array of all features. data: all values end to end; starts [n + 1]; shapes: [n, ndim], -1 where a feature lacks it.
    dtype: of the array as the task made it; data may hold it in a narrower one."""

    data: np.ndarray
    starts: np.ndarray
    shapes: np.ndarray
    dtype: np.dtype[Any]

    def value(self, i: int) -> np.ndarray | None:
        """A feature's array, None where it has none; read-only where it is on disk."""
        first, end = self.starts[i : i + 2].tolist()
        shape = self.shapes[i].tolist()
        if not (shape[0] >= 0 if shape else end > first):
            return None
        part = self.data[first:end]
        if len(shape) != 1:
            part = part.reshape(shape)
        if part.dtype != self.dtype:
            part = part.astype(self.dtype)
            part.flags.writeable = False
        return part


class Arrays(Protocol):
    """Arrays of features by position."""

    def arrays(self, i: int) -> dict[str, np.ndarray]:
        """name -> array of a feature."""


class Columns:
    """Arrays of features that follow each other. named: name -> `Column`."""

    def __init__(self, named: Mapping[str, Column]) -> None:
        self.named = dict(named)

    def arrays(self, i: int) -> dict[str, np.ndarray]:
        """See `Arrays.arrays`."""
        found = ((name, column.value(i)) for name, column in self.named.items())
        return {name: value for name, value in found if value is not None}

    @classmethod
    def of(cls, features: list[dict[str, np.ndarray]]) -> Columns:
        """Columns of features' arrays, in memory."""
        names = dict.fromkeys(name for arrays in features for name in arrays)
        return cls({name: _column([arrays.get(name) for arrays in features]) for name in names})


def _column(values: list[Any]) -> Column:
    found = [None if value is None else np.asarray(value) for value in values]
    ndim = next(a.ndim for a in found if a is not None)
    flat = [a.ravel() if a is not None else np.empty(0, np.int64) for a in found]
    starts = np.concatenate([[0], np.cumsum([len(a) for a in flat])]).astype(np.int64)
    shapes = np.array([a.shape if a is not None else (-1,) * ndim for a in found], np.int64).reshape(len(found), ndim)
    data = np.concatenate([a for a in flat if len(a)] or [np.empty(0, np.int64)])
    return Column(data, starts, shapes, data.dtype)


class FeatureStore:
    """Features by position. rows: int64 [n], the row each came from. lengths: [n], tokens. counts: see `Counts`. ids: int64 [n];
    None: the positions. Any of them may lie on disk."""

    def __init__(
        self, rows: np.ndarray, lengths: np.ndarray, arrays: Arrays, counts: Counts, ids: np.ndarray | None = None
    ) -> None:
        self.rows, self.lengths, self.counts = rows, lengths, counts
        self._arrays, self._ids = arrays, ids
        self._added: Columns | None = None

    def __len__(self) -> int:
        """Features."""
        return len(self.lengths)

    def __getitem__(self, i: int) -> Feature:
        """The feature at a position; its arrays are not to be written to."""
        arrays = self._arrays.arrays(i)
        if self._added is not None:
            arrays.update(self._added.arrays(i))
        return Feature(self.id_of(i), int(self.rows[i]), arrays, int(self.lengths[i]))

    def id_of(self, i: int) -> int:
        """The id of the feature at a position."""
        return int(i) if self._ids is None else int(self._ids[i])

    @cached_property
    def ids(self) -> np.ndarray:
        """int64 [n], all ids; made when asked for where they are the positions."""
        return np.arange(len(self), dtype=np.int64) if self._ids is None else self._ids

    def annotate(self, rows: list[dict[str, Any]]) -> None:
        """Add arrays to all features: rows {"feature_id", name: array}, one a feature, in feature order."""
        assert [row["feature_id"] for row in rows] == self.ids.tolist(), "annotations do not cover the features"
        named = [{k: np.asarray(v) for k, v in row.items() if k not in ("feature_id", "row_id")} for row in rows]
        self._added = Columns({**(self._added.named if self._added else {}), **Columns.of(named).named})

    @classmethod
    def of(cls, features: Iterable[Feature], counts: Counts | None = None) -> FeatureStore:
        """A store in memory, of features as they are numbered."""
        found = list(features)
        ids, rows, lengths = (np.array([getattr(f, w) for f in found], np.int64) for w in ("id", "row_id", "length"))
        return cls(rows, lengths, Columns.of([f.arrays for f in found]), counts or Counts(), ids)


Outcome = list[Feature] | str
"""What became of a row: its features, or why it is dropped."""


def outcome(row: Row, task: BoundTask) -> Outcome:
    """What a task makes of a row: only a DataError drops it."""
    try:
        return task.featurize(row)
    except DataError as error:
        return error.message


def numbered(
    row: Row, row_id: int, task: BoundTask, counts: Counts, limit: int | None, source: Source | None = None
) -> list[Feature]:
    """Features of one row with their ids; counts them, or counts the row as dropped. source: that can say where the row stands."""
    return counted(outcome(row, task), row_id, counts, limit, source)


def counted(
    made: Outcome, row_id: int, counts: Counts, limit: int | None, source: Source | None = None
) -> list[Feature]:
    """`numbered` of a row whose outcome is known. limit: longest feature allowed (an assertion on tasks)."""
    counts.read += 1
    if isinstance(made, str):
        counts.drop(made, row_id, source.place(row_id) if source is not None else None)
        return []
    counts.used += 1
    features = []
    for feature in made:
        assert limit is None or feature.length <= limit, (
            f"a feature of {feature.length} tokens where {limit} is the limit"
        )
        features.append(replace(feature, id=counts.features, row_id=row_id))
        counts.features += 1
        counts.truncated += feature.truncated > 0
        counts.truncated_tokens += feature.truncated
        counts.truncated_targets += feature.truncated_target > 0
        counts.truncated_target_tokens += feature.truncated_target
    return features


def cache_folder() -> Path:
    """Where caches lie: SLIMPAJAMA_CACHE, else XDG_CACHE_HOME/slimpajama, else ~/.cache/slimpajama."""
    if own := os.environ.get("SLIMPAJAMA_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "slimpajama"


def fingerprint(*parts: Any) -> str:
    """A hash of JSON-able parts."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]
