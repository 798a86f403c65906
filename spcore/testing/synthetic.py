"""Rows made up from a task's roles alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from spcore.interfaces.dataset import Column, Row, Schema
from spcore.interfaces.task import Role

ROWS = 6
_LENGTHS = (5, 2, 9, 3, 7, 4)
_WORDS = "the film was long but never dull and its music stays with you for days".split()
_LABELS = ("bad", "fair", "good")
_Made = tuple[Column, list[Any]]
_MOST = 200


def sentence(n: int, words: int) -> str:
    """A text of that many words, another one for every n."""
    return " ".join(_WORDS[(n * 5 + i * (1 + n % 3)) % len(_WORDS)] for i in range(words))


def candidates(roles: Sequence[Role]) -> Iterator[tuple[Schema, list[Row]]]:
    """(schema, rows) keyed by role, the likeliest first: where a role's kind leaves it open what a value looks like ("any",
    "label"), each shape is tried. Optional roles are there."""
    by_role = [list(_shapes(role, roles)) for role in roles]
    for made in itertools.islice(itertools.product(*by_role), _MOST):
        columns = {role.name: column for role, (column, _) in zip(roles, made, strict=True)}
        rows = [{role.name: values[n] for role, (_, values) in zip(roles, made, strict=True)} for n in range(ROWS)]
        yield Schema(columns), rows


def _shapes(role: Role, roles: Sequence[Role]) -> Iterator[_Made]:
    place = [r.name for r in roles].index(role.name)
    texts = _texts(place)
    if role.kind == "text":
        yield Column("text"), texts
    elif role.kind == "number":
        yield Column("number"), [0.5 * n - 1 for n in range(ROWS)]
    elif role.kind == "label":
        yield _labels()
        yield Column("number"), [0.5 * n - 1.25 for n in range(ROWS)]
        yield _tags(roles)
    else:
        yield from _any(texts, roles)


def _texts(place: int) -> list[str]:
    return [sentence(n + 7 * place, _LENGTHS[(n + place) % ROWS]) for n in range(ROWS)]


def _labels() -> _Made:
    ids = [n % len(_LABELS) for n in range(ROWS)]
    return Column("integer", _LABELS, {str(i): ids.count(i) for i in range(len(_LABELS))}), ids


def _any(texts: list[str], roles: Sequence[Role]) -> Iterator[_Made]:
    """A value of no stated kind: words, tags of words, answers within a text, choices, the index of a choice, a text."""
    yield Column("list"), [text.split() for text in texts]
    yield _tags(roles)
    for place, role in reversed(list(enumerate(roles))):
        if role.kind == "text":
            spans = [text.rpartition(" ")[2] for text in _texts(place)]
            starts = [len(text) - len(span) for text, span in zip(_texts(place), spans, strict=True)]
            answers = [{"text": [span], "answer_start": [start]} for span, start in zip(spans, starts, strict=True)]
            yield Column("object"), answers
    yield Column("list"), [[text, sentence(n + 3, 4), sentence(n + 11, 3)] for n, text in enumerate(texts)]
    yield _labels()
    yield Column("text"), texts


def _tags(roles: Sequence[Role]) -> _Made:
    """A class for each word of the first role that is a list of words, or of the first text."""
    words = [[n % len(_LABELS) for n in range(length)] for length in _lengths_of_words(roles)]
    flat = [tag for row in words for tag in row]
    return Column("list", _LABELS, {str(i): flat.count(i) for i in range(len(_LABELS))}), words


def _lengths_of_words(roles: Sequence[Role]) -> list[int]:
    first = next((place for place, role in enumerate(roles) if role.kind in ("any", "text")), 0)
    return [len(text.split()) for text in _texts(first)]
