"""Each format with each compression gives back the rows it was written from, whatever the file is called."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import zstandard
from data_tools import COMPRESSIONS, ROWS, WRITERS, all_rows, as_arrow, as_csv, as_jsonl, opened, rows_of, write

from spcore.errors import DataError


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("kind", WRITERS)
def test_a_format_gives_back_its_rows(kind: str, compression: str, tmp_path: Path) -> None:
    data = COMPRESSIONS[compression](WRITERS[kind](ROWS))
    source = opened(write(tmp_path / f"rows.{kind}{compression}", data))
    assert all_rows(source) == ROWS
    assert list(source.schema.columns) == list(ROWS[0])
    kinds = [column.kind for column in source.schema.columns.values()]
    assert kinds == ["text", "text", "integer", "number"]
    assert source.report.read == len(ROWS)


@pytest.mark.parametrize("compression", [".gz", ".zst"])
@pytest.mark.parametrize("kind", WRITERS)
def test_compression_is_told_by_content(kind: str, compression: str, tmp_path: Path) -> None:
    data = COMPRESSIONS[compression](WRITERS[kind](ROWS))
    assert rows_of(write(tmp_path / f"rows.{kind}", data)) == ROWS


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_binary_formats_are_told_by_content(kind: str, tmp_path: Path) -> None:
    assert rows_of(write(tmp_path / "rows.csv", WRITERS[kind](ROWS))) == ROWS


def test_an_arrow_stream(tmp_path: Path) -> None:
    data = as_arrow(ROWS, stream=True)
    assert rows_of(write(tmp_path / "rows.arrow", data)) == ROWS
    assert rows_of(write(tmp_path / "rows", data)) == ROWS


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.ZstdCompressor().compress])
def test_compressed_parts_one_after_another(compress: object, tmp_path: Path) -> None:
    assert callable(compress)
    data = as_jsonl(ROWS)
    path = write(tmp_path / "rows.jsonl.gz", compress(data[:40]) + compress(b"") + compress(data[40:]))
    assert rows_of(path) == ROWS


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "json"])
def test_encodings(kind: str, encoding: str, tmp_path: Path) -> None:
    data = WRITERS[kind](ROWS).decode().encode(encoding)
    assert rows_of(write(tmp_path / f"rows.{kind}", data)) == ROWS


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r", "\r\r\n"])
def test_line_ends(ends: str, tmp_path: Path) -> None:
    text = ends.join(["text,label", "one,1", "two,0", ""])
    assert rows_of(write(tmp_path / "a.csv", text)) == [{"text": "one", "label": 1}, {"text": "two", "label": 0}]


def test_plain_text_is_a_row_a_line(tmp_path: Path) -> None:
    source = opened(write(tmp_path / "a.txt", "one, two\r\n\r\n  three \u2028 four\nlast"))
    assert all_rows(source) == [{"text": "one, two"}, {"text": "  three \u2028 four"}, {"text": "last"}]
    assert source.report.dropped == {"empty line": [2]}
    assert source.report.read == 4


def test_text_that_looks_like_columns_is_hinted_at(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "good\t1\nbad\t0\n")
    assert "every line has 1 tabs" in opened(path).report.remarks[0]
    assert rows_of(path, format="tsv") == [
        {"column_1": "good", "column_2": 1}, {"column_1": "bad", "column_2": 0},
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"version": "1", "data": ROWS}),
        json.dumps({name: [row[name] for row in ROWS] for name in ROWS[0]}),
        as_jsonl(ROWS).decode(),
        json.dumps(ROWS),
    ],
    ids=["data", "columns", "lines", "list"],
)
def test_shapes_of_json(text: str, tmp_path: Path) -> None:
    assert rows_of(write(tmp_path / "a.json", text)) == ROWS


def test_json_called_json_lines(tmp_path: Path) -> None:
    assert rows_of(write(tmp_path / "a.jsonl", json.dumps(ROWS, indent=2))) == ROWS


def test_an_object_alone_is_a_row(tmp_path: Path) -> None:
    assert rows_of(write(tmp_path / "a.json", json.dumps(ROWS[0], indent=2))) == ROWS[:1]


def test_nested_values_come_back_unchanged(tmp_path: Path) -> None:
    rows = [
        {"turns": [{"from": "a", "value": "x"}, {"from": "b", "tool": {"n": 1}}], "meta": {"k": None}, "odd": [1, "a"]},
        {"turns": [], "meta": {"other": [1, [2]]}, "odd": None},
    ]
    source = opened(write(tmp_path / "a.jsonl", as_jsonl(rows)))
    assert all_rows(source) == rows
    assert [c.kind for c in source.schema.columns.values()] == ["list", "object", "list"]


def test_values_of_several_kinds_become_text_with_a_remark(tmp_path: Path) -> None:
    source = opened(write(tmp_path / "a.jsonl", '{"a": 1}\n{"a": "x"}\n{"a": true}\n{"b": 2}\n'))
    assert [row["a"] for row in all_rows(source)] == ["1", "x", "true", None]
    assert "'a' holds values of several kinds" in source.report.remarks[0]


def test_json_that_utf8_cannot_hold(tmp_path: Path) -> None:
    source = opened(
        write(tmp_path / "a.jsonl", '{"a": "half \\ud83d", "b": ["\\ude00"]}\n{"a": "\\ud83d\\ude00", "b": []}\n')
    )
    assert all_rows(source) == [{"a": "half \ufffd", "b": ["\ufffd"]}, {"a": "😀", "b": []}]


def test_an_integer_too_large_for_a_column_stays_exact(tmp_path: Path) -> None:
    assert rows_of(write(tmp_path / "a.jsonl", json.dumps({"n": 2**70}) + "\n")) == [{"n": str(2**70)}]


def test_names_that_tell_no_format(tmp_path: Path) -> None:
    source = opened(write(tmp_path / "train.en", "Two men walk.\nA dog, too.\n"))
    assert all_rows(source) == [{"text": "Two men walk."}, {"text": "A dog, too."}]
    assert "read as text" in source.report.remarks[0]
    assert rows_of(write(tmp_path / "rows", as_jsonl(ROWS))) == ROWS
    assert rows_of(write(tmp_path / "rows.data", as_csv(ROWS))) == ROWS
    assert rows_of(write(tmp_path / "rows.data2", as_csv(ROWS, "\t"))) == ROWS


def test_a_format_that_is_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", as_jsonl(ROWS))
    assert rows_of(path, format="jsonl") == ROWS
    assert len(rows_of(path, format="text")) == len(ROWS)


@pytest.mark.parametrize(
    "option", [{"delimiter": ";"}, {"quoting": "none"}, {"header": True}, {"names": ["a"]}], ids=lambda o: next(iter(o))
)
def test_options_that_do_not_apply_are_refused(option: dict[str, object], tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", as_jsonl(ROWS))
    with pytest.raises(DataError, match=f"`{next(iter(option))}` is for csv.* and this is jsonl"):
        opened(path, **option)
