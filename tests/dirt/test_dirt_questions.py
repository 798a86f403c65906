"""The page's table of questions and answers as people have them, line by line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from spcore.featurizing import featurize
from spcore.interfaces.task import Limits
from spcore.rows import open_rows
from spcore.testing.fakes import FakeProcessor
from spcore_data.files import Files
from spcore_data.options import FilesOptions
from spcore_tasks.options import QuestionAnsweringOptions
from spcore_tasks.question_answering import QuestionAnswering
from spcore_tasks.spans import as_text

PAGE = Path(__file__).parents[2] / "docs" / "data.md"
CONTEXT = "The  old mill\nburned down in 1904 and was built again"
GOOD = {"question": "When did it burn?", "context": CONTEXT, "answers": {"text": ["1904"], "answer_start": [29]}}
Said = list[str | None]


def asked(answer: str, start: Any, **more: Any) -> dict[str, Any]:
    return {**GOOD, "answers": {"text": [answer], "answer_start": [start]}, **more}


def lines(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


CASES: dict[str, tuple[str, str, Said]] = {
    "an answer_start that spaces moved": ("a.jsonl", lines(GOOD, asked("burned", 13)), ["1904", "burned"]),
    "spaces round an answer": ("a.jsonl", lines(GOOD, asked(" burned ", 13)), ["1904", "burned"]),
    "other spaces in an answer than in its context": ("a.jsonl", lines(GOOD, asked("mill burned", 9)), ["1904", "mill\nburned"]),
    "an answer without answer_start, once in its context": ("a.jsonl", lines(GOOD, {**GOOD, "answers": "burned"}), ["1904", "burned"]),
    "an answer without answer_start, twice in its context": ("a.jsonl", lines(GOOD, {**GOOD, "answers": "a"}), ["1904"]),
    "an answer_start that is far off, of an answer that is there twice": ("a.jsonl", lines(GOOD, asked("n", 0)), ["1904"]),
    "an answer that is not in its context": ("a.jsonl", lines(GOOD, asked("1905", 29)), ["1904"]),
    "no answer where none is expected to lack": ("a.jsonl", lines(GOOD, {**GOOD, "answers": {"text": [], "answer_start": []}}), ["1904"]),
    "a plausible answer to a question that has none": ("a.jsonl", lines({**GOOD, "is_impossible": False}, {**GOOD, "is_impossible": True}), ["1904", None]),
    "a question or a context that is blank": ("a.jsonl", lines(GOOD, {**GOOD, "question": " "}, {**GOOD, "context": ""}), ["1904"]),
    "more texts than answer_start": ("a.jsonl", lines(GOOD, {**GOOD, "answers": {"text": ["1904", "1904"], "answer_start": [29]}}), ["1904"]),
    "an answer that is a number": ("a.jsonl", lines(GOOD, {**GOOD, "answers": {"text": [1904], "answer_start": [29]}}), ["1904", "1904"]),
    "a paragraph without questions": ("a.json", json.dumps({"data": [{"paragraphs": [{"context": CONTEXT, "qas": [{"question": "When?", "answers": [{"text": "1904", "answer_start": 29}]}]}, {"context": CONTEXT}]}]}), ["1904"]),
    "an answer longer than a window": ("a.jsonl", lines(GOOD, asked(CONTEXT, 0)), ["1904"]),
}  # fmt: skip
"""Line -> file, content, and what the windows of the rows that are used have to learn: the answer's characters, None for no answer."""


def table() -> dict[str, tuple[str, list[str]]]:
    section = PAGE.read_text(encoding="utf-8").partition("## Questions and answers")[2].partition("\n## ")[0]
    found = re.findall(r"^\| ([^|]+) \| (read|dropped) \|([^|]*)\|$", section, re.M)
    return {name: (verdict, re.findall(r"`([^`]+)`", said)) for name, verdict, said in found}


def test_every_line_has_a_case_and_every_case_a_line() -> None:
    assert list(table()) == list(CASES)


@pytest.mark.parametrize("name", CASES)
def test_the_policy_holds(name: str, tmp_path: Path) -> None:
    file, content, expected = CASES[name]
    (tmp_path / file).write_text(content)
    task = QuestionAnswering(QuestionAnsweringOptions())
    dataset = Files(FilesOptions.model_validate({"source": str(tmp_path / file)}))
    source = open_rows(dataset, task.roles, columns={}, split=None, limit=None)
    bound = task.bind(FakeProcessor(), None, source.schema, Limits(16, stride=4))
    store = featurize(source, bound, limit=16)
    found: dict[int, set[str | None]] = {}
    for n in range(len(store)):
        arrays, row = store[n].arrays, store[n].row_id
        first, last = arrays["span"].tolist()
        none = first == last == arrays["place"][2]
        text = None if none else as_text(arrays["text"])[arrays["offsets"][first, 0] : arrays["offsets"][last, 1]]
        found.setdefault(row, set()).add(text)
    told = [(texts - {None} or {None}).pop() for texts in found.values()]
    assert told == expected
    verdict, said = table()[name]
    assert verdict == ("dropped" if store.counts.dropped_total else "read")
    reasons = [f"{reason}: {', '.join(store.counts.places[reason])}" for reason in store.counts.dropped_total]
    reasons = [reason.replace(f"{tmp_path}/", "") for reason in reasons]
    assert reasons == said
