"""Rows held in memory as a list of dicts, or in an Arrow table, as a `Source`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from spcore.features import fingerprint
from spcore.interfaces.dataset import Column, ReadReport, Row, Schema, Source

MOST_VALUES = 1000


class TableSource(Source):
    """An Arrow table. declared: label names that the source itself states, by column. advice: the schema's other fields."""

    def __init__(
        self, table: pa.Table, content: str, *, report: ReadReport | None = None,
        declared: Mapping[str, tuple[str, ...]] | None = None, advice: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self.table = table
        self.length = table.num_rows
        self.fingerprint = fingerprint(content, table.schema.to_string(), table.num_rows)
        self.report = report or ReadReport(table.num_rows)
        named = declared or {}
        columns = {name: _column(table.column(name), named.get(name)) for name in table.column_names}
        self.schema = Schema(columns, **(advice or {}))

    def read(self, ids: Sequence[int]) -> list[Row]:
        """See `Source.read`."""
        if isinstance(ids, range) and ids.step == 1:
            part = self.table.slice(ids.start, len(ids))
        else:
            part = self.table.take(pa.array(list(ids), pa.int64()))
        return [_plain(row) for row in part.to_pylist()]

    def stream(self, shard: int, shards: int, skip: int) -> Iterator[Row]:
        """See `Source.stream`: every `shards`th row."""
        assert self.length is not None
        ids = range(shard, self.length, shards)[skip:]
        for at in range(0, len(ids), MOST_VALUES):
            yield from self.read(list(ids[at : at + MOST_VALUES]))


def _plain(row: Row) -> Row:
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()}


def _column(values: pa.ChunkedArray, labels: tuple[str, ...] | None) -> Column:
    kind = _kind(values.type)
    flat = values
    if kind == "list":
        flat = pa.chunked_array([chunk.flatten() for chunk in values.chunks]) if values.num_chunks else values
    if kind == "object" or (kind == "list" and _kind(flat.type) == "object"):
        return Column(kind, labels, None)
    return Column(kind, labels, _counts(flat))


def _counts(values: pa.ChunkedArray) -> dict[str, int] | None:
    """Rows by value, None where there are more than MOST_VALUES different ones. Missing values do not count."""
    import pyarrow.compute as pc

    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if len(values) > 10 * MOST_VALUES and pc.count_distinct(values.slice(0, 4 * MOST_VALUES)).as_py() > 2 * MOST_VALUES:
        return None
    found = pc.value_counts(values)
    if len(found) > MOST_VALUES:
        return None
    pairs = ((item["values"], item["counts"]) for item in found.to_pylist())
    return {str(v): n for v, n in pairs if v is not None and not (isinstance(v, float) and math.isnan(v))}


def _kind(arrow: pa.DataType) -> str:
    tests = {
        "text": (pa.types.is_string, pa.types.is_large_string, pa.types.is_dictionary, pa.types.is_null),
        "integer": (pa.types.is_integer,), "number": (pa.types.is_floating, pa.types.is_decimal),
        "boolean": (pa.types.is_boolean,), "list": (pa.types.is_list, pa.types.is_large_list),
    }  # fmt: skip
    return next((kind for kind, checks in tests.items() if any(check(arrow) for check in checks)), "object")
