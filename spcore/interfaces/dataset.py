"""Kind `dataset`: where rows come from.

`Dataset.open` is called by `spcore.session.assemble` in every process. The core maps columns, takes splits and limits; a
source only reads.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Row = dict[str, Any]
"""Column -> value, in plain Python types: str, int, float, bool, None, list, dict."""


@dataclass(frozen=True)
class Column:
    """kind: "text", "integer", "number", "boolean", "list", "object".

    labels: the names of a class column's values, in the order of their ids (the rows then hold ids or names);
    counts: rows by value, as str; None where there are too many different values to be labels, or it is not known.
    largest: of a column of lists that are texts already tokenised, the largest id of all; None: it holds none, or it is not known.
    """

    kind: str
    labels: tuple[str, ...] | None = None
    counts: Mapping[str, int] | None = None
    largest: int | None = None


@dataclass(frozen=True)
class Schema:
    """columns: in file order. default_task: the task a data set is known for ("text-classification"), and
    `task_options` what that task should be told (metric, problem type, label names, label offset)."""

    columns: Mapping[str, Column]
    default_task: str | None = None
    task_options: Mapping[str, Any] = field(default_factory=dict)
    column_map: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ReadReport:
    """What became of a file's rows: read, dropped by reason with the line numbers, and remarks for the user. files: what
    each file was taken for: path, format, rows, and what else there is to say (compression, encoding, delimiter, ...)."""

    read: int
    dropped: Mapping[str, Sequence[int]] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    files: tuple[Mapping[str, Any], ...] = ()


class Source(ABC):
    """Rows of one split. Map style: `length` is a number and `read` works. Streamed: `length` is None and `stream` works."""

    schema: Schema
    fingerprint: str
    length: int | None
    report: ReadReport = ReadReport(0)
    size: int | None = None
    """Bytes of its rows, about; None: not known. What is large by it is made into features by several processes, on disk."""

    @abstractmethod
    def read(self, ids: Sequence[int]) -> list[Row]:
        """Rows by position, 0 <= id < length, in the order of `ids`."""

    def place(self, row: int) -> str:
        """Where a row stands, for people: "reviews.csv:17". By position, as in `read`; here its number."""
        return f"row {row}"

    @abstractmethod
    def stream(self, shard: int, shards: int, skip: int) -> Iterator[Row]:
        """Rows of one of `shards` logical shards, the first `skip` left out. The number of shards is fixed for a run,
        whatever the world size; together they give each row once, in the same order each time. A run that goes on skips what
        it has taken: at less than the price of reading it, where the source can. UserError, OSError, ValueError and EOFError that
        it raises are told with their place."""


class Dataset(ABC):
    """Kind `dataset`; made with the component's options, among them `source` where the recipe gives one."""

    @abstractmethod
    def open(self, split: str | None) -> Source:
        """Open a split; None: the only one, or "train". Raises SourceError for an unknown split, naming those there are."""
