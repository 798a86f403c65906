"""Figures of answers to questions, by the rules of SQuAD's official scorers: `evaluate-v1.1.py` (Rajpurkar et al. 2016,
https://arxiv.org/abs/1606.05250), and where questions may have no answer `evaluate-v2.0.py` (2018, https://arxiv.org/abs/1806.03822).
All in percent. No library that is kept carries these rules any more; they are tested against figures of the scripts themselves.
"""

from __future__ import annotations

import functools
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

ANSWERED = ("f1", "exact_match")
WITH_NONE = (
    "has_answer_f1", "has_answer_exact", "no_answer_exact", "best_f1", "best_f1_threshold", "best_exact", "best_exact_threshold",
)  # fmt: skip
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class Answered:
    """A question with what was answered. golds: the right answers, none where there is none. text: the likeliest span. margin: score of
    no answer minus the span's, logits; above the threshold no answer is given."""

    golds: tuple[str, ...]
    text: str
    margin: float = 0.0


@functools.lru_cache(1 << 16)
def normalised(text: str) -> str:
    """A text in small letters, without ASCII punctuation and English articles, its words one space apart."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def exact(gold: str, text: str) -> float:
    """1 where both are the same once normalised, else 0."""
    return float(normalised(gold) == normalised(text))


def f1(gold: str, text: str) -> float:
    """Harmonic mean of precision and recall over the normalised words; 0 where they share none."""
    wanted, found = normalised(gold).split(), normalised(text).split()
    same = sum((Counter(wanted) & Counter(found)).values())
    return 2 * same / (len(wanted) + len(found)) if same else 0.0


def _f1_or_none(gold: str, text: str) -> float:
    """As `f1`; of texts without words 1 where both are."""
    if normalised(gold) and normalised(text):
        return f1(gold, text)
    return exact(gold, text)


def answered(rows: Sequence[Answered]) -> dict[str, float]:
    """f1, exact_match: means over questions, each against the right answer that suits it best (version 1.1)."""
    count = max(1, len(rows))
    return {
        name: 100 * sum(max(score(gold, row.text) for gold in row.golds) for row in rows) / count
        for name, score in (("f1", f1), ("exact_match", exact))
    }


def with_none(rows: Sequence[Answered], threshold: float) -> dict[str, float]:
    """As version 2.0: f1, exact_match over all questions; of those that have an answer has_answer_f1 and has_answer_exact, of the others
    no_answer_exact, each left out where there is no such question; best_f1, best_exact: with the threshold that suits these very rows
    best, and that threshold (0 where it is best to answer nothing)."""
    found: dict[str, float] = {}
    for name, score in (("f1", _f1_or_none), ("exact", exact)):
        raw = [_best_of(row, score) for row in rows]
        kept = [
            float(not row.golds) if row.margin > threshold else points for row, points in zip(rows, raw, strict=True)
        ]
        found["f1" if name == "f1" else "exact_match"] = _mean(kept)
        for part, has in (("has_answer", True), ("no_answer", False)):
            own = [points for row, points in zip(rows, kept, strict=True) if bool(row.golds) == has]
            if own and not (part == "no_answer" and name == "f1"):  # which is its exact match
                found[f"{part}_{name}"] = _mean(own)
        found[f"best_{name}"], found[f"best_{name}_threshold"] = _best_threshold(rows, raw)
    return found


def _best_of(row: Answered, score: Callable[[str, str], float]) -> float:
    """Against the right answer that suits best; answers without words are none."""
    golds = [gold for gold in row.golds if normalised(gold)] or [""]
    return max(score(gold, row.text) for gold in golds)


def _best_threshold(rows: Sequence[Answered], raw: Sequence[float]) -> tuple[float, float]:
    """Percent, and the margin up to which questions are best answered: all are left unanswered, then answered one by one."""
    points = best = float(sum(not row.golds for row in rows))
    threshold = 0.0
    for n in sorted(range(len(rows)), key=lambda n: rows[n].margin):
        points += raw[n] if rows[n].golds else -1 if rows[n].text else 0
        if points > best:
            best, threshold = points, rows[n].margin
    return 100 * best / max(1, len(rows)), threshold


def _mean(values: Sequence[float]) -> float:
    return 100 * sum(values) / max(1, len(values))
