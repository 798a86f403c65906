"""Spans: found in their context by the offsets that data has, the best ones of a window by brute force, figures as the official scorers'."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spcore.errors import DataError
from spcore_tasks.span_figures import Answered, answered, with_none
from spcore_tasks.spans import MISPLACED, Gold, Span, golds_of, likeliest, located, texts_as_bytes, texts_of, together

TEXT = "The  old mill\nburned. The mill 🙂 was old."


@pytest.mark.parametrize(
    ("answer", "start", "expected"),
    [
        ("old mill", 5, None),  # as the text has it, line ends as spaces
        ("old", 4, "old"),  # counted where two spaces were one
        (" old ", 4, "old"),
        ("The mill", 21, "The mill"),
        ("The mill", 20, "The mill"),
        ("was", 34, "was"),  # a smiley counted as two
        ("burned", 0, "burned"),  # only there
        ("old", 37, "old"),
        ("old", 38, "old"),
    ],
)
def test_answers_are_found_where_spaces_moved_them(answer: str, start: int, expected: str | None) -> None:
    first, end = located(TEXT, Gold(answer, start))
    assert TEXT[first:end] == (expected or answer).strip().replace(" mill", " mill")
    assert abs(first - start) <= 3 or TEXT.count(answer.strip()) == 1


@pytest.mark.parametrize(
    ("answer", "start", "reason"),
    [
        ("windmill", 5, "not in its context"),
        ("old", 20, MISPLACED),
        ("old", None, "more than once, and no answer_start"),
    ],
)
def test_answers_that_are_elsewhere(answer: str, start: int | None, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        located(TEXT, Gold(answer, start))


@pytest.mark.parametrize(
    ("answers", "more", "expected"),
    [
        ({"text": ["a", "b"], "answer_start": [1, 2]}, {}, [Gold("a", 1), Gold("b", 2)]),
        ({"text": [], "answer_start": []}, {}, []),
        ([{"text": "a", "answer_start": 1}], {}, [Gold("a", 1)]),
        ({"text": "a", "answer_start": 1.0}, {}, [Gold("a", 1)]),
        ("a", {"start": "7"}, [Gold("a", 7)]),
        (["a", "b"], {}, [Gold("a"), Gold("b")]),
        ({"text": [1904, "None"], "answer_start": [1, 2]}, {}, [Gold("1904", 1), Gold("None", 2)]),
        (None, {}, []),
        ({"text": ["a"], "answer_start": [1]}, {"impossible": True}, []),
        ({"text": ["a"], "answer_start": [1]}, {"impossible": "False"}, [Gold("a", 1)]),
    ],
)
def test_forms_of_answers(answers: Any, more: dict[str, Any], expected: list[Gold]) -> None:
    assert golds_of(answers, **more) == expected


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        (True, "an answer that is a bool, not a text"),
        ({"text": [None], "answer_start": [1]}, "an answer that is missing, not a text"),
        ({"text": ["a"], "answer_start": []}, "another number of texts than of answer_start"),
        ({"text": "a", "answer_start": "x"}, "no number of a character"),
        ({"text": "a", "answer_start": -1}, "no number of a character"),
        ({"text": "a", "answer_start": True}, "no number of a character"),
    ],
)
def test_what_is_no_answer(answers: Any, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        golds_of(answers)


@given(st.data(), st.integers(1, 14), st.integers(1, 12), st.integers(1, 16))
@settings(max_examples=150, deadline=None)
def test_the_best_spans_are_those_of_brute_force(data: Any, tokens: int, count: int, longest: int) -> None:
    numbers = st.lists(st.integers(-3, 3), min_size=tokens, max_size=tokens)
    start, end = (np.array(data.draw(numbers), np.float32) for _ in range(2))
    real = np.array(data.draw(st.lists(st.booleans(), min_size=tokens, max_size=tokens)))
    offsets = np.stack([np.arange(tokens), np.arange(tokens) + real], 1)
    every = [
        (i, j, float(start[i] + end[j]))
        for i in range(tokens)
        for j in range(i, min(tokens, i + longest))
        if real[i] and real[j]
    ]
    assert likeliest(start, end, offsets, count, longest) == sorted(every, key=lambda span: -span[2])[:count]


def test_a_span_of_two_windows_is_one_candidate() -> None:
    found = together([[Span(3, 5, 1.0, "ab"), Span(0, 2, 0.5, "x")], [Span(3, 5, 2.0, "ab")]], 5)
    assert found == [Span(3, 5, 2.0, "ab"), Span(0, 2, 0.5, "x")]


def test_texts_pass_as_arrays() -> None:
    texts = ['中"文', "", "a\n🙂"]
    assert texts_of(np.concatenate([texts_as_bytes(texts), np.zeros(3, np.uint8)])) == texts
    assert texts_of(texts_as_bytes([])) == []
    assert texts_of(np.zeros(4, np.uint8)) is None


CASES = [
    (("The Norman", "Normans"), "normans!", -3.5),
    (("10th and 11th centuries", "in the 10th and 11th centuries"), "the 10th century", -1.25),
    (("Saint-Étienne",), "saintétienne", -2.0),
    (("the", "A."), "an", 0.5),
    (("the cat sat on the mat",), "a cat sat; the dog", 0.25),
    (("中文 字符", "中文字符"), "中文字符", -0.75),
    (("Größe",), "grösse", -4.0),
    (("$5,000",), "5000", 1.5),
    ((), "nothing at all", 2.0),
    ((), "the", -0.5),
    ((), "", 3.0),
    ((), "some thing", -5.0),
    (("new   york\n city",), "New York", -6.0),
]


def test_figures_are_those_of_the_official_scorers() -> None:
    """What evaluate-v2.0.py (threshold 0) and, of the questions with an answer, evaluate-v1.1.py give for these."""
    rows = [Answered(*case) for case in CASES]
    assert with_none(rows, 0.0) == pytest.approx(
        {
            "exact_match": 46.15384615384615, "f1": 54.87179487179487, "has_answer_exact": 33.333333333333336,
            "has_answer_f1": 45.92592592592592, "no_answer_exact": 75.0, "best_exact": 53.84615384615385, "best_exact_threshold": 1.5,
            "best_f1": 66.95970695970695, "best_f1_threshold": 1.5,
        }
    )  # fmt: skip
    found = answered([row for row in rows if row.golds])
    assert found == pytest.approx({"exact_match": 55.55555555555556, "f1": 63.386243386243386})


def test_the_best_threshold_is_the_best_of_all() -> None:
    # The official search holds an answer of articles alone to be wrong where there is none, which the scores do not.
    rows = [Answered(*case) for case in CASES if case[1] not in ("the", "an")]
    best = with_none(rows, 0.0)
    every = [with_none(rows, margin)["f1"] for *_, margin in CASES]
    assert best["best_f1"] == pytest.approx(max(every))
    assert with_none(rows, best["best_f1_threshold"])["f1"] == pytest.approx(best["best_f1"])
