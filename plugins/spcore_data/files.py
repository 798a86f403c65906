"""Data set `files`: local files by path, glob or folder."""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet

from spcore.errors import DataError, SourceError, nearest, unknown
from spcore.features import fingerprint
from spcore.interfaces.dataset import Dataset, ReadReport, Source
from spcore_data.content import Content, bare_suffix, read_content
from spcore_data.delimited import read_delimited
from spcore_data.options import BuiltinOptions, FilesOptions, HubOptions
from spcore_data.table import TableSource

FORMATS = {
    ".csv": "csv", ".tsv": "tsv", ".tab": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".parquet": "parquet",
    ".pq": "parquet", ".arrow": "arrow", ".feather": "arrow", ".ipc": "arrow", ".txt": "text", ".text": "text",
}  # fmt: skip
_SPLITS = {"train": "train", "training": "train", "dev": "validation", "valid": "validation", "validation": "validation",
           "val": "validation", "eval": "validation", "test": "test", "testing": "test"}  # fmt: skip
Read = tuple[pa.Table, dict[str, list[int]], list[str]]


class Files(Dataset):
    """Local files; a source that is no path is a name on the Hub."""

    def __init__(self, options: FilesOptions) -> None:
        self.options = options

    def open(self, split: str | None) -> Source:
        """See `Dataset.open`."""
        sources = [self.options.source] if isinstance(self.options.source, str) else list(self.options.source)
        if len(sources) == 1 and sources[0].startswith("builtin/") and not Path(sources[0]).exists():
            from spcore_data.builtin_sets import Builtin

            return Builtin(BuiltinOptions.model_validate({"source": sources[0]})).open(split)
        paths = [path for source in sources for path in find(source)]
        if not paths:
            return self._elsewhere(sources, split)
        if self.options.name is not None:
            raise SourceError(f"data {sources[0]!r}: `name` {self.options.name!r} is for data sets on the Hub, and this is a file")
        chosen = choose(paths, split, several=len(sources) > 1 or any(c in sources[0] for c in "*?["), subject=sources[0])
        return self._read(chosen)

    def _elsewhere(self, sources: list[str], split: str | None) -> Source:
        source = sources[0]
        looks_local = len(sources) > 1 or source.startswith((".", "/", "~")) or bare_suffix(Path(source)) in FORMATS or any(c in source for c in "*?[")
        if looks_local or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", source):
            raise SourceError(missing_path(source))
        from spcore_data.hub import Hub

        return Hub(HubOptions(source=source, name=self.options.name, revision=None)).open(split)

    def _read(self, paths: list[Path]) -> Source:
        tables, dropped, remarks, digests = [], {}, [], []
        for path in paths:
            try:
                content = read_content(path)
            except OSError as error:
                raise DataError(f"{path}: cannot be read: {error.strerror}") from error
            table, lost, said = read_table(content, self.options)
            tables.append(table)
            digests.append(content.digest)
            remarks += said
            for reason, lines in lost.items():
                dropped.setdefault(reason if len(paths) == 1 else f"{path.name}: {reason}", []).extend(lines)
        try:
            table = tables[0] if len(tables) == 1 else pa.concat_tables(tables, promote_options="permissive")
        except pa.ArrowInvalid as error:
            raise DataError(f"{paths[0].name} and {len(paths) - 1} more files do not have the same columns: {error}") from error
        read = table.num_rows + sum(map(len, dropped.values()))
        key = fingerprint(digests, self.options.model_dump(exclude={"source"}))
        return TableSource(table, key, report=ReadReport(read, dropped, tuple(remarks)))


def find(source: str) -> list[Path]:
    """Files of a path, a glob or a folder, sorted."""
    path = Path(source).expanduser()
    if path.is_dir():
        return sorted(p for p in path.iterdir() if p.is_file() and bare_suffix(p) in FORMATS)
    if path.exists():
        return [path]
    return sorted(Path(p) for p in glob.glob(str(path), recursive=True) if Path(p).is_file()) if any(c in source for c in "*?[") else []


def choose(paths: list[Path], split: str | None, *, several: bool, subject: str) -> list[Path]:
    """The files of a split: by their names where several are named for splits. Raises SourceError."""
    by_split: dict[str, list[Path]] = {}
    for path in paths:
        word = re.split(r"[^a-z]+", path.name.lower())[0]
        by_split.setdefault(_SPLITS.get(word, ""), []).append(path)
    named = {name: files for name, files in by_split.items() if name}
    if len(paths) == 1 or not named or (several and len(named) == 1):
        if split in (None, "train") or (named and _SPLITS.get(split or "", split) in named):
            return paths
        known = list(named) or ["train"]
        raise SourceError(f"data {subject!r}: {unknown('split', str(split), known)}")
    wanted = _SPLITS.get(split, split) if split is not None else "train"
    if wanted in named:
        return named[wanted]
    if split is None and len(named) == 1:
        return next(iter(named.values()))
    raise SourceError(f"data {subject!r}: {unknown('split', wanted, named)}")


