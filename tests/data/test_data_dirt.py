"""What is wrong with files is said in one line that names file and line."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest
import zstandard
from data_tools import ROWS, WRITERS, as_csv, opened, write

from spcore.errors import DataError

CSV = as_csv([{"text": f"row {n} " + os.urandom(9).hex(), "label": n % 2} for n in range(5000)])
CUT = {"gz": gzip.compress(CSV, mtime=0), "zst": zstandard.ZstdCompressor().compress(CSV)}


def refused(path: Path, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        opened(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert path.name in message
    return message


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", b"", "a.csv:1: the file is empty"),
        ("a.csv", b"\xef\xbb\xbf \n\n", "a.csv:1: the file is empty"),
        ("a.csv", b"text,label\n", "a.csv:1: a header and no rows"),
        ("a.csv", b"text,label\n\n\n", "a.csv:1: a header and no rows"),
        ("a.csv", b"text,label\none,1\ntw\0o,0\n", "a.csv:3: a NUL byte"),
        ("a.csv", b"\n<!DOCTYPE html>\n<html><body>sign in</body></html>", "a.csv:1: an HTML page"),
        ("a.json", b"<html>", "a.json:1: an HTML page"),
        ("a.csv", b"text,label\nok,1\ncaf\xe9,0\n", "a.csv:3: not UTF-8 (byte 0xe9)"),
        ("a.csv", "text,label\nok,1\n".encode("utf-16")[:-1], "a.csv:2: not UTF-16"),
        ("a.csv.gz", gzip.compress(b"", mtime=0), "a.csv.gz:1: the file is empty"),
        ("a.csv", b"PK\x03\x04rest", "a.csv:1: a ZIP archive"),
        ("a.csv", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a.csv:1: a pointer of Git LFS"),
        ("a.jsonl", b'{"a": 1}\n{"a": 2\n', "a.jsonl:2: not JSON"),
        ("a.jsonl", b'{"a": 1}\n\n[1]\n', "a.jsonl:3: found a list, expected an object"),
        ("a.jsonl", b'{"a": 1}\n3\n', "a.jsonl:2: found a number, expected an object"),
        ("a.json", b'[\n{"a": 1},\n{"a" 2}\n]', "a.json:3: not JSON"),
        ("a.json", b'[{"a": 1}, 2]', "item 1 is a number"),
        ("a.json", b'"text"', "found a text, expected a list of objects"),
        ("a.json", b"[]", "a.json:1: no rows"),
        ("a.json", b"[" * 100_000, "JSON that cannot be read"),
        ("a.parquet", b"PAR1 and then something else", "not a whole Parquet file"),
        ("a.parquet", WRITERS["parquet"](ROWS)[:-20], "not a whole Parquet file"),
        ("a.arrow", WRITERS["arrow"](ROWS)[:-20], "not a whole Arrow file"),
        ("a.parquet", b"text,label\n", "not a whole Parquet file"),
    ],
)  # fmt: skip
def test_a_damaged_file(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    assert said in refused(write(tmp_path / name, content))


@pytest.mark.parametrize("kind", CUT)
def test_a_compressed_file_that_ends_early(kind: str, tmp_path: Path) -> None:
    message = refused(write(tmp_path / f"a.csv.{kind}", CUT[kind][: len(CUT[kind]) // 2]))
    line = int(message.split(f"a.csv.{kind}:")[1].split(":")[0])
    assert "the compressed file is damaged or cut short: it ends early" in message
    assert line <= 5001
    assert kind == "zst" or line > 1000


@pytest.mark.parametrize("kind", CUT)
def test_a_compressed_file_with_a_wrong_byte(kind: str, tmp_path: Path) -> None:
    data = bytearray(CUT[kind])
    data[len(data) // 2 : len(data) // 2 + 40] = bytes(40)
    assert "damaged or cut short" in refused(write(tmp_path / f"a.csv.{kind}", bytes(data)))


def test_html_is_text_where_text_is_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "<html>\n")
    assert "an HTML page" in refused(path)
    assert opened(path, format="text").length == 1


def test_empty_lines_of_json_lines_are_counted(tmp_path: Path) -> None:
    lines = [json.dumps(ROWS[0]), "", json.dumps(ROWS[1]), "   ", ""]
    source = opened(write(tmp_path / "a.jsonl", "\n".join(lines)))
    assert source.length == 2
    assert source.report.dropped == {"empty line": [2]}


def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "text,label\nx,1\n")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read every file")
    assert "cannot be read: Permission denied" in refused(path)
