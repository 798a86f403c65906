"""CSV and TSV: quotes, headers, delimiters, types, rows of the wrong width."""

from __future__ import annotations

import csv
import threading
from pathlib import Path

import pytest
from data_tools import all_rows, as_csv, opened, rows_of, write

from spcore.errors import DataError

QUOTED_TEXT = "sentence\tlabel\n" + "".join(
    f"{text}\t{n % 2}\n"
    for n, text in enumerate(
        ['"It is late', "he said .", 'a "word" here', 'late ,"', '"Who ?" he asked', 'no "', "plain"]
    )
)


def test_quotes_that_are_text_in_tsv(tmp_path: Path) -> None:
    source = opened(write(tmp_path / "a.tsv", QUOTED_TEXT))
    assert [row["sentence"] for row in all_rows(source)] == [
        line.split("\t")[0] for line in QUOTED_TEXT.split("\n")[1:-1]
    ]
    assert source.report.dropped == {}
    assert "quotes are read as text" in source.report.remarks[0]


def test_a_quote_that_opens_and_closes_lines_later_is_text(tmp_path: Path) -> None:
    lines = ['"first', *["middle"] * 20, 'last"']
    text = "sentence\tlabel\n" + "".join(f"{line}\t1\n" for line in lines)
    assert [row["sentence"] for row in rows_of(write(tmp_path / "a.tsv", text))] == lines


def test_single_quote_tokens_between_empty_lines_are_text(tmp_path: Path) -> None:
    text = '"\tO\nHi\tO\n"\tO\n\nYou\tO\n' * 20
    source = opened(write(tmp_path / "a.tsv", text), header=False, names=["token", "tag"])
    assert source.length == 80
    assert len(source.report.dropped["empty line"]) == 20


@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_quotes_that_enclose(delimiter: str, tmp_path: Path) -> None:
    rows = [{"text": f'row {n}{delimiter} "said"\nand more', "label": n % 2} for n in range(12)]
    assert rows_of(write(tmp_path / ("a.tsv" if delimiter == "\t" else "a.csv"), as_csv(rows, delimiter))) == rows


def test_tsv_in_which_every_field_is_quoted(tmp_path: Path) -> None:
    text = '"text"\t"label"\n"one"\t"1"\n"two"\t"0"\n'
    source = opened(write(tmp_path / "a.tsv", text))
    assert all_rows(source) == [{"text": "one", "label": 1}, {"text": "two", "label": 0}]
    assert "quotes are read as enclosing" in source.report.remarks[0]


def test_quoting_as_asked(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'text,label\n"one",1\n"two",0\n')
    assert [row["text"] for row in rows_of(path)] == ["one", "two"]
    assert [row["text"] for row in rows_of(path, quoting="none")] == ['"one"', '"two"']
    assert opened(path).report.remarks == ()


def test_one_stray_quote_costs_one_row(tmp_path: Path) -> None:
    lines = [f'"text {n}, more",{n % 2}' for n in range(40)]
    lines[10] = '"never closed, 1'
    source = opened(write(tmp_path / "a.csv", "text,label\n" + "\n".join(lines) + "\n"))
    assert source.length == 39
    assert source.report.dropped == {"quotes that do not balance": [12]}


