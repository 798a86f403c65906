"""Rows in an Arrow table, as a `Source`."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from spcore.errors import DataError
from spcore.features import fingerprint
from spcore.interfaces.dataset import Column, ReadReport, Row, Schema, Source

MOST_VALUES = 1000
"""Columns with more different values than this are not counted."""
_CHUNK = 1024
_SCALARS = (str, bool, int, float)


@dataclass(frozen=True)
class Origin:
    """Where rows that follow each other come from. lines: the line each begins on, None where the file has no lines."""

    path: str
    rows: int
    lines: Sequence[int] | None = None


def place_in(origins: Sequence[Origin], row: int) -> str:
    """Where a row stands: "a.csv:17", "a.parquet: row 3", and "row 3" where nobody knows."""
    at = row
    for origin in origins:
        if at < origin.rows:
            return f"{origin.path}: row {at}" if origin.lines is None else f"{origin.path}:{origin.lines[at]}"
        at -= origin.rows
    return f"row {row}"


class TableSource(Source):
    """An Arrow table.

    origins: where its rows come from, in order. content: a hash of what it was read from. declared: label names that the source itself states, by column. advice: the
    schema's other fields. encoded: columns of text that hold each value as JSON, because Arrow has no type that would
    give it back unchanged.
    """

    def __init__(
        self,
        table: pa.Table,
        content: str,
        *,
        report: ReadReport | None = None,
        declared: Mapping[str, tuple[str, ...]] | None = None,
        advice: Mapping[str, Any] | None = None,
        encoded: Mapping[str, str] | None = None,
        origins: Sequence[Origin] = (),
    ) -> None:
        self._origins = tuple(origins)
        self._encoded = dict(encoded or {})
        self._table = plain_table(table)
        self.length = table.num_rows
        self.size = table.nbytes
        self.fingerprint = fingerprint(content, table.schema.remove_metadata().to_string(), table.num_rows)
        self.report = report or ReadReport(table.num_rows)
        named = declared or {}
        columns = {
            name: Column(self._encoded[name]) if name in self._encoded else _column(values, named.get(name))
            for name, values in zip(self._table.column_names, self._table.columns, strict=True)
        }
        self._nested = [n for n, c in columns.items() if c.kind in ("list", "object") and n not in self._encoded]
        self.schema = Schema(columns, **(advice or {}))

    def read(self, ids: Sequence[int]) -> list[Row]:
        """See `Source.read`."""
        if isinstance(ids, range) and ids.step == 1:
            part = self._table.slice(ids.start, len(ids))
        else:
            part = self._table.take(pa.array([int(i) for i in ids], pa.int64()))
        rows = plain_rows(part, self._nested)
        for row in rows:
            for name in self._encoded:
                row[name] = None if row[name] is None else json.loads(row[name])
        return rows

    def place(self, row: int) -> str:
        """See `Source.place`."""
        return place_in(self._origins, row)

    def stream(self, shard: int, shards: int, skip: int) -> Iterator[Row]:
        """See `Source.stream`: every `shards`th row."""
        yield from rows_of_shard(self, shard, shards, skip)


def rows_of_shard(source: Source, shard: int, shards: int, skip: int) -> Iterator[Row]:
    """`Source.stream` of a source with a length."""
    assert source.length is not None, "it has a length"
    ids = range(shard, source.length, shards)[skip:]
    for at in range(0, len(ids), _CHUNK):
        yield from source.read(ids[at : at + _CHUNK])


def plain_rows(table: pa.Table, nested: Sequence[str]) -> list[Row]:
    """Rows of a plain table in plain Python types. nested: its columns of lists and objects."""
    rows: list[Row] = table.to_pylist()
    for row in rows:
        for name in nested:
            row[name] = _plain(row[name])
    return rows


def plain_table(table: pa.Table) -> pa.Table:
    """Columns whose values Python has no plain type for, as those that come nearest: categories as their values, decimals as
    numbers, dates and times as ISO text; NaN as missing."""
    columns = [_plain_column(column) for column in table.columns]
    return pa.table(dict(zip(table.column_names, columns, strict=True))) if columns else table


def _plain_column(column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        column = pa.chunked_array([chunk.storage for chunk in column.chunks], kind.storage_type)
        kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = column.type
    if pa.types.is_decimal(kind):
        return column.cast(pa.float64())
    if pa.types.is_temporal(kind) and not pa.types.is_duration(kind):
        values = [None if v is None else v.isoformat() for v in column.to_pylist()]
        return pa.chunked_array([pa.array(values, pa.string())])
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        try:
            return column.cast(pa.large_string())  # text of writers that do not mark it as such
        except pa.ArrowInvalid:
            return column
    if pa.types.is_floating(kind) and len(column):
        return pc.if_else(pc.is_nan(column), pa.scalar(None, kind), column)
    return column


def _plain(value: Any) -> Any:
    """A nested value in plain Python types; bytes as base64."""
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if value is None or isinstance(value, _SCALARS):
        return value
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _column(values: pa.ChunkedArray, labels: tuple[str, ...] | None) -> Column:
    kind = kind_of(values.type)
    if kind == "list":
        values = pc.list_flatten(values)
        if kind_of(values.type) in ("object", "list"):
            return Column(kind, labels, None)
    return Column(kind, labels, None if kind == "object" else _counts(values))


def _counts(values: pa.ChunkedArray) -> dict[str, int] | None:
    """Rows by value, None where there are more than MOST_VALUES different ones. Missing values do not count."""
    sample = values.slice(0, 4 * MOST_VALUES)
    if len(values) > len(sample) and pc.count_distinct(sample).as_py() > MOST_VALUES:
        return None  # what is so with a part is so with the whole
    found = pc.value_counts(values)
    if len(found) > MOST_VALUES + 2:
        return None
    pairs = ((item["values"], item["counts"]) for item in found.to_pylist())
    counts = {str(v): n for v, n in pairs if v is not None and not (isinstance(v, float) and math.isnan(v))}
    return counts if len(counts) <= MOST_VALUES else None


def kind_of(arrow: pa.DataType) -> str:
    """The `Column.kind` of an Arrow type."""
    types = pa.types
    tests = {
        "text": (types.is_string, types.is_large_string, types.is_string_view, types.is_null),
        "integer": (types.is_integer,), "number": (types.is_floating,), "boolean": (types.is_boolean,),
        "list": (types.is_list, types.is_large_list, types.is_fixed_size_list),
    }  # fmt: skip
    return next((kind for kind, checks in tests.items() if any(check(arrow) for check in checks)), "object")


def table_of(
    rows: Sequence[Mapping[str, Any]], subject: str, origins: Sequence[Origin] = ()
) -> tuple[pa.Table, dict[str, str], list[str]]:
    """A table of rows; the kinds of its columns that are encoded as JSON; remarks. A column that a row lacks is missing
    there, NaN is missing; one whose values are of several kinds becomes text. Raises DataError that names `subject`."""
    columns: dict[str, pa.Array] = {}
    encoded: dict[str, str] = {}
    remarks: list[str] = []
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [_present(row.get(name)) for row in rows]
        kinds = {type(v) for v in values if v is not None}
        strange = next((kind for kind in kinds if not issubclass(kind, (*_SCALARS, dict, list, tuple))), None)
        if strange is not None:
            at = next(n for n, v in enumerate(values) if type(v) is strange)
            raise DataError(
                f"{subject}: row {at}, column {name!r}: {strange.__name__}; expected text, a number, a list or a dict"
            )
        if dict in kinds or ((list in kinds or tuple in kinds) and not _flat(values)):
            columns[name] = pa.array([None if v is None else json.dumps(v) for v in values], pa.string())
            encoded[name] = "list" if kinds <= {list, tuple} else "object"
            continue
        try:
            columns[name] = pa.array(values)
        except (pa.ArrowException, OverflowError):
            columns[name] = pa.array(
                [v if v is None or isinstance(v, str) else json.dumps(v) for v in values], pa.string()
            )
            first = next(v for v in values if v is not None)
            other = next((n for n, v in enumerate(values) if v is not None and type(v) is not type(first)), 0)
            where = (
                f" ({_name(values[other])} at {place_in(origins, other)})"
                if type(values[other]) is not type(first)
                else ""
            )
            remarks.append(f"{subject}: column {name!r} holds values of several kinds; they are read as text{where}")
    return pa.table(columns), encoded, remarks


def _present(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def _name(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)[:40]


def _flat(values: Sequence[Any]) -> bool:
    """Whether all values are lists of scalars of one kind."""
    if not all(v is None or isinstance(v, list | tuple) for v in values):
        return False
    kinds = {type(item) for v in values if v is not None for item in v if item is not None}
    return kinds <= {int, float} or (len(kinds) == 1 and kinds < set(_SCALARS))
