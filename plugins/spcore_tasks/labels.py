"""Labels as data holds them (0, "0", 0.0, True, "positive"), and the ids and names that a model has for them."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spcore.errors import DataError, RefusalError, nearest
from spcore.interfaces.dataset import Column
from spcore.rows import is_missing

log = logging.getLogger("slimpajama.spcore_tasks")
MOST_LABELS = 1000
_INTEGER = re.compile(r"[+-]?(?:0|[1-9]\d*)(?:\.0+)?")
_DECIMAL = re.compile(r"[+-]?\d+\.\d+")
_WORDS = {"1": ("true", "True", "TRUE"), "0": ("false", "False", "FALSE")}
"""The texts that are true and false, as 1 and 0 are."""


def missing(value: Any) -> bool:
    """Whether a value is no label at all: None, NaN, blank, or what programs write for these."""
    return is_missing(value)


def canonical(value: Any) -> str:
    """One text for a value, however it is stored: 1, 1.0, "1", "1.0" and True are "1"; other texts are themselves, stripped."""
    text = str(int(value)) if isinstance(value, bool) else str(value).strip()
    return str(int(text.partition(".")[0])) if _INTEGER.fullmatch(text) else text


def typed(text: str, kind: str) -> Any:
    """A value of a column's counts, which are texts, as the rows hold it."""
    if kind == "integer":
        return int(text)
    return text == "True" if kind == "boolean" else text


@dataclass(frozen=True)
class Labels:
    """names: in the order of their ids. values: canonical value in the data -> id. integers: where the data's integers number
    its own names (they may look like numbers too), the id of each; else empty."""

    names: tuple[str, ...]
    values: Mapping[str, int]
    integers: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def id(self, value: Any) -> int:
        """The id of a value. Raises DataError for one that is missing or not known. A word for a missing value is a label where
        the names have it, which the recipe or the data set then gave."""
        found = self.find(value)
        if found is not None:
            return found
        if missing(value):
            stands = f" ({value.strip()!r} stands for none)" if isinstance(value, str) and value.strip() else ""
            raise DataError(f"no label{stands}")
        if canonical(value) == "-1":  # what unlabelled test splits hold
            raise DataError("no label")
        raise DataError(f"label {_known(str(value), self.names)}")

    def find(self, value: Any) -> int | None:
        """The id of a value, None for one that is not known. true and false count as 1 and 0 where the labels are those, and
        the other way round."""
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(self.integers):
            return self.integers[value]
        text = canonical(value)
        same = next(((digit, *words) for digit, words in _WORDS.items() if text == digit or text in words), ())
        return next((self.values[form] for form in (text, *same) if form in self.values), None)

    def count(self, column: Column) -> list[int] | None:
        """Rows of each label in a column, None where they are not counted."""
        if column.counts is None:
            return None
        counts = [0] * len(self)
        for text, rows in column.counts.items():
            at = self.find(typed(text, column.kind)) if text.strip() else None
            if at is not None:
                counts[at] += rows
        return counts


def _known(value: str, names: Sequence[str], limit: int = 12) -> str:
    """As `spcore.errors.unknown`, with the labels in the order of their ids."""
    near = nearest(value, names)
    listed = ", ".join(names[:limit]) + (f", ... ({len(names)} in all)" if len(names) > limit else "")
    return f"{value!r} is not known" + (f"; did you mean {near!r}?" if near else ";") + f" known: {listed}"


def learn(column: Column, given: Sequence[Any] | Mapping[Any, str] | None) -> Labels:
    """The labels of a column. given: the option `labels`. Raises DataError, RefusalError."""
    if isinstance(given, Mapping):
        names = tuple(dict.fromkeys(given.values()))
        return Labels(names, {**_by_name(names), **{canonical(v): names.index(name) for v, name in given.items()}})
    if given is not None:
        return _named(column, tuple(str(name).strip() for name in given))
    if column.labels is not None:
        return numbered(column.labels, range(len(column.labels)))
    found = values_in(column)
    if found is None or len(found) > MOST_LABELS:
        raise DataError(
            f"label: more than {MOST_LABELS} different values, or not counted: no names of labels can be taken from it",
            hint="Map another column (data.columns.label=COLUMN), or give task.labels, or task.problem_type=regression for numbers",
        )
    _tell_capitals(found)
    return Labels(found, _by_name(found))