def test_long_fields_leave_the_limit_of_the_process_alone(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    path = write(tmp_path / "a.csv", 'text,label\n"' + "long, " * 50_000 + '",1\n"x",0\n')
    threads = [threading.Thread(target=rows_of, args=(path,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(rows_of(path)[0]["text"]) == 300_000
    assert csv.field_size_limit() == before


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
def test_delimiters_of_csv(delimiter: str, tmp_path: Path) -> None:
    rows = [{"text": f"row {n}: a, b", "label": n % 2, "share": f"{n},5"} for n in range(9)]
    assert rows_of(write(tmp_path / "a.csv", as_csv(rows, delimiter))) == rows


def test_a_delimiter_of_ones_own(tmp_path: Path) -> None:
    assert rows_of(write(tmp_path / "a.csv", "text^label\na,b^1\nc^0\n"), delimiter="^")[0] == {
        "text": "a,b",
        "label": 1,
    }


def test_ragged_rows_are_dropped_and_counted(tmp_path: Path) -> None:
    source = opened(write(tmp_path / "a.csv", "text,label\none,1\ntwo\n\nthree,0,x\n , \nfour,0\nfive,1,y\n"))
    assert [row["text"] for row in all_rows(source)] == ["one", "four"]
    assert source.report.dropped == {
        "empty line": [4, 6],
        "1 field where 2 are expected": [3],
        "3 fields where 2 are expected": [5, 8],
    }
    assert source.report.read == 7


def test_lines_are_counted_over_fields_of_several_lines(tmp_path: Path) -> None:
    source = opened(write(tmp_path / "a.csv", 'text,label\n"a\nb, c\nd",1\nshort\n"e, f",0\n'))
    assert source.report.dropped == {"1 field where 2 are expected": [5]}


def test_a_file_of_which_nothing_is_left(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "text,label\none,1,x\ntwo,0,y\n")
    with pytest.raises(DataError, match=r"a\.csv:2: no row can be used; the first has 3 fields where 2 are expected"):
        opened(path)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("sentence\tlabel\nfine\t1\n", ["sentence", "label"]),
        ("Quality\t#1 ID\t#1 String\n1\t7\ta man\n", ["Quality", "#1 ID", "#1 String"]),
        ("id1\tid2\tjaccard\nx\ty\t0.5\n", ["id1", "id2", "jaccard"]),
        (
            "remark\tmood\n" + "".join(f"remark no {n}\t{'sad' if n % 3 else 'glad'}\n" for n in range(12)),
            ["remark", "mood"],
        ),
        ("\ttext\tlabel\n0\ta\tx\n1\tb\ty\n", ["column_1", "text", "label"]),
    ],
)
def test_headers_are_found(text: str, names: list[str], tmp_path: Path) -> None:
    source = opened(write(tmp_path / "a.tsv", text))
    assert list(source.schema.columns) == names
    assert source.length == text.count("\n") - 1


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a stirring film\t1\nnot so good\t0\nbad in all ways\t0\n", ["text", "label"]),
        ("pos\tgood one\nneg\tbad one\npos\tgreat one\nneg\tawful one\n", ["label", "text"]),
        ("gj04\t1\t\tThe sailors rode.\ngj04\t0\t*\tThe more.\n", ["column_1", "column_2", "column_3", "column_4"]),
        ('"3","Title, one","Words."\n"1","Title two","More, words."\n', ["column_1", "column_2", "column_3"]),
        ("good\tpos\nfine\tpos\nbad\tneg\n", ["text", "label"]),
        ("Go home\tVa\nRun now\tCours\nHi you\tSalut\n", ["column_1", "column_2"]),
    ],
    ids=["text-label", "label-text", "cola", "ag-news", "words", "pairs"],
)
def test_files_without_a_header(text: str, names: list[str], tmp_path: Path) -> None:
    source = opened(write(tmp_path / ("a.csv" if text.startswith('"') else "a.tsv"), text))
    assert list(source.schema.columns) == names
    assert source.length == text.count("\n")
    assert f"has no header; its columns are called {', '.join(names)}" in source.report.remarks[-1]


def test_a_header_that_is_guessed_is_told(tmp_path: Path) -> None:
    source = opened(write(tmp_path / "a.csv", "first,second\nx,1\ny,2\n"))
    assert "the first row is taken as the columns' names" in source.report.remarks[0]
    assert opened(write(tmp_path / "b.csv", "text,label\nx,1\n")).report.remarks == ()


def test_header_and_names_as_asked(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "text,label\nx,1\n")
    assert rows_of(path, header=False)[0] == {"column_1": "text", "column_2": "label"}
    assert rows_of(path, header=False, names=["a", "b"])[1] == {"a": "x", "b": "1"}
    assert rows_of(path, header=True, names=["a", "b"]) == [{"a": "x", "b": 1}]
    source = opened(path, names=["a", "b"])
    assert all_rows(source) == [{"a": "x", "b": 1}]
    assert source.report.remarks == ("a.csv: `names` replaces the header 'text', 'label'",)
    with pytest.raises(DataError, match="`names` has 3 names, the file 2 columns"):
        opened(path, names=["a", "b", "c"])


