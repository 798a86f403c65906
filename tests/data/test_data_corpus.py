"""Data set `corpus`: what a document is, where it stands, what is left out and told, and how some are held out."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import zstandard
from data_tools import all_rows, as_jsonl, write
from pyarrow import parquet

from spcore.errors import DataError, OutputError, SourceError
from spcore.interfaces.dataset import Source
from spcore.testing import check_dataset
from spcore_data import corpus_files, corpus_index, corpus_pieces
from spcore_data.corpus import Corpus
from spcore_data.options import CorpusOptions

LONG = "word " * 600


def corpus(source: object, split: str | None = None, **options: Any) -> Source:
    named = [str(s) for s in source] if isinstance(source, list) else str(source)
    return Corpus(CorpusOptions.model_validate({"source": named, **options})).open(split)


def texts(source: object, split: str | None = None, **options: Any) -> list[str]:
    return [row["text"] for row in all_rows(corpus(source, split, **options))]


def blob(content: bytes) -> corpus_index.Content:
    return corpus_index.Content(content)


@pytest.mark.parametrize(
    ("documents", "content", "expected"),
    [
        ("file", "one\n\ntwo\n", ["one\n\ntwo\n"]), ("file", "\ufeffone\r\ntwo\r\n", ["one\ntwo\n"]),
        ("line", "one\ntwo\r\n\n  \nthree", ["one", "two", "three"]), ("line", "\ufeffone\n", ["one"]),
        ("blank-line", "one\nmore\n\n\n \ntwo\r\n\r\nthree\n", ["one\nmore", "two", "three"]),
        ("<|end|>", "one\n<|end|>\ntwo\n\nmore<|end|><|end|>three", ["one", "two\n\nmore", "three"]),
        ("auto", "short\nlines\n", ["short\nlines\n"]), ("auto", f"{LONG}\n{LONG}x\n", [LONG, f"{LONG}x"]),
        ("auto", LONG, [LONG]), ("line", "last\n\n\n", ["last"]), ("##", "a\n###b", ["a", "#b"]),
    ],
)  # fmt: skip
def test_what_a_document_is(documents: str, content: str, expected: list[str], tmp_path: Path) -> None:
    file = write(tmp_path / "a.txt", content)
    assert texts(file, documents=documents) == expected
    packed = tmp_path / "b.txt.gz"
    packed.write_bytes(gzip.compress(content.encode()))
    assert texts(packed, documents=documents) == expected


@pytest.mark.parametrize("documents", ["file", "line", "blank-line", "<|end|>"])
@pytest.mark.parametrize("seed", range(4))
def test_documents_are_those_of_a_plain_reading(
    documents: str, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of a few bytes, so that every end is cut through somewhere."""
    monkeypatch.setattr(corpus_pieces, "_BLOCK", 5 + seed)
    parts = ["a", "é", "文", "🎈", " ", "\n", "\n\n", "\r\n", "<|end|>", "<|", "b c", " \n\n\n"]
    rng = np.random.default_rng(seed)
    content = "".join(rng.choice(parts, 400))
    text = content.replace("\r\n", "\n")
    if documents == "file":
        expected = [text]
    elif documents == "blank-line":
        expected = [part.strip("\n") for part in re.split(r"\n[ \t]*\n", text)]
    else:
        expected = [part.strip("\n") for part in text.split("\n" if documents == "line" else documents)]
    file = write(tmp_path / "a.txt", content)
    assert texts(file, documents=documents) == [part for part in expected if part.strip()]


@pytest.mark.parametrize("documents", ["file", "line", "blank-line"])
def test_long_documents_are_cut_into_pieces_that_make_them_up(
    documents: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus_pieces, "_BLOCK", 40)
    monkeypatch.setattr(corpus_files, "pieces", lambda blob, documents: corpus_pieces.pieces(blob, documents, 60))
    content = {
        "file": "".join(f"zeile {n} äöü\n" for n in range(30)) + "🎈" * 50,
        "line": "文" * 70,
        "blank-line": "".join(f"line {n}\n" for n in range(30)).strip(),
    }[documents]
    found = texts(
        write(tmp_path / "a.txt", f"{content}{'' if documents == 'file' else chr(10) * 2 + 'next'}"),
        documents=documents,
    )
    whole = found if documents == "file" else found[:-1]
    assert "".join(whole) == content
    assert len(whole) > 3
    assert all(len(piece.encode()) <= 60 for piece in whole)
    assert documents == "file" or found[-1] == "next"
    source = corpus(tmp_path / "a.txt", documents=documents)
    assert "1 documents are longer than 2 MiB; each is cut into pieces, at a line's end" in source.report.remarks
    (hashes,) = {tuple(source._files[0].index.entries[: len(whole), -1])}  # type: ignore[attr-defined]
    assert len(set(hashes)) == 1, "so that a share that is held out takes all or none of them"


