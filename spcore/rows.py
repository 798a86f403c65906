"""A task's view of a source: columns under the task's names, a part of a split, the first rows.

What stands under `data` by the core's own names (`columns`, `split`, `limit`) is carried out here, the same for every data
set.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from spcore.errors import DataError, RecipeError, RefusalError, unknown
from spcore.features import fingerprint
from spcore.files import read_errors
from spcore.gathering import gathered
from spcore.interfaces.dataset import Column, Dataset, ReadReport, Row, Schema, Source
from spcore.interfaces.task import Role

_SPLIT = re.compile(r"^(?P<name>[^\[\]]*)(?:\[(?P<low>\d+%?)?:(?P<high>\d+%?)?\])?$")

MISSING = frozenset("#N/A #NA <NA> N/A NA NULL NaN None n/a nan null -NaN -nan 1.#IND -1.#IND 1.#QNAN -1.#QNAN".split())
"""What programs write where a value is missing: the words that pandas reads so, as they are spelt here."""


def is_missing(value: Any) -> bool:
    """Whether there is no value: None, NaN, blank, or one of MISSING."""
    if isinstance(value, str):
        text = value.strip()
        return not text or text in MISSING
    return value is None or (isinstance(value, float) and math.isnan(value))


class RoleSource(Source):
    """Rows keyed by roles. columns: role -> column of the data."""

    def __init__(
        self, source: Source, columns: Mapping[str, str], ids: Sequence[int] | None, limit: int | None
    ) -> None:
        self.source, self.columns, self._ids, self._limit = source, dict(columns), ids, limit
        known = source.schema
        self.schema = Schema(
            {role: known.columns[c] for role, c in columns.items()}, known.default_task, known.task_options
        )
        self.fingerprint = fingerprint(source.fingerprint, self.columns, list(ids) if ids is not None else None, limit)
        self.report = source.report
        if source.length is None:
            self.length = None
        else:
            count = source.length if ids is None else len(ids)
            self.length = count if limit is None else min(count, limit)
            if source.size is not None:
                self.size = source.size * self.length // max(1, source.length)
        if (ids is not None or limit is not None) and self.length is not None:
            self.schema = self._recounted()

    def read(self, ids: Sequence[int]) -> list[Row]:
        """Rows by position in this view."""
        own = ids if self._ids is None else [self.row_number(i) for i in ids]
        return [self._named(row) for row in self.source.read(own)]

    def row_number(self, i: int) -> int:
        """The source's own row number of a position here."""
        return int(self._ids[i]) if self._ids is not None else int(i)

    def place(self, row: int) -> str:
        """Where a row of this view stands in the data; of a stream its number, in the order in which it was read."""
        return self.source.place(self.row_number(row)) if self.length is not None else f"row {row}"

    def values(self, column: str, ids: Sequence[int]) -> list[str]:
        """Values of any of the data's own columns, of rows by position in this view; "" for a missing one. Raises DataError for a column that
        the data has not."""
        if column not in self.source.schema.columns:
            raise DataError(unknown("column", column, self.source.schema.columns))
        return ["" if is_missing(value) else str(value) for value in self.cells(column, ids)]

    def cells(self, column: str, ids: Sequence[int]) -> list[Any]:
        """As `values`, as they are in the data; of a column that it has."""
        return [row[column] for row in self.source.read([self.row_number(i) for i in ids])]

    def stream(self, shard: int, shards: int, skip: int) -> Iterator[Row]:
        """Rows of a logical shard; `limit` is shared out evenly."""
        share = None if self._limit is None else (self._limit + shards - 1 - shard) // shards
        rows = self.source.stream(shard, shards, skip)
        yield from (self._named(row) for row in islice(rows, None if share is None else max(0, share - skip)))

    def _named(self, row: Row) -> Row:
        return {role: row[column] for role, column in self.columns.items()}

    def _recounted(self) -> Schema:
        """Counts of this part alone, for the columns that have counts. Names that a source declares stay."""
        assert self.length is not None
        wanted = [role for role, c in self.schema.columns.items() if c.counts is not None]
        counts: dict[str, dict[str, int]] = {role: {} for role in wanted}
        for row in self.read(range(self.length)) if wanted else []:
            for role in wanted:
                values = row[role] if isinstance(row[role], list) else [row[role]]
                for value in values:
                    if value is not None:
                        counts[role][str(value)] = counts[role].get(str(value), 0) + 1
        columns = {
            role: Column(c.kind, c.labels, counts[role]) if role in counts else c
            for role, c in self.schema.columns.items()
        }
        return Schema(columns, self.schema.default_task, self.schema.task_options)


def open_rows(
    dataset: Dataset,
    roles: Sequence[Role],
    *,
    columns: Mapping[str, str],
    split: str | None,
    limit: int | None,
    targets: bool = True,
    known: Source | None = None,
) -> RoleSource:
    """Open a split and give its columns the task's names. targets False: roles that are targets may be missing. known: a
    source that is open already. Raises DataError for a role that no column serves, RecipeError for a wrong split, SourceError."""
    name, part = _parse_split(split)
    with read_errors():
        source, columns = gathered(known or dataset.open(name), roles, columns)
    mapping = map_roles(source.schema, roles, columns, targets=targets, report=source.report)
    ids = None
    if part is not None:
        if source.length is None:
            raise RecipeError(f"data.split {split!r}: a streamed source has no length to take a part of")
        ids = _part(source.length, part)
    view = RoleSource(source, mapping, ids, limit)
    _refuse_objects(view, roles)
    return view