def missing_path(source: str) -> str:
    """The sentence for a path that is not there."""
    path = Path(source).expanduser()
    folder = path.parent
    if not folder.is_dir():
        return f"data {source!r}: no such file; the folder {str(folder)!r} does not exist either"
    there = [p.name for p in folder.iterdir()]
    near = nearest(path.name, there)
    return f"data {source!r}: no such file" + (f"; did you mean {str(folder / near)!r}?" if near else f"; {str(folder)!r} has {len(there)} other files")


def read_table(content: Content, options: FilesOptions) -> Read:
    """A file as a table; reasons with line numbers of what was dropped; remarks."""
    kind = options.format if options.format != "auto" else recognise(content)
    readers: Mapping[str, Callable[[Content, FilesOptions], Read]] = {
        "csv": lambda c, o: _delimited(c, o, tab=False), "tsv": lambda c, o: _delimited(c, o, tab=True), "jsonl": _jsonl,
        "json": _json, "parquet": _parquet, "arrow": _arrow, "text": _text,
    }  # fmt: skip
    table, dropped, remarks = readers[kind](content, options)
    if not table.num_rows:
        raise DataError(f"{content.path}: no rows")
    return table, dropped, remarks


def recognise(content: Content) -> str:
    """A file's format by its first bytes, then by its name, then by its first line."""
    data = content.data
    if data.startswith(b"PAR1"):
        return "parquet"
    if data.startswith(b"ARROW1"):
        return "arrow"
    by_name = FORMATS.get(bare_suffix(content.path))
    if by_name == "json" or (by_name is None and data.lstrip()[:1] in (b"{", b"[")):
        head = data.lstrip()[:1_000_000].decode("utf-8", "replace")
        return "json" if head.startswith("[") or not _is_object(head.splitlines()[0]) or "\n" not in head.strip() else "jsonl"
    if by_name is not None:
        return by_name
    first = data.split(b"\n", 1)[0]
    if b"\t" in first:
        return "tsv"
    raise DataError(f"{content.path}: unknown format; known: {', '.join(sorted(FORMATS))}", hint="Say which: data.format=csv")


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _delimited(content: Content, options: FilesOptions, *, tab: bool) -> Read:
    found = read_delimited(content.text(), content.path, tab, options)
    columns = list(zip(*found.rows, strict=True))
    return pa.table({name: pa.array(column, pa.string()) for name, column in zip(found.names, columns, strict=True)}), found.dropped, found.remarks


def _jsonl(content: Content, options: FilesOptions) -> Read:
    rows, dropped = [], {}
    for number, line in enumerate(content.text().split("\n"), 1):
        if not line.strip():
            if number <= content.text().count("\n"):
                dropped.setdefault("empty line", []).append(number)
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{content.path}:{number}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise DataError(f"{content.path}:{number}: found {type(row).__name__}, expected an object of column: value")
        rows.append(row)
    return _from_rows(rows, content.path), dropped, []


def _json(content: Content, options: FilesOptions) -> Read:
    try:
        data = json.loads(content.text())
    except ValueError as error:
        line = getattr(error, "lineno", 1)
        raise DataError(f"{content.path}:{line}: not JSON: {error}") from error
    if isinstance(data, dict) and isinstance(data.get("data"), list):
        data = data["data"]
    elif isinstance(data, dict) and data and all(isinstance(v, list) for v in data.values()) and len({len(v) for v in data.values()}) == 1:
        data = [dict(zip(data, values, strict=True)) for values in zip(*data.values(), strict=True)]
    elif isinstance(data, dict):
        data = [data]
    if not isinstance(data, list) or not all(isinstance(row, dict) for row in data):
        raise DataError(f"{content.path}: expected a list of objects, or an object of lists of one length")
    return _from_rows(data, content.path), {}, []


def _from_rows(rows: list[dict[str, Any]], path: Path) -> pa.Table:
    """A table of rows; a column whose values are of mixed kinds becomes text."""
    if not rows:
        raise DataError(f"{path}: no rows")
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {}
    for name in names:
        values = [row.get(name) for row in rows]
        try:
            columns[name] = pa.array(values)
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            columns[name] = pa.array([None if v is None else v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for v in values])
    return pa.table(columns)


def _parquet(content: Content, options: FilesOptions) -> Read:
    try:
        return pyarrow.parquet.read_table(pa.BufferReader(content.data)), {}, []
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{content.path}: not a whole Parquet file: {error}") from error


def _arrow(content: Content, options: FilesOptions) -> Read:
    try:
        if content.data.startswith(b"ARROW1"):
            return pyarrow.ipc.open_file(pa.BufferReader(content.data)).read_all(), {}, []
        return pyarrow.ipc.open_stream(pa.BufferReader(content.data)).read_all(), {}, []
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{content.path}: not a whole Arrow file: {error}") from error


def _text(content: Content, options: FilesOptions) -> Read:
    lines = content.text().replace("\r\n", "\n").split("\n")
    if lines and not lines[-1]:
        lines.pop()
    empty = [n for n, line in enumerate(lines, 1) if not line.strip()]
    kept = [line for line in lines if line.strip()]
    return pa.table({"text": pa.array(kept, pa.string())}), ({"empty line": empty} if empty else {}), []
