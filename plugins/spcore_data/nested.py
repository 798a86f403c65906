"""Rows of files whose questions lie in paragraphs, as SQuAD and what is made like it nests them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from spcore.interfaces.dataset import Row

TASK = "question-answering"


def holds_questions(item: Any) -> bool:
    """Whether an object is an article ({"paragraphs": [...]}) or a paragraph ({"context", "qas": [...]})."""
    return isinstance(item, dict) and (isinstance(item.get("paragraphs"), list) or isinstance(item.get("qas"), list))


def questions(items: Sequence[Row], numbers: Sequence[int]) -> tuple[list[Row], list[int]]:
    """A row for each question of articles or paragraphs, in order: id, title, question, context, answers ({"text": [...], "answer_start": [...]}, as
    the `datasets` library has them) and, where any question says so, is_impossible, whose plausible answers are none. numbers: of each
    item, kept by its rows. What a question lacks is missing in its row."""
    rows, kept = [], []
    for item, number in zip(items, numbers, strict=True):
        for row in _of_article(item):
            rows.append(row)
            kept.append(number)
    if any("is_impossible" in row for row in rows):
        for row in rows:
            row.setdefault("is_impossible", False)
    return rows, kept


def _of_article(item: Row) -> Iterator[Row]:
    title = {"title": item["title"]} if "title" in item else {}
    paragraphs = item["paragraphs"] if isinstance(item.get("paragraphs"), list) else [item]
    for paragraph in paragraphs:
        if not isinstance(paragraph, dict):
            yield _row({}, title, None)
            continue
        for asked in paragraph.get("qas") or [{}]:
            yield _row(asked if isinstance(asked, dict) else {}, title, paragraph.get("context"))


def _row(asked: Row, title: Row, context: Any) -> Row:
    impossible = {"is_impossible": asked["is_impossible"]} if "is_impossible" in asked else {}
    answers = asked.get("answers")
    if isinstance(answers, list) and all(isinstance(answer, dict) for answer in answers):
        answers = {name: [answer.get(name) for answer in answers] for name in ("text", "answer_start")}
    return {
        "id": asked.get("id"), **title, "question": asked.get("question"), "context": context, "answers": answers, **impossible,
    }  # fmt: skip
