"""Files whose questions lie in paragraphs: each form gives the same rows, a row for each question, and nothing is lost."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from data_tools import all_rows, opened, write

ARTICLES: list[dict[str, Any]] = [
    {
        "title": "Mills",
        "paragraphs": [
            {
                "context": "The mill burned.",
                "qas": [
                    {"id": "1", "question": "What burned?", "answers": [{"text": "The mill", "answer_start": 0}, {"text": "mill", "answer_start": 4}]},
                    {"id": "2", "question": "Who?", "answers": []},
                ],
            },
            {"context": "水车坏了。", "qas": [{"id": "3", "question": "什么坏了?", "answers": [{"text": "水车", "answer_start": 0}]}]},
        ],
    },
    {"title": "Wells", "paragraphs": [{"context": "A well.", "qas": [{"id": "4", "question": "What?", "answers": [{"text": "A well", "answer_start": 0}]}]}]},
]  # fmt: skip
EXPECTED = [
    ("1", "Mills", "What burned?", "The mill burned.", {"text": ["The mill", "mill"], "answer_start": [0, 4]}),
    ("2", "Mills", "Who?", "The mill burned.", {"text": [], "answer_start": []}),
    ("3", "Mills", "什么坏了?", "水车坏了。", {"text": ["水车"], "answer_start": [0]}),
    ("4", "Wells", "What?", "A well.", {"text": ["A well"], "answer_start": [0]}),
]
FORMS = {
    "squad.json": json.dumps({"version": "1.1", "data": ARTICLES}),
    "list.json": json.dumps(ARTICLES),
    "articles.jsonl": "".join(json.dumps(article) + "\n" for article in ARTICLES),
    "paragraphs.jsonl": "".join(
        json.dumps({"title": article["title"], **paragraph}) + "\n"
        for article in ARTICLES
        for paragraph in article["paragraphs"]
    ),
    "flat.jsonl": "".join(
        json.dumps(dict(zip(("id", "title", "question", "context", "answers"), row, strict=True))) + "\n"
        for row in EXPECTED
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_each_form_gives_the_same_rows(name: str, tmp_path: Path) -> None:
    for file, content in ((name, FORMS[name].encode()), (f"{name}.gz", gzip.compress(FORMS[name].encode()))):
        source = opened(write(tmp_path / file, content))
        assert [tuple(row.values()) for row in all_rows(source)] == EXPECTED
        assert list(source.schema.columns) == ["id", "title", "question", "context", "answers"]
        assert source.schema.default_task == (None if name.startswith("flat") else "question-answering")
    if name == "paragraphs.jsonl":
        assert [source.place(n).rpartition(":")[2] for n in range(4)] == ["1", "1", "2", "3"]
        assert source.report.files[0]["questions_of"] == "3 articles or paragraphs"


def test_one_article_and_one_paragraph(tmp_path: Path) -> None:
    for article in (ARTICLES[0], {"paragraphs": ARTICLES[0]["paragraphs"]}):
        found = all_rows(opened(write(tmp_path / "a.json", json.dumps(article).encode())))
        assert [row["id"] for row in found] == ["1", "2", "3"]
    assert len(all_rows(opened(write(tmp_path / "b.json", json.dumps(ARTICLES[0]["paragraphs"][0]).encode())))) == 2


def test_what_says_that_there_is_no_answer_is_kept(tmp_path: Path) -> None:
    asked = {"question": "Who?", "id": "5", "answers": [], "is_impossible": True, "plausible_answers": [{"text": "A", "answer_start": 0}]}  # fmt: skip
    paragraph = {"context": "A well.", "qas": [asked, {"question": "What?", "id": "6", "answers": [{"text": "A well", "answer_start": 0}]}]}  # fmt: skip
    source = opened(write(tmp_path / "a.json", json.dumps({"data": [{"paragraphs": [paragraph]}]}).encode()))
    assert [row["is_impossible"] for row in all_rows(source)] == [True, False]
    assert source.schema.columns["is_impossible"].counts == {"True": 1, "False": 1}
    assert all_rows(source)[0]["answers"] == {"text": [], "answer_start": []}


def test_what_a_question_lacks_is_missing_in_its_row(tmp_path: Path) -> None:
    paragraphs: list[Any] = [{"context": "A well.", "qas": ["?", {"id": "1"}]}, {"qas": [{"question": "What?"}]}, {"context": "A mill."}, 7]  # fmt: skip
    found = all_rows(
        opened(write(tmp_path / "a.json", json.dumps([{"paragraphs": paragraphs}, {"title": "no"}]).encode()))
    )
    assert [(row["question"], row["context"], row["answers"]) for row in found] == [
        (None, "A well.", None),
        (None, "A well.", None),
        ("What?", None, None),
        (None, "A mill.", None),
        (None, None, None),
        (None, None, None),
    ]
