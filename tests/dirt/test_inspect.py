"""`slimpajama data inspect`: what it prints is what a run would find."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from dirt_cases import CASES
from dirt_outcomes import outcome
from typer.testing import CliRunner

from spcore.cli.inspect import app
from spcore.cli.inspection import inspected
from spcore.components import default_registry
from spcore.errors import SlimPajamaError
from support.hub_content import put_tiny_bert

CSV = (
    'text,label,id\n"a fine, long film",good,1\nshort,bad,2\n\nshort,good,3\n ,bad,4\nshort,bad,2\nx,y\n"two\nlines",None,\n'
    + "w,good,6\n" * 3
)


def facts(path: Path, **more: Any) -> dict[str, Any]:
    found = inspected(str(path), default_registry(), **more)
    json.dumps(found)
    return found


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.csv"
    path.write_text(CSV)
    return path


def test_the_facts_of_a_file(file: Path) -> None:
    found = facts(file)
    assert found["task"] == "text-classification"
    assert found["files"] == [
        {
            "path": str(file), "format": "csv", "compression": None, "encoding": "utf-8", "line_ends": "LF", "delimiter": ",",
            "quoting": "csv", "header": "known", "rows": 9,
        }
    ]  # fmt: skip
    assert found["rows"] == {"read": 11, "used": 7, "dropped": 4, "truncated": 0}
    assert found["columns"] == {
        "text": {"kind": "text", "different": 5, "missing": 1, "role": "text"},
        "label": {"kind": "text", "different": 3, "missing": 1, "role": "label"},
        "id": {"kind": "integer", "different": 5, "missing": 1, "role": None},
    }
    assert found["labels"] == {"good": 5, "bad": 3}
    assert found["label_names"] == ["bad", "good"]
    assert found["dirt"] == [
        {"what": "empty line", "rows": 1, "first": ["a.csv:4"]},
        {"what": "2 fields where 3 are expected", "rows": 1, "first": ["a.csv:8"]},
        {"what": "blank text", "rows": 1, "first": ["a.csv:6"]},
        {"what": "no label ('None' stands for none)", "rows": 1, "first": ["a.csv:9"]},
    ]
    assert found["duplicates"] == {
        "rows": 3, "first": ["a.csv:7", "a.csv:12", "a.csv:13"], "conflicts": 1, "first_conflicts": ["a.csv:5"],
    }  # fmt: skip
    assert [example["place"] for example in found["examples"]] == ["a.csv:2", "a.csv:3", "a.csv:5"]
    assert found["examples"][0]["row"] == {"text": "a fine, long film", "label": "good", "id": 1}
    assert found["problem"] is None


def test_lengths_are_of_whole_texts(file: Path, tmp_path: Path) -> None:
    found = facts(file)["lengths"]
    assert found == {
        "unit": "characters", "least": 1, "median": 5, "p95": 13, "most": 17,
        "histogram": [
            {"from": 1, "to": 1, "rows": 3}, {"from": 2, "to": 3, "rows": 0}, {"from": 4, "to": 7, "rows": 3},
            {"from": 8, "to": 15, "rows": 0}, {"from": 16, "to": 31, "rows": 1},
        ],
    }  # fmt: skip
    put_tiny_bert(tmp_path, "test/tiny", ["a fine long film , short w"] * 20, max_length=8)
    model = str(tmp_path / "models" / "test" / "tiny")
    long = tmp_path / "long.csv"
    long.write_text("text,label\n" + "short " * 20 + ",1\nshort,0\n")
    counted = facts(long, model=model)
    assert {k: counted["lengths"][k] for k in ("unit", "least", "most")} == {"unit": "tokens", "least": 3, "most": 22}
    assert counted["rows"]["truncated"] == int(counted["lengths"]["max_length"] < 22)


@pytest.mark.parametrize(
    "name", [pytest.param(c, marks=[] if n % 3 == 0 else pytest.mark.slow) for n, c in enumerate(CASES)]
)
def test_it_finds_what_a_run_finds(name: str, tmp_path: Path) -> None:
    """The same rows used and dropped, the same words; what is refused for its content is refused here, what is refused for its
    labels or columns is shown with the refusal."""
    expected = outcome(CASES[name], tmp_path)
    data = CASES[name].lay(tmp_path)
    if expected.rows is None:
        assert refusal(data) == expected.said[0]
        return
    found = facts(data)
    assert found["problem"] is None
    assert (found["rows"]["used"], found["rows"]["dropped"]) == (len(expected.rows), expected.dropped)
    assert {what["what"]: what["rows"] for what in found["dirt"]} == expected.counts
    assert [line.replace(f"{tmp_path}/", "") for line in found["remarks"]] == expected.remarks


def refusal(data: Path) -> str:
    """Why it is refused, or why a run would refuse it."""
    try:
        return str(facts(data)["problem"])
    except SlimPajamaError as error:
        return str(error)


def test_several_files_a_part_and_options(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("words^mood\none, two^1\nthree^0\n")
    (tmp_path / "b.csv").write_text("words^mood\nfour^1\n\nfive^0\n")
    options = {"delimiter": "^", "columns": {"text": "words", "label": "mood"}}
    found = facts(tmp_path / "*.csv", options=options)
    assert [(Path(f["path"]).name, f["rows"], f["delimiter"]) for f in found["files"]] == [
        ("a.csv", 2, "^"),
        ("b.csv", 2, "^"),
    ]
    assert found["dirt"] == [{"what": "empty line", "rows": 1, "first": ["b.csv:3"]}]
    assert facts(tmp_path / "*.csv", split="[:3]", options=options)["rows"]["used"] == 3


def test_data_without_labels_and_data_that_no_task_reads(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\ntwo three\n")
    found = facts(tmp_path / "a.txt")
    assert found["lengths"]["most"] == 9
    assert (found["task"], found["labels"], found["problem"]) == ("causal-lm", None, None)
    assert "no column for 'label'" in facts(tmp_path / "a.txt", task="text-classification")["problem"]
    (tmp_path / "b.csv").write_text("id,foo,bar\n1,a,b\n2,c,d\n")
    other = facts(tmp_path / "b.csv")
    assert (other["task"], other["lengths"]["histogram"]) == (None, [])
    assert "no column for 'text', 'label'" in other["problem"]
    assert set(other["columns"]) == {"id", "foo", "bar"}


def test_long_values_are_cut_in_examples(tmp_path: Path) -> None:
    row = {"text": "w" * 300, "label": 1, "more": [["x"] * 300], "short": [1]}
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    example = facts(tmp_path / "a.jsonl")["examples"][0]["row"]
    assert {name: len(str(value)) for name, value in example.items()} == {
        "text": 203,
        "label": 1,
        "more": 203,
        "short": 3,
    }


def test_a_set_that_ships_with_the_project() -> None:
    found = facts(Path("builtin/reviews"), split="test")
    assert found["rows"]["used"] == 160
    assert sum(found["labels"].values()) == 160


def test_the_command(file: Path) -> None:
    shown = CliRunner().invoke(app, ["inspect", str(file)]).stdout
    for words in (
        "delimiter ',', quoting csv", "rows: 11 read, 7 used, 4 dropped", "dropped: blank text: 1 (a.csv:6)", "lengths in characters: least 1",
        "the same text with another label: 1 (a.csv:5)", "text: a fine, long film",
    ):  # fmt: skip
        assert words in shown
    as_json = (
        CliRunner()
        .invoke(app, ["inspect", str(file), "--json", "--set", "quoting=none", "--column", "text=text"])
        .stdout
    )
    assert json.loads(as_json)["files"][0]["quoting"] == "none"


def test_what_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"")
    words = [sys.executable, "-m", "slimpajama", "data", "inspect", str(tmp_path / "a.csv")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"error: {tmp_path}/a.csv:1: the file is empty\n")
