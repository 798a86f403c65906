"""A data set of the Hub as a stream: read as it is needed, nothing downloaded before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import datasets
import pyarrow as pa
from huggingface_hub.errors import HfHubHTTPError, HTTPError

from spcore.errors import SourceError
from spcore.features import fingerprint
from spcore.interfaces.dataset import Column, Row, Schema, Source
from spcore_data.table import kind_of, plain_rows, plain_table

BROKEN = (OSError, ValueError, RuntimeError, HTTPError, HfHubHTTPError, datasets.exceptions.DatasetsError, pa.ArrowException)  # fmt: skip
"""What reading raises where a connection or a file gives no more."""
_BATCH = 1000


class StreamedSource(Source):
    """The rows of a split in the order of its files. A logical shard has every so manyth file; where there are fewer files than
    shards, the last shards are empty. content: a hash of what the split is made of. declared: label names by column."""

    length = None

    def __init__(
        self, split: datasets.IterableDataset, subject: str, content: str, *, advice: Mapping[str, Any]
    ) -> None:
        self._split, self._subject = split.with_format("arrow"), subject
        self.fingerprint = fingerprint(content, "stream")
        first = next(self._tables(self._split), None)
        if first is None:
            raise SourceError(f"data {subject!r}: the stream has no rows")
        declared = {
            name: tuple(feature.names)
            for name, feature in (split.features or {}).items()
            if isinstance(feature, datasets.ClassLabel)
        }
        columns = {name: Column(kind_of(kind), declared.get(name)) for name, kind in _types(first).items()}
        self.schema = Schema(columns, **advice)

    def read(self, ids: Sequence[int]) -> list[Row]:
        """A stream has no positions."""
        raise AssertionError("a source without a length is read by `stream`")

    def stream(self, shard: int, shards: int, skip: int) -> Iterator[Row]:
        """See `Source.stream`. Rows that are skipped are passed over as tables: a million in about a second."""
        parts = min(shards, self._split.num_shards)
        if shard >= parts:
            return
        for table in self._tables(self._split.shard(num_shards=parts, index=shard)):
            if skip >= table.num_rows:
                skip -= table.num_rows
                continue
            yield from self._rows(table.slice(skip))
            skip = 0

    def _rows(self, table: pa.Table) -> Iterator[Row]:
        """Rows with the schema's columns: one that a later file lacks is missing there, one that it has beyond them is none."""
        nested = [name for name, column in self.schema.columns.items() if column.kind in ("list", "object")]
        for row in plain_rows(plain_table(table), [name for name in nested if name in table.column_names]):
            found = {name: row.get(name) for name in self.schema.columns}
            for name, column in self.schema.columns.items():
                value = found[name]
                if column.labels is not None and isinstance(value, int) and value < 0:
                    found[name] = None  # stands for no label
            yield found

    def _tables(self, part: datasets.IterableDataset) -> Iterator[pa.Table]:
        try:
            yield from part.iter(batch_size=_BATCH)
        except BROKEN as error:
            said = " ".join(str(error).split())[:200] or "no more was said"
            raise SourceError(f"data {self._subject!r}: {type(error).__name__}: {said}") from error


def _types(table: pa.Table) -> dict[str, pa.DataType]:
    plain = plain_table(table)
    return dict(zip(plain.column_names, plain.schema.types, strict=True))
