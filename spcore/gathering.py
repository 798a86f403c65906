"""Several columns read as one list: `ending0`, `ending1`, ... of a question are its choices."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from spcore.features import fingerprint
from spcore.interfaces.dataset import Column, Row, Source
from spcore.interfaces.task import Role

_BETWEEN = ","


class Gathered(Source):
    """A source with further columns, each a list of the values of several. columns: name -> the columns that it holds, in order. A value
    that is missing at the end of a list is left out: questions may have fewer choices than there are columns."""

    def __init__(self, source: Source, columns: Mapping[str, Sequence[str]]) -> None:
        self.source, self.columns = source, dict(columns)
        known = source.schema
        self.schema = type(known)(
            {**known.columns, **{name: Column("list") for name in columns}},
            known.default_task, known.task_options, known.column_map,
        )  # fmt: skip
        self.fingerprint = fingerprint(source.fingerprint, self.columns)
        self.length, self.report, self.size = source.length, source.report, source.size

    def read(self, ids: Sequence[int]) -> list[Row]:
        """See `Source.read`."""
        return [self._with(row) for row in self.source.read(ids)]

    def place(self, row: int) -> str:
        """See `Source.place`."""
        return self.source.place(row)

    def stream(self, shard: int, shards: int, skip: int) -> Iterator[Row]:
        """See `Source.stream`."""
        yield from map(self._with, self.source.stream(shard, shards, skip))

    def _with(self, row: Row) -> Row:
        made = {name: [row[column] for column in columns] for name, columns in self.columns.items()}
        for values in made.values():
            while values and values[-1] is None:
                values.pop()
        return {**row, **made}


def gathered(source: Source, roles: Sequence[Role], given: Mapping[str, str]) -> tuple[Source, dict[str, str]]:
    """The source, with a column for each role whose list lies in several, and `given` with that column's name: where the recipe names
    several (`choices: "first, second"`), or nothing and no column has one of the role's names."""
    known, made, mapping = source.schema.columns, dict[str, tuple[str, ...]](), dict(given)
    lowered = {name.lower() for name in known}
    for role in roles:
        if role.name in given:
            named = tuple(part.strip() for part in given[role.name].split(_BETWEEN))
            if given[role.name] not in known and len(named) > 1 and role.series and set(named) <= set(known):
                made[given[role.name]] = named
        elif role.series and not lowered & {name.lower() for name in (role.name, *role.guesses)}:
            found = next((columns for start in role.series if (columns := _series(start, list(known)))), None)
            if found:
                mapping[role.name] = f"{_BETWEEN} ".join(found)
                made[mapping[role.name]] = found
    return (Gathered(source, made) if made else source), mapping


def _series(start: str, names: Sequence[str]) -> tuple[str, ...]:
    """Columns called `start` and a number, two at least, by their numbers; () where there are none."""
    found = {
        int(match[1]): name for name in names if (match := re.fullmatch(rf"{start}[_ ]?(\d+)", name, re.IGNORECASE))
    }
    return tuple(found[n] for n in sorted(found)) if len(found) > 1 else ()