def test_json_lines_and_parquet(tmp_path: Path) -> None:
    rows = [{"id": n, "content": f"text {n}\nmore" if n != 3 else " ", "title": "t"} for n in range(3000)]
    expected = [row["content"] for row in rows if row["id"] != 3]
    lines = write(tmp_path / "a.jsonl", as_jsonl(rows))
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "b.parquet", row_group_size=700)
    for path, place in ((lines, f"{lines}:11"), (tmp_path / "b.parquet", f"{tmp_path / 'b.parquet'}: row 10")):
        source = corpus(path)
        assert [row["text"] for row in all_rows(source)] == expected
        assert {reason: list(lines) for reason, lines in source.report.dropped.items()} == {
            "empty document": [4 if path == lines else 3]
        }
        assert source.report.read == 3000
        assert source.place(9) == place
        wanted = [2998, 0, 1500, 0, 700]
        assert [row["text"] for row in source.read(wanted)] == [expected[n] for n in wanted]
        assert texts(path, text="title") == ["t"] * 3000
    assert texts([lines, tmp_path / "b.parquet"]) == expected * 2


def test_what_is_no_document_is_counted(tmp_path: Path) -> None:
    file = write(tmp_path / "a.txt", b"one\n\nZ\xfcrich\nt\0o\n  \nthree\n")
    source = corpus(file, documents="line")
    assert [row["text"] for row in all_rows(source)] == ["one", "three"]
    assert {reason: list(lines) for reason, lines in source.report.dropped.items()} == {
        "empty document": [2, 5], "not UTF-8": [3], "a NUL byte: not text, or damaged": [4],
    }  # fmt: skip
    assert [source.place(n) for n in (0, 1)] == [f"{file}:1", f"{file}:6"]
    rows = write(
        tmp_path / "b.jsonl", b'{"text": "one"}\n\n{"text": "Z\xfcrich"}\n{"text": null}\n{"other": 1, "text": "two"}\n'
    )
    assert texts(rows) == ["one", "two"]
    assert {r: list(n) for r, n in corpus(rows).report.dropped.items()} == {
        "empty line": [2], "not UTF-8": [3], "empty document": [4],
    }  # fmt: skip
    both = corpus([file, rows], documents="line").report
    assert next(iter(both.dropped)) == "a.txt: empty document"
    assert [facts["document"] for facts in both.files] == ["line", "row, 'text'"]


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("a.txt", b"\xff\xfeo\0n\0e\0", {}, "a.txt:1: UTF-16; a corpus is UTF-8"),
        ("a.txt", b"Z\xfcrich", {}, "a.txt:1: not UTF-8, as are 1 of 1 documents. Convert it"),
        ("a.txt", b"", {}, "a.txt: no documents: nothing in it"),
        ("a.txt", b" \n", {}, "a.txt: no documents: empty document"),
        ("a.csv", b"text\none\n", {}, "a.csv: csv; a corpus is plain text, JSON lines or Parquet. Data set `files` reads it"),
        ("a.jsonl", b'{"text": "one"}\n{"text": ', {}, "a.jsonl:2: not JSON"),
        ("a.jsonl", b'["one"]\n', {}, "a.jsonl:1: found a list, expected an object"),
        ("a.jsonl", b'{"text": 3}\n', {}, "a.jsonl:1: column 'text' holds a number, expected text"),
        ("a.jsonl", b'{"txt": "one"}\n', {}, "a.jsonl: no column 'text', 'content', 'document': the data has txt. Say which"),
        ("a.jsonl", b'{"txt": "one"}\n', {"text": "text"}, "unknown column 'text'; did you mean 'txt'?"),
        ("a.parquet", b"PAR1 no more", {}, "a.parquet: not a whole Parquet file"),
        ("a.txt.gz", gzip.compress(b"one\ntwo" * 99, mtime=0)[:-9], {}, "the compressed file is damaged or cut short: it ends early"),
        ("a.txt", b"PK\x03\x04", {}, "a ZIP archive"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_one_line(
    name: str, content: bytes, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError) as caught:
        corpus(write(tmp_path / name, content), **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_folders_and_globs_take_what_a_corpus_reads(tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.txt", "A")
    write(tmp_path / "in" / "b.jsonl", as_jsonl([{"text": "B"}]))
    write(tmp_path / "in" / "c.csv", "text\nC\n")
    assert texts(tmp_path / "in") == ["A", "B"]
    assert (
        f"{tmp_path / 'in'}: not read, being no plain text, JSON lines or Parquet: c.csv"
        in corpus(tmp_path / "in").report.remarks
    )
    write(tmp_path / "code" / "x.py", "print()\n")
    assert texts(f"{tmp_path}/code/*.py") == ["print()\n"]
    with pytest.raises(SourceError, match="no such file"):
        corpus(tmp_path / "nowhere.txt")
    write(tmp_path / "in" / "dev.txt", "D")
    assert texts(tmp_path / "in", "validation") == ["D"]
    with pytest.raises(SourceError, match=r"dev\.txt is split `validation` by its name, and `holdout` makes another"):
        corpus(tmp_path / "in", holdout=0.5)


def test_documents_held_out_stay_so_when_others_come(tmp_path: Path) -> None:
    documents = [f"document {n % 900}" for n in range(1000)]
    write(tmp_path / "in" / "b.jsonl", as_jsonl([{"text": text} for text in documents]))
    held = [texts(tmp_path / "in", split, holdout=0.1) for split in ("train", "validation")]
    assert sorted(held[0] + held[1]) == sorted(documents)
    assert not set(held[0]) & set(held[1]), "a copy is on the side of the first"
    assert 50 < len(held[1]) < 160
    write(tmp_path / "in" / "a.txt", "\n".join(f"line {n}" for n in range(500)))
    more = [texts(tmp_path / "in", split, holdout=0.1, documents="line") for split in ("train", "dev")]
    assert set(held[0]) <= set(more[0])
    assert set(held[1]) <= set(more[1])
    source = corpus(tmp_path / "in", "validation", holdout=0.1, documents="line")
    assert [source.read([n])[0]["text"] for n in range(len(more[1]))] == more[1]
    with pytest.raises(SourceError, match="unknown split 'test'; known: train, validation"):
        corpus(tmp_path / "in", "test", holdout=0.1)
    with pytest.raises(DataError, match=r"split 'validation' is empty: of 1 documents .* data.holdout_by=tail"):
        corpus(write(tmp_path / "one.txt", "one\n"), "validation", holdout=0.01)


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("share", [0.1, 0.25, 1 / 3, 0.9])
def test_the_tail_is_the_last_characters(
    newline: str, share: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    content = "".join(rng.choice(["a", "é", "文", "🎈", newline, f"{newline}{newline}"], 997))
    text = content.replace("\r\n", "\n")
    file = write(tmp_path / "a.txt", content)
    border = int(len(text) * (1 - share))
    for most in (10**6, 100):
        cut = lambda blob, documents, most=most: corpus_pieces.pieces(blob, documents, most)  # noqa: E731
        monkeypatch.setattr(corpus_files, "pieces", cut)
        parts = [corpus(file, split, holdout=share, holdout_by="tail") for split in ("train", "validation")]
        read = ["".join(row["text"] for row in all_rows(part)) for part in parts]
        assert read == [text[:border], text[border:]]
        assert parts[1].place(0) == f"{file}:{text.count(chr(10), 0, border) + 1}"
        assert parts[0].fingerprint != parts[1].fingerprint


def test_the_tail_of_documents_begins_with_a_whole_one(tmp_path: Path) -> None:
    file = write(tmp_path / "a.txt", "\n".join("x" * 10 for _ in range(7)))
    assert [
        len(texts(file, s, documents="line", holdout=0.25, holdout_by="tail")) for s in ("train", "validation")
    ] == [6, 1]


def test_fingerprints_are_of_what_is_read(tmp_path: Path) -> None:
    found = {}
    for name, content in {"a": "one\ntwo\n", "b": "one\ntwo\n", "c": "one\ntwp\n", "d": "one two\n"}.items():
        found[name] = corpus(write(tmp_path / f"{name}.txt", content), documents="line").fingerprint
    assert found["a"] == found["b"]
    assert len({*found.values(), corpus(tmp_path / "a.txt").fingerprint}) == 4
    write(tmp_path / "a.txt", "one\ntwq\n")
    assert corpus(tmp_path / "a.txt", documents="line").fingerprint != found["a"]


def test_a_file_that_changes_while_it_is_read_is_told(tmp_path: Path) -> None:
    file = write(tmp_path / "a.txt", "one\ntwo\nthree\n")
    source = corpus(file, documents="line")
    write(file, "a\nwholly\nother text\n")
    with pytest.raises(DataError, match=r"a\.txt: the file was changed after it was opened") as caught:
        source.read([0])
    assert caught.value.hint == "Start again"


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every file is large: indices and unpacked content are kept there."""
    monkeypatch.setenv("SLIMPAJAMA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(corpus_index, "LARGE", 1)
    return tmp_path / "cache" / "corpora"


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.txt.zst", "a.jsonl", "a.parquet"])
def test_large_files_are_indexed_once(name: str, kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"text": f"document {n}" if n % 9 else ""} for n in range(500)]
    plain = "\n".join(row["text"] for row in rows).encode()
    content = {
        "a.txt": plain, "a.txt.gz": gzip.compress(plain[:999]) + gzip.compress(plain[999:]) + b"\0" * 7,
        "a.txt.zst": zstandard.compress(plain), "a.jsonl": as_jsonl(rows).encode() if isinstance(as_jsonl(rows), str) else as_jsonl(rows),
    }  # fmt: skip
    file = tmp_path / name
    if name == "a.parquet":
        parquet.write_table(pa.Table.from_pylist(rows), file)
    else:
        file.write_bytes(content[name])
    first = corpus(file, documents="line")
    expected = [row["text"] for row in rows if row["text"]]
    assert [row["text"] for row in all_rows(first)] == expected

    def again(*_: object) -> corpus_index.Index:
        raise AssertionError("the index is there already")

    with monkeypatch.context() as without:
        for kind in (corpus_files.PlainText, corpus_files.JsonLines, corpus_files.ParquetFile):
            without.setattr(kind, "_built", again)
        second = corpus(file, documents="line")
        assert [row["text"] for row in all_rows(second)] == expected
        assert (second.fingerprint, second.report) == (first.fingerprint, first.report)
        assert [second.place(n) for n in range(9)] == [first.place(n) for n in range(9)]
    (index,) = kept.glob("*/index.npy")
    index.write_bytes(index.read_bytes()[:-8])
    assert texts(file, documents="line") == expected
    assert corpus(file, documents="line").fingerprint == first.fingerprint


def test_a_changed_file_is_indexed_anew(kept: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "a.txt", "one\ntwo\n")
    assert texts(file, documents="line") == ["one", "two"]
    write(file, "two\none\n")
    assert texts(file, documents="line") == ["two", "one"]


def test_an_index_that_cannot_be_kept_stops_nothing(
    kept: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "cache", "a file where the folder should be")
    assert texts(write(tmp_path / "a.txt", "one\ntwo\n"), documents="line") == ["one", "two"]
    assert "is not kept" in caplog.text
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"one"))
    with pytest.raises(OutputError, match="cannot be written"):
        corpus(tmp_path / "b.txt.gz")


def test_the_conformance_suite(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "one\n\ntwo\n\nthree\n" * 30)
    dataset = Corpus(CorpusOptions(source=str(tmp_path / "a.txt"), documents="blank-line", holdout=0.3))
    report = check_dataset(dataset)
    assert report.ok, str(report)
    source = dataset.open("train")
    dealt = [json.dumps(row) for shard in range(3) for row in source.stream(shard, 3, 0)]
    assert sorted(dealt) == sorted(json.dumps(row) for row in all_rows(source))
    assert list(source.stream(1, 3, 2)) == list(source.stream(1, 3, 0))[2:]


def test_holdout_by_goes_with_holdout() -> None:
    with pytest.raises(ValueError, match="`holdout_by` says how `holdout` is taken"):
        CorpusOptions(source="a.txt", holdout_by="tail")