def _refuse_objects(view: RoleSource, roles: Sequence[Role]) -> None:
    """Raise DataError for labels that are objects, or lists in some rows only: it names the first row."""
    for role in roles:
        column = view.schema.columns.get(role.name)
        if role.kind != "label" or column is None or column.kind != "object" or view.length is None:
            continue
        kinds: set[type] = set()
        for n in range(view.length):
            value = view.read([n])[0][role.name]
            kinds |= {type(value)} - {type(None)}
            if isinstance(value, dict) or (list in kinds and len(kinds) > 1):
                what = "an object" if isinstance(value, dict) else "a list in some rows and none in others"
                raise DataError(
                    f"{view.place(n)}: column {view.columns[role.name]!r} holds {what}; labels are texts, numbers, or lists"
                )


def map_roles(
    schema: Schema,
    roles: Sequence[Role],
    given: Mapping[str, str],
    *,
    targets: bool = True,
    report: ReadReport | None = None,
) -> dict[str, str]:
    """role -> column: as given, else as the source says, else the first of the role's guesses that is free. report: of the
    source, whose files and remarks an error names. Raises RecipeError, DataError, RefusalError for ids where the task needs texts."""
    where = f"{report.files[0]['path']}:1: " if report and report.files else ""
    for name in given:
        if name not in {r.name for r in roles}:
            raise RecipeError(f"data.columns: {unknown('column of the task', name, [r.name for r in roles])}")
    mapping: dict[str, str] = {}
    names = {column.lower(): column for column in reversed(list(schema.columns))}
    names |= {column: column for column in schema.columns}
    for role in roles:
        if role.name in given:
            if given[role.name] not in schema.columns:
                raise DataError(
                    f"{where}data.columns.{role.name}: {unknown('column', given[role.name], schema.columns)}"
                )
            mapping[role.name] = given[role.name]
        elif schema.column_map.get(role.name) in schema.columns:
            mapping[role.name] = schema.column_map[role.name]
        if (column := mapping.get(role.name)) and schema.columns[column].largest is not None and not role.tokens:
            raise RefusalError(
                f"column {column!r} holds ids of tokens, and the task reads texts: its {role.name!r} cannot be made of them",
                hint="Give the texts that they were made of, or a task that learns from tokens",
            )
    for role in roles:
        if role.name not in mapping and not (schema.column_map and not role.required):
            free = [
                column
                for g in (role.name, *role.guesses)
                if (column := names.get(g) or names.get(g.lower())) is not None and column not in mapping.values()
            ]
            if free:
                mapping[role.name] = free[0]
    missing = [r for r in roles if r.required and r.name not in mapping and (targets or not r.target)]
    if missing:
        if len(missing) == 1 and (only := _only_text(schema, missing[0], mapping)):
            mapping[missing[0].name] = only
            return mapping
        names_found = ", ".join(schema.columns) or "none"
        said = "".join(f" ({line})" for line in report.remarks[:2]) if report else ""
        raise DataError(
            f"{where}no column for {', '.join(repr(r.name) for r in missing)}: the data has {names_found}{said}",
            hint=f"Say which: data.columns.{missing[0].name}=COLUMN",
        )
    return mapping


def _only_text(schema: Schema, role: Role, mapping: Mapping[str, str]) -> str | None:
    """The one column of text that is left, for a role that wants text."""
    free = [n for n, c in schema.columns.items() if n not in mapping.values() and c.kind == "text"]
    return free[0] if role.kind == "text" and len(free) == 1 else None


def _parse_split(split: str | None) -> tuple[str | None, tuple[str, str] | None]:
    if split is None:
        return None, None
    match = _SPLIT.match(split)
    if not match:
        raise RecipeError(f"data.split {split!r}: expected NAME, or a part as NAME[:90%], NAME[90%:], NAME[100:200]")
    given = [b for b in (match["low"], match["high"]) if b]
    if any(b.endswith("%") and int(b[:-1]) > 100 for b in given) or len({b.endswith("%") for b in given}) > 1:
        raise RecipeError(f"data.split {split!r}: bounds are row numbers, or percentages up to 100%, not one of each")
    part = (match["low"] or "0", match["high"] or "100%") if "[" in split else None
    return match["name"] or None, part


def _part(length: int, part: tuple[str, str]) -> list[int]:
    """Positions of a part, in row order. Percentages are of one permutation, so that a sorted file gives parts alike and parts that adjoin do not
    overlap, whatever the seeds of the runs that read them; plain numbers count rows in file order."""
    bounds = [round(length * int(b[:-1]) / 100) if b.endswith("%") else min(length, int(b)) for b in part]
    if bounds[0] >= bounds[1]:
        raise RecipeError(f"data.split: the part [{part[0]}:{part[1]}] of {length} rows is empty")
    if not any(b.endswith("%") and b not in ("0%", "100%") for b in part):
        return list(range(bounds[0], bounds[1]))
    from spcore.loading import generator

    drawn = generator(0, "split").permutation(length)[bounds[0] : bounds[1]]
    return sorted(int(i) for i in drawn)