def test_a_name_that_is_there_twice(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.csv:1: column 'text' is there twice"):
        opened(write(tmp_path / "a.csv", "text,text\nx,1\n"))


def test_types_of_columns(tmp_path: Path) -> None:
    lines = [
        "text,n,share,code,mixed,half,word",
        "1,1,.5,007,1,,true",
        "22, -3 ,2.,100,x,2,false",
        "3,0,1e-3,200,2,nan,true",
    ]
    source = opened(write(tmp_path / "a.csv", "\n".join(lines) + "\n"))
    kinds = {name: column.kind for name, column in source.schema.columns.items()}
    assert kinds == {
        "text": "text", "n": "integer", "share": "number", "code": "text", "mixed": "text", "half": "integer", "word": "text",
    }  # fmt: skip
    rows = all_rows(source)
    assert [row["n"] for row in rows] == [1, -3, 0]
    assert [row["share"] for row in rows] == [0.5, 2.0, 0.001]
    assert [row["half"] for row in rows] == [None, 2, None]
    assert [row["text"] for row in rows] == ["1", "22", "3"]
    assert source.schema.columns["half"].counts == {"2": 1}


def test_integers_too_long_for_a_column_stay_text(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", f"id,label\n{10**18},1\n{10**30},0\n")
    assert [row["id"] for row in rows_of(path)] == [str(10**18), str(10**30)]


SENTENCES = [f"this is sentence number {n} of them" for n in range(40)]


@pytest.mark.parametrize(
    ("suffix", "columns", "names"),
    [
        ("csv", [["1", "2", "3", "4"] * 10, [f"A title of {n} words" for n in range(40)], SENTENCES], ["label", "text", "text_pair"]),
        ("tsv", [["gj04", "ks08"] * 20, ["1", "0"] * 20, ["", "*"] * 20, SENTENCES], ["column_1", "label", "column_3", "text"]),
        (
            "tsv",
            [["news", "forum"] * 20, ["2014"] * 40, [f"{n:04}" for n in range(40)], ["3.5", "0.2", "5", "1"] * 10, SENTENCES, SENTENCES[::-1]],
            ["column_1", "column_2", "column_3", "label", "text", "text_pair"],
        ),
        ("tsv", [["a", "b"] * 20, ["c", "d"] * 20, ["e", "f"] * 20], ["column_1", "column_2", "column_3"]),
    ],
    ids=["classes", "acceptability", "similarity", "nothing"],
)  # fmt: skip
def test_sentences_and_labels_without_a_header(
    suffix: str, columns: list[list[str]], names: list[str], tmp_path: Path
) -> None:
    lines = ["\t".join(row) if suffix == "tsv" else ",".join(row) for row in zip(*columns, strict=True)]
    source = opened(write(tmp_path / f"a.{suffix}", "\n".join(lines) + "\n"))
    assert list(source.schema.columns) == names
    assert source.length == 40


def test_longer_rows_of_tsv_without_a_header_are_cut_and_told(tmp_path: Path) -> None:
    lines = [f"{n % 2}\t{text}" for n, text in enumerate(SENTENCES)]
    lines[3] += "\thttp://somewhere\t1"
    source = opened(write(tmp_path / "a.tsv", "\n".join(lines) + "\n"))
    assert (source.length, dict(source.report.dropped)) == (40, {})
    assert source.read([3]) == [{"label": 1, "text": SENTENCES[3]}]
    assert source.report.remarks[-1] == (
        "a.tsv: 1 lines have more than 2 fields; those beyond are left out (first at line 4)"
    )
    headed = opened(write(tmp_path / "b.tsv", "label\ttext\n" + "\n".join(lines) + "\n"))
    assert dict(headed.report.dropped) == {"4 fields where 2 are expected": [5]}
