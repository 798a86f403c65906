"""Dirty files of tags and of choices: what is left, and what is told of the rest, by `data inspect` as in a run."""

from __future__ import annotations

import json
from pathlib import Path

from spcore.cli.inspection import inspected
from spcore.components import default_registry


def test_sentences_with_wrong_lines_are_dropped_and_told(tmp_path: Path) -> None:
    file = tmp_path / "train.txt"
    file.write_text(
        "\ufeff-DOCSTART- -X- O\r\n\r\nAnn NNP B-PER\r\nmet VBD O\r\n\r\nBo NNP\r\nleft VBD O\r\n\r\n \r\n# id = 4\r\nRome NNP B-LOC\r\n",
        newline="",
    )
    found = inspected(str(file), default_registry(), options={"format": "conll"})
    assert (found["task"], found["problem"]) == ("token-classification", None)
    assert found["rows"] == {"read": 3, "used": 2, "dropped": 1, "truncated": 0}
    assert found["dirt"] == [{"what": "a line of another number of columns", "rows": 1, "first": ["train.txt:6"]}]
    assert (found["files"][0]["documents"], found["files"][0]["comments"]) == (1, 1)
    assert found["label_names"] == ["B-LOC", "B-PER", "O"]


def test_rows_whose_tags_do_not_go_with_their_words(tmp_path: Path) -> None:
    rows = [
        {"tokens": ["a", "b"], "ner_tags": ["O", "B-PER"]}, {"tokens": ["a", "b"], "ner_tags": ["O"]}, {"tokens": [], "ner_tags": []},
        {"tokens": ["a"], "ner_tags": None},
    ]  # fmt: skip
    file = tmp_path / "tags.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = inspected(str(file), default_registry())
    assert {d["what"]: d["first"] for d in found["dirt"]} == {
        "fewer tags than words": ["tags.jsonl:2"], "no word": ["tags.jsonl:3"], "no tags": ["tags.jsonl:4"],
    }  # fmt: skip


def test_questions_without_their_choices(tmp_path: Path) -> None:
    lines = [
        "premise,choice1,choice2,label",
        "it rained,wet,dry,0",
        "it rained,wet,,0",
        "it rained,wet,dry,",
        "it rained,wet,dry,2",
    ]
    file = tmp_path / "copa.csv"
    file.write_text("\n".join(lines) + "\n")
    found = inspected(str(file), default_registry())
    assert found["task"] == "multiple-choice"
    assert {d["what"]: d["first"] for d in found["dirt"]} == {
        "fewer than two choices": ["copa.csv:3"], "no label": ["copa.csv:4"], "label 2 of 2 choices, numbered from 0": ["copa.csv:5"],
    }  # fmt: skip
