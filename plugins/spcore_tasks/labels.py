"""Labels as data holds them (0, "0", 0.0, True, "positive"), and the ids and names that a model has for them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spcore.errors import DataError, RefusalError, nearest
from spcore.interfaces.dataset import Column

MOST_LABELS = 1000
_INTEGER = re.compile(r"[+-]?(?:0|[1-9]\d*)(?:\.0*)?")
_DECIMAL = re.compile(r"[+-]?\d+\.\d+")
_BOOLEAN = {"true": "1", "false": "0", "1": "true", "0": "false"}


def missing(value: Any) -> bool:
    """Whether a value is no label at all: None, NaN, blank."""
    return value is None or (isinstance(value, float) and math.isnan(value)) or (isinstance(value, str) and not value.strip())


def canonical(value: Any) -> str:
    """One text for a value, however it is stored: 1, 1.0, "1", "1.0" and True are "1"; other texts are themselves, stripped."""
    text = str(int(value)) if isinstance(value, bool) else str(value).strip()
    if _INTEGER.fullmatch(text):
        return str(int(text.partition(".")[0]))
    return str(float(text)) if _DECIMAL.fullmatch(text) else text


def typed(text: str, kind: str) -> Any:
    """A value of a column's counts, which are texts, as the rows hold it."""
    if kind == "integer":
        return int(text)
    return text == "True" if kind == "boolean" else text


@dataclass(frozen=True)
class Labels:
    """names: in the order of their ids. values: canonical value in the data -> id."""

    names: tuple[str, ...]
    values: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.names)

    def id(self, value: Any) -> int:
        """The id of a value. Raises DataError for one that is missing or not known."""
        if missing(value):
            raise DataError("no label")
        found = self.find(value)
        if found is not None:
            return found
        if canonical(value) == "-1":  # what unlabelled test splits hold
            raise DataError("no label")
        raise DataError(f"label {_known(str(value), self.names)}")

    def find(self, value: Any) -> int | None:
        """The id of a value, None for one that is not known. A name counts before an id that looks like it; true and false
        count as 1 and 0 where the labels are those, and the other way round."""
        if isinstance(value, str) and value.strip() in self.names:
            return self.names.index(value.strip())
        text = canonical(value)
        forms = (text, str(value), _BOOLEAN.get(text.lower()), _BOOLEAN.get(text.lower(), "").capitalize())
        return next((self.values[form] for form in forms if form in self.values), None)

    def count(self, column: Column) -> list[int] | None:
        """Rows of each label in a column, None where they are not counted."""
        if column.counts is None:
            return None
        counts = [0] * len(self)
        for text, rows in column.counts.items():
            at = None if missing(text) else self.find(typed(text, column.kind))
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
        return _declared(column.labels)
    found = values_in(column)
    if found is None or len(found) > MOST_LABELS:
        raise DataError(
            f"label: more than {MOST_LABELS} different values, or not counted: no names of labels can be taken from it",
            hint="Map another column (data.columns.label=COLUMN), or give task.labels, or task.problem_type=regression for numbers",
        )
    return Labels(found, _by_name(found))


def values_in(column: Column) -> tuple[str, ...] | None:
    """The different values of a column, canonical; numbers by size, else by the alphabet. None where they are not known."""
    if column.counts is None:
        return None
    found = {canonical(typed(text, column.kind)) for text in column.counts if not missing(text)}
    if column.kind in ("number", "integer"):
        found.discard("nan")
    numbers = {text: _number(text) for text in found}
    if None not in numbers.values():
        return tuple(sorted(found, key=lambda text: numbers[text] or 0.0))
    return tuple(sorted(found))


def _number(text: str) -> float | None:
    return float(text) if _INTEGER.fullmatch(text) or _DECIMAL.fullmatch(text) else None


def _by_name(names: Iterable[str]) -> dict[str, int]:
    return {canonical(name): n for n, name in enumerate(names)}


def _declared(names: tuple[str, ...]) -> Labels:
    """Names that the source states: rows hold ids or names. `Labels.find` looks a text up among the names first, so that what
    clashes here (names that are numbers) is told apart by type: an integer is an id."""
    return Labels(names, {**_by_name(names), **{str(n): n for n in range(len(names))}})


def _named(column: Column, names: tuple[str, ...]) -> Labels:
    """Names that the recipe gives as a list, for what the data holds."""
    if len(set(names)) < len(names):
        raise RefusalError(f"task.labels: {next(n for n in names if names.count(n) > 1)!r} is there twice")
    if column.labels is not None:
        return _renamed(column.labels, names)
    ids = {str(n): n for n in range(len(names))}
    found = values_in(column)
    if found is None:
        return Labels(names, {**ids, **_by_name(names)})
    real = [value for value in found if value != "-1" or value in names]
    if set(real) & set(_by_name(names)):
        return Labels(names, _by_name(names))
    if set(real) <= set(ids):
        return Labels(names, {**_by_name(names), **ids})
    if len(real) == len(names):
        return Labels(names, {**_by_name(names), **{value: n for n, value in enumerate(real)}})
    raise DataError(
        f"task.labels has {len(names)} names, and the label column has {len(real)} other values: {', '.join(real[:12])}",
        hint="Give a mapping from values to names",
    )


def _renamed(declared: tuple[str, ...], names: tuple[str, ...]) -> Labels:
    """The recipe's names for the source's: another order of the same, or new names in the same order."""
    if len(declared) != len(names):
        raise RefusalError(f"task.labels has {len(names)} names, and the data names {len(declared)} labels: {', '.join(declared[:12])}")
    new = [names.index(name) for name in declared] if set(declared) == set(names) else list(range(len(names)))
    old = {**{canonical(name): new[n] for n, name in enumerate(declared)}, **{str(n): new[n] for n in range(len(names))}}
    return Labels(names, {**_by_name(names), **old})
