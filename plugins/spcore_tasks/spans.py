"""Answers as spans of a context: where they lie in it, which tokens they are, and which spans a model's logits like best."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spcore.errors import DataError
from spcore.rows import MISSING, is_missing
from spcore_tasks.labels import canonical

MISPLACED = "an answer that is not where answer_start says"


@dataclass(frozen=True)
class Gold:
    """A right answer. start: its first character in the context as the data says; None where it does not."""

    text: str
    start: int | None = None


@dataclass(frozen=True)
class Span:
    """A candidate. start, end: (first, last + 1) characters of the context; score: sum of both logits."""

    start: int
    end: int
    score: float
    text: str


def golds_of(answers: Any, start: Any = None, impossible: Any = None) -> list[Gold]:
    """The right answers that a row holds, none where it has none: {"text": [...], "answer_start": [...]}, a list of {"text", "answer_start"},
    one such, a text, or texts; a number is written out. start: of a text that is a column of its own. impossible: whether there is said to be none. Raises
    DataError for what is no answer."""
    if impossible is not None and not is_missing(impossible) and canonical(impossible).lower() in ("1", "true"):
        return []
    found: list[Gold] = []
    for text, at in _pairs(answers, start):
        if isinstance(text, bool) or not isinstance(text, str | int | float):
            raise DataError(
                f"an answer that is {'missing' if text is None else f'a {type(text).__name__}'}, not a text"
            )
        if not is_missing(text) or text in MISSING:  # "None" is a word of a context like any other
            found.append(Gold(str(text), _place(at)))
    return found


def _pairs(answers: Any, start: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(answers, Mapping):
        texts, starts = answers.get("text"), answers.get("answer_start")
        if isinstance(texts, list):
            if isinstance(starts, list) and len(starts) != len(texts):
                raise DataError("answers with another number of texts than of answer_start")
            return list(zip(texts, starts if isinstance(starts, list) else [None] * len(texts), strict=True))
        return [(texts, starts)] if texts is not None else []
    if isinstance(answers, list):
        return [pair for item in answers for pair in _pairs(item, None)]
    return [(answers, start)] if not is_missing(answers) else []


def _place(at: Any) -> int | None:
    if at is None or is_missing(at):
        return None
    if not isinstance(at, bool) and re.fullmatch(r"\d+(\.0+)?", str(at).strip()):
        return int(float(at))
    raise DataError("an answer_start that is no number of a character")


def located(context: str, gold: Gold) -> tuple[int, int]:
    """(first, last + 1) characters of an answer in its context, spaces at its ends left out. An answer_start that spaces have moved (left out at
    the beginning, several made one) or pairs of surrogates counted as two is put right, as is one of an answer that is there only
    once. Raises DataError for an answer that is elsewhere, or nowhere."""
    body = gold.text.strip()
    said = None if gold.start is None else gold.start + gold.text.index(body)
    if said is not None and context.startswith(body, said):
        return said, said + len(body)
    there = [m.span() for m in re.finditer(r"\s+".join(map(re.escape, body.split())), context)]
    if not there:
        raise DataError("an answer that is not in its context")
    if len(there) == 1:
        return there[0]
    if said is None:
        raise DataError("an answer that is in its context more than once, and no answer_start says where")
    place = min(there, key=lambda span: abs(span[0] - said))
    before = context[: max(place[1], said + len(body))]
    moved = len(before) - len(" ".join(before.split())) + sum(c > "\uffff" for c in before) + 1
    if abs(place[0] - said) > moved:
        raise DataError(MISPLACED)
    return place


def trimmed(text: str, offsets: np.ndarray) -> np.ndarray:
    """[tokens, 2] int32: offsets without the spaces that a tokenizer counts to its tokens; a token of nothing else is empty."""
    found = np.array(offsets, np.int32)
    spaces = np.array([c.isspace() for c in text] + [False])
    ends = (found[:, 1] > found[:, 0]) & (spaces[found[:, 0]] | spaces[found[:, 1] - 1])
    for n in np.flatnonzero(ends).tolist():
        first, end = found[n].tolist()
        own = text[first:end]
        found[n] = (
            first + len(own) - len(own.lstrip()),
            max(first + len(own) - len(own.lstrip()), first + len(own.rstrip())),
        )
    return found


def tokens_of(offsets: np.ndarray, first: int, end: int) -> tuple[int, int] | None:
    """(first, last) of the tokens that have a part in characters [first, end); None where none has. offsets: as `trimmed` gives them."""
    own = np.flatnonzero((offsets[:, 0] < end) & (offsets[:, 1] > first))
    return (int(own[0]), int(own[-1])) if len(own) else None


def likeliest(
    start: np.ndarray, end: np.ndarray, offsets: np.ndarray, count: int, longest: int
) -> list[tuple[int, int, float]]:
    """(first token, last token, sum of logits) of the best spans, best first; of equal ones the earlier. start, end: [tokens] logits.
    offsets: [tokens, 2], empty where a token is none of the context's. longest: tokens of a span at most. None is missed: every span
    that is allowed is looked at."""
    real = offsets[:, 1] > offsets[:, 0]
    if not real.any():
        return []
    wide = min(longest, len(real))
    low = np.float64(-np.inf)
    ends = np.concatenate([np.where(real, end.astype(np.float64), low), np.full(wide - 1, low)])
    sums = np.where(real, start.astype(np.float64), low)[:, None] + np.lib.stride_tricks.sliding_window_view(ends, wide)
    flat = sums.ravel()
    chosen = np.flatnonzero(flat > low)
    if len(chosen) > count:
        least = np.partition(flat[chosen], len(chosen) - count)[len(chosen) - count]
        chosen = chosen[flat[chosen] >= least]
    best = chosen[np.argsort(-flat[chosen], kind="stable")][:count].tolist()
    return [(n // wide, n // wide + n % wide, float(flat[n])) for n in best]


def together(windows: Sequence[Sequence[Span]], count: int) -> list[Span]:
    """The best spans of all windows of a question, best first, each once: where windows overlap, with its best score."""
    found: dict[tuple[int, int], Span] = {}
    for span in sorted((span for own in windows for span in own), key=lambda span: -span.score):
        found.setdefault((span.start, span.end), span)
    return list(found.values())[:count]


def shares(scores: Sequence[float]) -> list[float]:
    """Softmax: what the candidates share among themselves."""
    weights = np.exp(np.array(scores, np.float64) - max(scores))
    return (weights / weights.sum()).tolist()  # type: ignore[no-any-return]


def as_bytes(text: str) -> np.ndarray:
    """A text as an array of a feature."""
    return np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8)


def as_text(array: np.ndarray) -> str:
    """The text of `as_bytes`; zeros that pad it become characters behind it."""
    return array.tobytes().decode("utf-8", "surrogatepass")


def texts_as_bytes(texts: Sequence[str]) -> np.ndarray:
    """Several texts as one array."""
    return as_bytes(json.dumps(list(texts)))


def texts_of(array: np.ndarray) -> list[str] | None:
    """The texts of `texts_as_bytes`, with zeros that pad it; None of zeros alone."""
    content = array.tobytes().rstrip(b"\0")
    texts: list[str] | None = json.loads(content) if content else None
    return texts
