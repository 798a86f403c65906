"""The texts of rows, for parts that learn something of them before a model is opened (a tokenizer)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from spcore.interfaces.task import Role
from spcore.rows import RoleSource, is_missing

_CHUNK = 1024


class Texts:
    """Every text of some sources, row by row, read anew each time they are iterated; one chunk of rows is held. A list of texts is several.

    rows: how many; None where a source is a stream. fingerprint: of the sources and of what is read of them.
    """

    def __init__(self, sources: Mapping[str, RoleSource], roles: Sequence[Role]) -> None:
        from spcore.features import fingerprint

        self._sources = list(sources.values())
        self._names = [role.name for role in roles if role.kind == "text"]
        lengths = [source.length for source in self._sources]
        known = [length for length in lengths if length is not None]
        self.rows = sum(known) if len(known) == len(lengths) else None
        self.fingerprint = fingerprint([source.fingerprint for source in self._sources], self._names)

    def __iter__(self) -> Iterator[str]:
        for source in self._sources:
            if source.length is None:
                rows = source.stream(0, 1, 0)
            else:
                starts, most = range(0, source.length, _CHUNK), source.length
                rows = (row for at in starts for row in source.read(range(at, min(most, at + _CHUNK))))
            for row in rows:
                for name in self._names:
                    value = row.get(name)
                    for text in value if isinstance(value, list) else [value]:
                        if isinstance(text, str) and not is_missing(text):
                            yield text
