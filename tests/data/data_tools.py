"""What the tests of data sets share: files made of rows, and their sources."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import zstandard
from pyarrow import ipc, parquet

from spcore.interfaces.dataset import Source
from spcore_data.files import Files
from spcore_data.options import FilesOptions

Rows = Sequence[Mapping[str, Any]]

ROWS: list[dict[str, Any]] = [
    {"text": "a fine, quiet film", "label": "good", "stars": 4, "score": 3.5},
    {"text": 'it says "no" a lot', "label": "bad", "stars": 1, "score": 0.25},
    {"text": "Ünïcödé 文本 \u2028 still one line", "label": "good", "stars": 5, "score": -1.0},
]


def opened(source: Path | str | Sequence[Path | str], split: str | None = None, **options: Any) -> Source:
    """A source of `files`."""
    named = [str(s) for s in source] if not isinstance(source, Path | str) else str(source)
    return Files(FilesOptions.model_validate({"source": named, **options})).open(split)


def all_rows(source: Source) -> list[dict[str, Any]]:
    """Every row."""
    assert source.length is not None
    return source.read(range(source.length))


def rows_of(source: Path | str, **options: Any) -> list[dict[str, Any]]:
    """Every row of a file."""
    return all_rows(opened(source, **options))


def write(path: Path, content: str | bytes) -> Path:
    """A file; text as UTF-8, line ends as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def as_csv(rows: Rows, delimiter: str = ",") -> bytes:
    """As the `csv` module writes it."""
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue().encode()


def as_jsonl(rows: Rows) -> bytes:
    """One object a line."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def as_parquet(rows: Rows) -> bytes:
    """By pyarrow."""
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.Table.from_pylist([dict(row) for row in rows]), sink)
    return bytes(sink.getvalue().to_pybytes())


def as_arrow(rows: Rows, *, stream: bool = False) -> bytes:
    """By pyarrow, as an IPC file or stream."""
    table = pa.Table.from_pylist([dict(row) for row in rows])
    sink = pa.BufferOutputStream()
    with (ipc.new_stream if stream else ipc.new_file)(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


WRITERS: dict[str, Callable[[Rows], bytes]] = {
    "csv": as_csv,
    "tsv": lambda rows: as_csv(rows, "\t"),
    "jsonl": as_jsonl,
    "json": lambda rows: json.dumps([dict(row) for row in rows], indent=1).encode(),
    "parquet": as_parquet,
    "arrow": as_arrow,
}
COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": lambda data: bytes(zstandard.ZstdCompressor().compress(data)),
}
