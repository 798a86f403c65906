"""CoNLL files: sentences of every writer, what is told by content, lines that are wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from data_tools import all_rows, opened, rows_of, write

from spcore.errors import DataError

TWO = [{"tokens": ["Ann", "met", "Bo"], "tags": ["B-PER", "O", "B-PER"]}, {"tokens": ["rain"], "tags": ["O"]}]
PLAIN = "Ann\tB-PER\nmet\tO\nBo\tB-PER\n\nrain\tO\n"
UNIVERSAL = "\n".join(
    ["# text = they don't", "1\tthey\tthey\tPRON\t_\t_\t2\tnsubj\t_\t_", "2-3\tdon't\t_\t_\t_\t_\t_\t_\t_\t_"]
    + [f"{n}\t{word}\t_\tAUX\t_\t_\t0\troot\t_\t_" for n, word in ((2, "do"), (3, "n't"))] + ["", "1\tgo\tgo\tVERB\t_\t_\t0\troot\t_\t_", ""]
)  # fmt: skip


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        (PLAIN, TWO),
        (PLAIN.replace("\t", " "), TWO),
        (PLAIN.replace("\n\n", "\n\t\n\n \n"), TWO),
        (PLAIN.replace("\n", "\r\n"), TWO),
        ("-DOCSTART-\tO\n\n" + PLAIN, TWO),
        ("# id = 7\n" + PLAIN + "\n# id = 8\n", TWO),
        ("#tag\tO\n#\tB-PER\n", [{"tokens": ["#tag", "#"], "tags": ["O", "B-PER"]}]),
        ("# B-PER\n\n#x O\n", [{"tokens": ["#"], "tags": ["B-PER"]}, {"tokens": ["#x"], "tags": ["O"]}]),
        ("two words\tO\nx\tB-A\n", [{"tokens": ["two words", "x"], "tags": ["O", "B-A"]}]),
        ("Ann\nmet\n\nBo\n", [{"tokens": ["Ann", "met"]}, {"tokens": ["Bo"]}]),
    ],
)
def test_sentences(content: str, rows: list[dict[str, Any]], tmp_path: Path) -> None:
    assert rows_of(write(tmp_path / "x.conll", content)) == rows


def test_more_columns_and_their_names(tmp_path: Path) -> None:
    file = write(tmp_path / "eng.conll", "-DOCSTART- -X- O O\n\nEU NNP I-NP I-ORG\nrejects VBZ I-VP O\n")
    source = opened(file)
    assert list(source.schema.columns) == ["tokens", "column_2", "column_3", "tags"]
    assert source.schema.columns["tags"].counts == {"I-ORG": 1, "O": 1}
    assert source.schema.default_task == "token-classification"
    assert source.report.files[0]["documents"] == 1
    assert rows_of(file, names=("tokens", "pos", "chunk", "ner"))[0]["ner"] == ["I-ORG", "O"]
    with pytest.raises(DataError, match="`names` has 2 names, and lines have 4 columns"):
        rows_of(file, names=("a", "b"))


def test_universal_dependencies(tmp_path: Path) -> None:
    rows = rows_of(write(tmp_path / "en.conllu", UNIVERSAL))
    assert [(row["tokens"], row["upos"]) for row in rows] == [
        (["they", "do", "n't"], ["PRON", "AUX", "AUX"]), (["go"], ["VERB"]),
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["train.txt", "eng.testa", "train.tsv", "train.csv"])
def test_told_by_content_under_any_name(name: str, tmp_path: Path) -> None:
    source = opened(write(tmp_path / name, PLAIN))
    assert all_rows(source) == TWO
    assert any("read as CoNLL" in line for line in source.report.remarks)


@pytest.mark.parametrize(
    "content",
    [
        "Ann B-PER\nmet O\n",  # no blank line: not told by content
        "one sentence here\n\nand one more there\n",
        "good\tO\n\nbad\tO\n",  # one tag says nothing
        "sentence\tlabel\n\na film\tB\n",
    ],
)
def test_what_is_not_told_by_content(content: str, tmp_path: Path) -> None:
    assert opened(write(tmp_path / "x.txt", content)).report.files[0]["format"] == "text"


def test_wrong_lines_drop_their_sentences_and_are_told(tmp_path: Path) -> None:
    content = PLAIN + "\nx\tO\ny\nz\tO\n\n\tO\n\nfine\tO\n"
    source = opened(write(tmp_path / "x.conll", content))
    assert all_rows(source) == [*TWO, {"tokens": ["fine"], "tags": ["O"]}]
    assert source.report.dropped == {"a line of another number of columns": [8], "a line with an empty column": [11]}
    assert source.report.read == 5
    assert source.place(2) == f"{tmp_path / 'x.conll'}:13"


def test_options_of_other_formats_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "x.conll", PLAIN)
    with pytest.raises(DataError, match="`header` is for csv and tsv, and this is conll"):
        rows_of(file, header=True)
    with pytest.raises(DataError, match="no word"):
        rows_of(write(tmp_path / "y.conll", "-DOCSTART- O\n\n# a = b\n"))
    assert rows_of(write(tmp_path / "z.conll", PLAIN.replace("\t", "|")), delimiter="|") == TWO
