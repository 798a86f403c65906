"""Data set `files`: local files by path, glob or folder."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa

from spcore.errors import SourceError
from spcore.features import fingerprint
from spcore.interfaces.dataset import Dataset, ReadReport, Source
from spcore_data.content import bare_suffix, read_content
from spcore_data.formats import FORMATS, read_part
from spcore_data.header import typed
from spcore_data.options import BuiltinOptions, FilesOptions, HubOptions
from spcore_data.parallel import alike
from spcore_data.parts import Part
from spcore_data.splits import choose, find, is_glob, missing_path, near_path
from spcore_data.table import Origin, TableSource, place_in, table_of

READING = 2
"""Changes when the same bytes are read in another way: what was cached of them is then made anew."""
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


class Files(Dataset):
    """Local files; a source that is no path may be a name on the Hub, or one that ships with the project."""

    def __init__(self, options: FilesOptions) -> None:
        self.options = options

    def open(self, split: str | None) -> Source:
        """See `Dataset.open`. Raises SourceError where nothing is found, DataError where it cannot be read."""
        sources = (self.options.source,) if isinstance(self.options.source, str) else self.options.source
        if not sources:
            raise SourceError("data: `source` is an empty list")
        subject = sources[0] if len(sources) == 1 else f"{sources[0]} and {len(sources) - 1} more"
        files = []
        for source in sources:
            found = find(source)
            if not found and len(sources) == 1:
                return self._elsewhere(source, split)
            if not found:
                raise SourceError(missing_path(source))
            files += found
        self._refuse_name(subject, "a file")
        paths, remarks = choose(files, split, subject)
        return read_files(paths, self.options, remarks)

    def _elsewhere(self, source: str, split: str | None) -> Source:
        """What a source that is no path may stand for. Raises SourceError that says all that was tried."""
        if source.startswith("builtin/"):
            from spcore_data.builtin_sets import Builtin

            self._refuse_name(source, "a set that ships with the project")
            self._refuse_reading(source)
            return Builtin(BuiltinOptions.model_validate({"source": source})).open(split)
        path_like = source.startswith((".", "/", "~")) or bare_suffix(Path(source)) in FORMATS or is_glob(source)
        if path_like or not _HUB_NAME.fullmatch(source):
            raise SourceError(missing_path(source))
        from spcore_data.hub import Hub, NotOnHub

        self._refuse_reading(source)
        options = {"source": source, "name": self.options.name}
        try:
            return Hub(HubOptions.model_validate(options)).open(split)
        except NotOnHub as error:
            near = near_path(source)
            local = "no such file" + (f"; did you mean {near!r}?" if near else ";")
            raise SourceError(f"data {source!r}: {local} and as a {error.message}") from error

    def _refuse_name(self, subject: str, what: str) -> None:
        if self.options.name is not None:
            raise SourceError(
                f"data {subject!r}: name {self.options.name!r} is for data sets with several parts, and this is {what}",
                hint="If it was meant as a task: no task is called so",
            )

    def _refuse_reading(self, subject: str) -> None:
        """Options that say how a file is read, where there is none to read."""
        for key in ("format", "delimiter", "quoting", "header", "names"):
            if getattr(self.options, key) != FilesOptions.model_fields[key].default:
                raise SourceError(f"data {subject!r}: no such file, and `{key}` is for files")


def read_files(paths: list[Path], options: FilesOptions, remarks: list[str]) -> TableSource:
    """Files of one split, one after another. remarks: made already. Raises DataError."""
    parts, origins, dropped, digests, remarks = [], [], {}, [], list(remarks)
    for path in paths:
        content = read_content(path)
        part = read_part(content, options)
        parts.append(part)
        origins.append(Origin(str(path), part.facts["rows"], part.lines))
        digests.append(content.digest)
        remarks += part.remarks
        if part.facts["format"] == "text" and (others := alike(path)):
            names = ", ".join(other.name for other in others)
            remarks.append(
                f"{path.name}: {names} beside it are called alike (parallel:{path.name} reads them line by line)"
            )
        for reason, lines in part.dropped.items():
            dropped[reason if len(paths) == 1 else f"{path.name}: {reason}"] = lines
    subject = str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
    _same_spelling(parts, remarks)
    table, encoded = _joined(parts, subject, origins, remarks)
    _tell_capitals(table.column_names, subject, remarks)
    declared = {name: labels for part in parts for name, labels in part.declared.items()}
    read = table.num_rows + sum(map(len, dropped.values()))
    report = ReadReport(read, dropped, tuple(remarks), tuple(part.facts for part in parts))
    key = fingerprint(READING, digests, options.model_dump(exclude={"source", "name"}))
    tasks = {part.task for part in parts}
    advice = {"default_task": tasks.pop()} if len(tasks) == 1 else {}
    return TableSource(table, key, report=report, declared=declared, advice=advice, encoded=encoded, origins=origins)


def _columns(part: Part) -> list[str]:
    if part.table is not None:
        return list(part.table.column_names)
    return list(dict.fromkeys(name for row in part.rows or () for name in row))


def _same_spelling(parts: list[Part], remarks: list[str]) -> None:
    """Columns whose names differ from the first file's in capitals only, under the first file's names."""
    known = {name.lower(): name for name in reversed(_columns(parts[0]))}
    for part in parts[1:]:
        own = _columns(part)
        other = {n: known[n.lower()] for n in own if n not in known.values() and n.lower() in known}
        other = {name: taken for name, taken in other.items() if taken not in own}
        if not other:
            continue
        if part.table is not None:
            part.table = part.table.rename_columns([other.get(name, name) for name in own])
        elif part.rows is not None:
            part.rows = [{other.get(name, name): value for name, value in row.items()} for row in part.rows]
        said = ", ".join(f"{name!r} is read as {taken!r}" for name, taken in other.items())
        remarks.append(f"{Path(part.facts['path']).name}: {said}, as the first file spells it")


def _tell_capitals(names: list[str], subject: str, remarks: list[str]) -> None:
    seen: dict[str, str] = {}
    for name in names:
        if name.lower() in seen:
            remarks.append(
                f"{subject}: columns {seen[name.lower()]!r} and {name!r} differ in capitals only; they are two"
            )
        seen.setdefault(name.lower(), name)


def _joined(
    parts: list[Part], subject: str, origins: list[Origin], remarks: list[str]
) -> tuple[pa.Table, dict[str, str]]:
    """The parts as one table, and which of its columns are encoded. Files with different columns make a remark."""
    every = list(dict.fromkeys(name for part in parts for name in _columns(part)))
    for part in parts:
        if lacking := [name for name in every if name not in _columns(part)]:
            name = Path(part.facts["path"]).name
            remarks.append(
                f"{name}: has no {', '.join(map(repr, lacking))}, which other files have; missing in its rows"
            )
    if all(part.table is not None for part in parts):
        try:
            table = pa.concat_tables([p.table for p in parts], promote_options="permissive")
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            pass  # columns of different types: through rows, where they become text
        else:
            if not all(p.cells for p in parts):
                return table, {}
            return typed(table, lambda row: place_in(origins, row), remarks), {}
    rows = [row for p, o in zip(parts, origins, strict=True) for row in (p.rows if p.rows is not None else _rows(p, o))]
    table, encoded, said = table_of(rows, subject, origins)
    remarks += said
    return table, encoded


def _rows(part: Part, origin: Origin) -> list[dict[str, object]]:
    assert part.table is not None, "a part has rows or a table"
    table = typed(part.table, lambda row: place_in([origin], row), []) if part.cells else part.table
    source = TableSource(table, "")
    return source.read(range(table.num_rows))
