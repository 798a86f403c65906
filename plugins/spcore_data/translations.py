"""Rows whose texts lie below them: `{"translation": {"en": "...", "de": "..."}}`, as translation sets of the Hub are written, with several
pairs of languages in one file or not; and `{"instruction": "...", "instances": [{"input": "...", "output": "..."}, ...]}`, Self-Instruct's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from spcore.interfaces.dataset import Row

KEY, TASK = "translation", "seq2seq"


def is_translation(row: Row) -> bool:
    """Whether a row is two texts by their languages."""
    texts: Any = row.get(KEY)
    return isinstance(texts, dict) and len(texts) == 2 and all(isinstance(text, str | None) for text in texts.values())


def flat(rows: Sequence[Row]) -> list[Row]:
    """The same rows with columns source, target, source_language and target_language, in the order in which a row names its languages;
    what else it has stays."""
    made = []
    for row in rows:
        (one, source), (other, target) = row[KEY].items()
        own = {"source": source, "target": target, "source_language": one, "target_language": other}
        made.append({**own, **{name: value for name, value in row.items() if name != KEY}})
    return made


def has_instances(row: Row) -> bool:
    """Whether a row is an instruction with its instances."""
    held: Any = row.get("instances")
    objects = isinstance(held, list) and all(isinstance(one, dict) and "output" in one for one in held)
    return objects and isinstance(row.get("instruction"), str)


def instances(rows: Sequence[Row], numbers: Sequence[int]) -> tuple[list[Row], list[int]]:
    """A row for each instance, with what its instruction's row has; a row without one has no output. numbers: of each row, kept."""
    made, kept = [], []
    for row, number in zip(rows, numbers, strict=True):
        above = {name: value for name, value in row.items() if name != "instances"}
        for one in row["instances"] or [{"output": None}]:
            made.append({**above, **one})
            kept.append(number)
    return made, kept
