"""Rows in a table: kinds, counts, plain values, order, streams, fingerprints."""

from __future__ import annotations

import datetime as dt
import decimal
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from data_tools import ROWS, WRITERS, all_rows, as_jsonl, opened, write
from pyarrow import parquet

from spcore.interfaces.dataset import Column
from spcore.testing.suites.dataset import check_dataset
from spcore_data.files import Files
from spcore_data.options import FilesOptions
from spcore_data.table import MOST_VALUES, TableSource, table_of


def column(values: list[Any] | pa.Array) -> Column:
    return TableSource(pa.table({"c": pa.array(values)}), "x").schema.columns["c"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["a", "b", "a", None], Column("text", None, {"a": 2, "b": 1})),
        ([1, 0, 1, None], Column("integer", None, {"1": 2, "0": 1})),
        ([True, False, True], Column("boolean", None, {"True": 2, "False": 1})),
        ([1.0, 2.0, 1.0, float("nan")], Column("number", None, {"1.0": 2, "2.0": 1})),
        ([["a", "b"], ["a"], [], None], Column("list", None, {"a": 2, "b": 1})),
        ([[1], [2, 1]], Column("list", None, {"1": 2, "2": 1})),
        ([[[1]], [[2]]], Column("list")),
        ([{"x": 1}], Column("object")),
        ([None, None], Column("text", None, {})),
        ([[], []], Column("list", None, {})),
        (pa.array(["x", "y", "x"]).dictionary_encode(), Column("text", None, {"x": 2, "y": 1})),
        (pa.array(["x", "x"], pa.large_string()), Column("text", None, {"x": 2})),
        (pa.array([1, 2], pa.uint8()), Column("integer", None, {"1": 1, "2": 1})),
    ],
)
def test_kinds_and_counts(values: list[Any], expected: Column) -> None:
    assert column(values) == expected


def test_counts_end_at_a_thousand_values() -> None:
    counts = column(list(range(MOST_VALUES)) * 6).counts
    assert counts is not None
    assert len(counts) == MOST_VALUES
    assert column(list(range(MOST_VALUES + 1))).counts is None
    assert column([str(n) for n in range(10 * MOST_VALUES)]).counts is None
    assert column([*["a"] * 5 * MOST_VALUES, *map(str, range(MOST_VALUES))]).counts is None


def test_values_are_plain(tmp_path: Path) -> None:
    when = dt.datetime(2024, 5, 1, 12, 30, tzinfo=dt.timezone.utc)  # noqa: UP017
    table = pa.table(
        {
            "when": [when], "day": [dt.date(2024, 5, 1)], "price": [decimal.Decimal("1.50")], "raw": [b"\xff\x00"],
            "category": pa.array(["x"]).dictionary_encode(), "nan": [float("nan")], "half": pa.array([0.5], pa.float32()),
            "deep": [[{"when": dt.date(2024, 5, 1), "x": float("nan"), "raw": b"a"}]],
        }
    )  # fmt: skip
    parquet.write_table(table, tmp_path / "a.parquet")
    assert all_rows(opened(tmp_path / "a.parquet")) == [
        {
            "when": "2024-05-01T12:30:00+00:00", "day": "2024-05-01", "price": 1.5, "raw": "/wA=", "category": "x",
            "nan": None, "half": 0.5, "deep": [{"when": "2024-05-01", "x": None, "raw": "YQ=="}],
        }
    ]  # fmt: skip
    report = check_dataset(Files(FilesOptions.model_validate({"source": str(tmp_path / "a.parquet")})))
    assert report.findings == [], str(report)


def test_label_names_that_a_file_declares(tmp_path: Path) -> None:
    names = {"names": ["neg", "pos"], "_type": "ClassLabel"}
    features = {
        "label": names,
        "tags": {"feature": names, "_type": "List"},
        "text": {"dtype": "string", "_type": "Value"},
    }
    table = pa.table({"label": [0, 1], "tags": [[0], [0, 1]], "text": ["a", "b"]})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    parquet.write_table(table, tmp_path / "a.parquet")
    columns = opened(tmp_path / "a.parquet").schema.columns
    assert columns["label"] == Column("integer", ("neg", "pos"), {"0": 1, "1": 1})
    assert columns["tags"].labels == ("neg", "pos")
    assert columns["text"].labels is None


def test_reading_by_position() -> None:
    source = TableSource(pa.table({"n": list(range(100))}), "x")
    assert [row["n"] for row in source.read([7, 3, 99, 3])] == [7, 3, 99, 3]
    assert [row["n"] for row in source.read(range(5, 8))] == [5, 6, 7]
    assert [row["n"] for row in source.read(range(8, 2, -2))] == [8, 6, 4]
    assert source.read([]) == []


@pytest.mark.parametrize(("rows", "shards", "skip"), [(10, 3, 0), (10, 3, 2), (2500, 2, 700), (2, 4, 0), (3, 1, 9)])
def test_streams(rows: int, shards: int, skip: int) -> None:
    source = TableSource(pa.table({"n": list(range(rows))}), "x")
    for shard in range(shards):
        got = [row["n"] for row in source.stream(shard, shards, skip)]
        assert got == list(range(shard, rows, shards))[skip:]


def test_the_fingerprint_tells_content_and_options(tmp_path: Path) -> None:
    first = write(tmp_path / "a.csv", "text,label\nx,1\ny,0\n")
    same = write(tmp_path / "b.csv", "text,label\nx,1\ny,0\n")
    other = write(tmp_path / "c.csv", "text,label\nx,1\ny,1\n")
    assert opened(first).fingerprint == opened(first).fingerprint == opened(same).fingerprint
    assert len({opened(first).fingerprint, opened(other).fingerprint, opened(first, header=False).fingerprint}) == 3


@pytest.mark.parametrize("kind", WRITERS)
def test_the_suite_for_data_sets(kind: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"a.{kind}", WRITERS[kind](ROWS))
    report = check_dataset(Files(FilesOptions.model_validate({"source": str(path)})))
    assert report.findings == [], str(report)


def test_missing_keys_and_lists_of_numbers() -> None:
    table, encoded, remarks = table_of([{"a": [1, 2.5]}, {"a": [3], "b": (True,)}, {}], "x")
    source = TableSource(table, "x", encoded=encoded)
    assert all_rows(source) == [{"a": [1.0, 2.5], "b": None}, {"a": [3.0], "b": [True]}, {"a": None, "b": None}]
    assert remarks == []


def test_many_files_of_nested_rows(tmp_path: Path) -> None:
    rows = [{"turns": [{"role": "user", "content": f"hi {n}"}], "n": n} for n in range(4)]
    write(tmp_path / "a.jsonl", as_jsonl(rows[:2]))
    write(tmp_path / "b.json", json.dumps(rows[2:]))
    assert all_rows(opened(tmp_path)) == rows