def _tell_capitals(names: Sequence[str]) -> None:
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(name.casefold(), []).append(name)
    for several in alike.values():
        if len(several) > 1:
            log.warning(
                "label: %s differ in capitals only and are %d labels; task.labels maps values to names",
                ", ".join(map(repr, several)), len(several),
            )  # fmt: skip


def values_in(column: Column) -> tuple[str, ...] | None:
    """The different values of a column, canonical; numbers by size, else by the alphabet. None where they are not known."""
    if column.counts is None:
        return None
    found = _folded({canonical(typed(text, column.kind)) for text in column.counts if not missing(text)})
    if column.kind == "number":
        found -= {"inf", "-inf"}
    numbers = {text: _number(text) for text in found}
    if None not in numbers.values():
        return tuple(sorted(found, key=lambda text: numbers[text] or 0.0))
    return tuple(sorted(found))


def _folded(found: set[str]) -> set[str]:
    """True and false once each, however they are written: as 1 and 0 where the column has one of these, else as a word, in
    small letters where they are written in several ways."""
    styles = {words.index(text) for words in _WORDS.values() for text in found & set(words)}
    style = styles.pop() if len(styles) == 1 else 0
    numbers = bool(found & set(_WORDS))
    for digit, words in _WORDS.items():
        if found & set(words):
            found = (found - set(words)) | {digit if numbers else words[style]}
    return found


def _number(text: str) -> float | None:
    return float(text) if _INTEGER.fullmatch(text) or _DECIMAL.fullmatch(text) else None


def _by_name(names: Iterable[str]) -> dict[str, int]:
    return {canonical(name): n for n, name in enumerate(names)}


def numbered(names: tuple[str, ...], order: Sequence[int], more: Mapping[str, int] | None = None) -> Labels:
    """Labels whose names the data may hold as numbers: `order` has the id of each. Of texts, names come first."""
    numbers = {str(n): at for n, at in enumerate(order)}
    return Labels(names, {**numbers, **(more or {}), **_by_name(names)}, tuple(order))


def _named(column: Column, names: tuple[str, ...]) -> Labels:
    """Names that the recipe gives as a list, for what the data holds."""
    if len(set(names)) < len(names):
        raise RefusalError(f"task.labels: {next(n for n in names if names.count(n) > 1)!r} is there twice")
    if column.labels is not None:
        return _renamed(column.labels, names)
    own, ids, found = _by_name(names), {str(n): n for n in range(len(names))}, values_in(column)
    if found is None:
        return Labels(names, {**ids, **own})
    held = [value for value in found if value != "-1" or value in names]
    if set(held) <= set(own):
        return Labels(names, own)
    if set(held) <= set(ids):
        return numbered(names, range(len(names)))
    if set(held) & set(own):  # other values are dropped row by row, and counted
        return Labels(names, own)
    if len(held) == len(names):
        return Labels(names, {**own, **{value: n for n, value in enumerate(held)}})
    raise DataError(
        f"task.labels has {len(names)} names, and the label column has {len(held)} other values: {', '.join(held[:12])}",
        hint="Give a mapping from values to names",
    )


def _renamed(declared: tuple[str, ...], names: tuple[str, ...]) -> Labels:
    """The recipe's names for the source's: another order of the same, or new names in the same order."""
    if len(declared) != len(names):
        raise RefusalError(
            f"task.labels has {len(names)} names, and the data names {len(declared)} labels: {', '.join(declared[:12])}"
        )
    order = [names.index(name) for name in declared] if set(declared) == set(names) else list(range(len(names)))
    return numbered(names, order, {canonical(name): at for name, at in zip(declared, order, strict=True)})
