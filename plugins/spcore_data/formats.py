"""What is in a file: its format, and its rows."""

from __future__ import annotations

import json
import re
from array import array
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet

from spcore.errors import DataError
from spcore_data.conll import is_conll, read_conll
from spcore_data.content import Content, bare_suffix, lines_of
from spcore_data.cutting import EMPTY, guess_delimiter
from spcore_data.delimited import read_delimited
from spcore_data.header import find_header
from spcore_data.nested import TASK, holds_questions, questions
from spcore_data.options import FilesOptions
from spcore_data.parts import Part
from spcore_data.translations import TASK as TRANSLATION
from spcore_data.translations import flat, has_instances, instances, is_translation

FORMATS = {
    ".csv": "csv", ".tsv": "tsv", ".tab": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".parquet": "parquet",
    ".pq": "parquet", ".arrow": "arrow", ".feather": "arrow", ".ipc": "arrow", ".txt": "text", ".text": "text",
    ".conll": "conll", ".conllu": "conll", ".bio": "conll", ".iob": "conll", ".iob2": "conll", ".bioes": "conll",
}  # fmt: skip
_STREAM = b"\xff\xff\xff\xff"
_MAGIC = (b"PAR1", b"ARROW1", _STREAM)
_DELIMITED = {
    "delimiter": ("csv", "tsv", "conll"),
    "quoting": ("csv", "tsv"),
    "header": ("csv", "tsv"),
    "names": ("csv", "tsv", "conll"),
}
"""Option -> the formats that it is for."""
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def read_part(content: Content, options: FilesOptions) -> Part:
    """A file's rows. Raises DataError."""
    kind, remarks = recognise(content) if options.format == "auto" else (options.format, [])
    for name, formats in _DELIMITED.items():
        if kind not in formats and getattr(options, name) != FilesOptions.model_fields[name].default:
            named = f"{', '.join(formats[:-1])} and {formats[-1]}"
            raise DataError(f"{content.path}: `{name}` is for {named}, and this is {kind}", hint=f"Leave {name} out")
    if options.format != "text" and not content.data.startswith(_MAGIC):
        content.refuse_page()
    part = _READERS[kind](content, options)
    binary = kind in ("parquet", "arrow")
    part.remarks = [*remarks, *([] if binary else content.remarks), *part.remarks]
    rows = part.table.num_rows if part.table is not None else len(part.rows or ())
    if not rows:
        raise DataError(f"{content.path}:1: no rows")
    part.facts = {
        "path": str(content.path), "format": kind, "compression": content.compression,
        **({} if binary else {"encoding": content.encoding.removesuffix("-sig"), "line_ends": _line_ends(content.text)}),
        **part.facts, "rows": rows,
    }  # fmt: skip
    return part


def _line_ends(text: str) -> str:
    """How lines end: "LF", "CRLF", "CR", or what there is of these."""
    both, feeds, returns = text.count("\r\n"), text.count("\n"), text.count("\r")
    found = {"CRLF": both, "LF": feeds - both, "CR": returns - both}
    return ", ".join(name for name, count in found.items() if count) or "none"


def recognise(content: Content) -> tuple[str, list[str]]:
    """A file's format by its first bytes, then by its name, then by its first line; and what to tell the user."""
    data, by_name = content.data, FORMATS.get(bare_suffix(content.path))
    if data.startswith(b"PAR1"):
        return "parquet", []
    if data.startswith(b"ARROW1") or (by_name is None and data.startswith(_STREAM)):
        return "arrow", []
    if by_name in ("parquet", "arrow"):
        return by_name, []
    lines = content.text[:100_000].split("\n")
    if by_name in ("json", "jsonl"):
        return _json_or_lines(content.text, by_name), []
    if by_name == "conll":
        return by_name, []
    whole = lines if len(content.text) <= 100_000 else lines[:-1]
    if is_conll(whole):
        return "conll", [f"{content.path.name}: read as CoNLL, a word a line with its tags"]
    if by_name == "text":
        tabs = Counter(line.count("\t") for line in lines[:50] if line.strip())
        if len(tabs) == 1 and (count := next(iter(tabs))):
            return "text", [
                f"{content.path.name}: read as plain text, but every line has {count} tabs (format: tsv reads columns)"
            ]
        return "text", [f"{content.path.name}: each line is a row (corpus:{content.path.name} reads whole texts)"]
    if by_name is not None:
        return _really(content.text, by_name, content.path.name)
    found = _by_first_lines(lines)
    return found, [f"{content.path.name}: its name tells no format; read as {found}"]


def _really(text: str, by_name: str, name: str) -> tuple[str, list[str]]:
    """CSV or TSV, as the name says, or JSON under such a name."""
    start = text.lstrip()
    kind = _json_or_lines(text, "json") if start.startswith(("{", "[{", "[\n")) else by_name
    if kind == "json" and not _is_json(text):
        kind = by_name
    return kind, [] if kind == by_name else [f"{name}: is named {by_name} and read as {kind}, which it holds"]


def _is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict | list)
    except (ValueError, RecursionError):
        return False


def _by_first_lines(lines: list[str]) -> str:
    lines = [line for line in lines if line.strip()]
    if lines[0].lstrip()[:1] in ("{", "["):
        return _json_or_lines("\n".join(lines), "json")
    if "\t" in lines[0]:
        return "tsv"
    cells = lines[0].split(guess_delimiter(lines))
    return "csv" if len(cells) > 1 and find_header([cells], len(cells)) == "known" else "text"


def _json_or_lines(text: str, by_name: str) -> str:
    """Which of the two: their names are often exchanged."""
    start = text.lstrip()
    if start.startswith("["):
        first = start.split("\n", 1)[0].rstrip()
        return by_name if first.endswith("]") and "\n" in start.strip() else "json"
    first, _, rest = start.partition("\n")
    return "jsonl" if _is_object(first) and (by_name == "jsonl" or rest.strip()) else by_name


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _delimited(tab: bool) -> Callable[[Content, FilesOptions], Part]:
    def read(content: Content, options: FilesOptions) -> Part:
        found = read_delimited(content.text, content.path, tab, options)
        cells = (pa.array(column, pa.string()) for column in zip(*found.rows, strict=True))
        table = pa.table(dict(zip(found.names, cells, strict=True)))
        return Part(
            table=table,
            cells=True,
            lines=array("Q", found.lines),
            dropped=found.dropped,
            remarks=found.remarks,
            facts=found.facts,
        )

    return read


def _jsonl(content: Content, options: FilesOptions) -> Part:
    numbers = array("Q")
    part = Part(rows=[], lines=numbers)
    assert part.rows is not None
    for number, line in enumerate(lines_of(content.text), 1):
        if not line.strip():
            part.dropped.setdefault(EMPTY, []).append(number)
            continue
        row = parsed(line, content.path, number)
        if not isinstance(row, dict):
            raise DataError(f"{content.path}:{number}: found {json_name(row)}, expected an object of column: value")
        part.rows.append(row)
        numbers.append(number)
    return _unnested(part)


def _json(content: Content, options: FilesOptions) -> Part:
    data = parsed(content.text, content.path, None)
    if isinstance(data, dict) and isinstance(data.get("data"), list):
        data = data["data"]
    elif holds_questions(data):
        data = [data]
    elif isinstance(data, dict):
        lengths = {len(v) if isinstance(v, list) else -1 for v in data.values()}
        if lengths and len(lengths) == 1 and -1 not in lengths:  # an object of columns
            data = [dict(zip(data, values, strict=True)) for values in zip(*data.values(), strict=True)]
        else:
            data = [data]
    if not isinstance(data, list):
        raise DataError(f'{content.path}:1: found {json_name(data)}, expected a list of objects, or {{"data": [...]}}')
    for number, row in enumerate(data):
        if not isinstance(row, dict):
            raise DataError(f"{content.path}: item {number} is {json_name(row)}, expected an object of column: value")
    return _unnested(Part(rows=data))


def _unnested(part: Part) -> Part:
    """Rows as they are, or a row for each question where they are articles or paragraphs with questions, for each instance of an
    instruction, or with columns for what a translation holds."""
    if part.rows and all(map(is_translation, part.rows)):
        part.rows, part.task, part.facts = flat(part.rows), TRANSLATION, {"translations": len(part.rows)}
        return part
    if part.rows and all(map(has_instances, part.rows)):
        part.facts = {"instances_of": f"{len(part.rows)} instructions"}
        part.rows, numbers = instances(part.rows, part.lines if part.lines is not None else range(len(part.rows)))
        part.lines = array("Q", numbers) if part.lines is not None else None
        return part
    if not any(map(holds_questions, part.rows or ())):
        return part
    assert part.rows is not None, "there are rows"
    count = len(part.rows)
    part.rows, numbers = questions(part.rows, part.lines if part.lines is not None else range(count))
    part.lines = array("Q", numbers) if part.lines is not None else None
    part.task, part.facts = (
        TASK,
        {"questions_of": f"{count} {'article or paragraph' if count == 1 else 'articles or paragraphs'}"},
    )
    return part


def parsed(text: str, path: Path, line: int | None) -> Any:
    """JSON. line: of the text in its file, None where the text is the file. Raises DataError."""
    try:
        value = json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        where = f"{path}:{line or error.lineno}"
        raise DataError(f"{where}: not JSON: {error.msg} (column {error.colno})") from None
    except _Twice as error:
        raise DataError(f"{path}:{line or 1}: column {error.args[0]!r} is there twice in one object") from None
    except (RecursionError, ValueError) as error:  # a number of thousands of digits is a ValueError
        raise DataError(f"{path}:{line or 1}: JSON that cannot be read: {error}") from None
    return _mended(value) if _SURROGATE.search(text) else value


class _Twice(Exception):
    """A key that an object has twice."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _Twice(next(key for key, n in Counter(key for key, _ in pairs).items() if n > 1))
    return found


def _mended(value: Any) -> Any:
    """Halves of surrogate pairs, which JSON may hold and UTF-8 may not, as the replacement character."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_mended(v) for v in value]
    return {_mended(k): _mended(v) for k, v in value.items()} if isinstance(value, dict) else value


def json_name(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _parquet(content: Content, options: FilesOptions) -> Part:
    try:
        return _arrow_part(pyarrow.parquet.ParquetFile(pa.BufferReader(content.data)).read(), content.path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{content.path}: not a whole Parquet file: {first_line(error)}") from error


def _arrow(content: Content, options: FilesOptions) -> Part:
    buffer = pa.BufferReader(content.data)
    open_it = pyarrow.ipc.open_file if content.data.startswith(b"ARROW1") else pyarrow.ipc.open_stream
    try:
        return _arrow_part(open_it(buffer).read_all(), content.path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{content.path}: not a whole Arrow file: {first_line(error)}") from error


def _arrow_part(table: pa.Table, path: Path) -> Part:
    if twice := [name for name, n in Counter(table.column_names).items() if n > 1]:
        raise DataError(f"{path}: column {twice[0]!r} is there twice")
    return Part(table=table, declared=_declared(table.schema.metadata or {}))


def _declared(metadata: Mapping[bytes, bytes]) -> dict[str, tuple[str, ...]]:
    """Label names as the `datasets` library writes them into a file's schema."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
        inner = {name: feature.get("feature", feature) for name, feature in features.items()}
        return {name: tuple(f["names"]) for name, f in inner.items() if f.get("_type") == "ClassLabel"}
    except (ValueError, AttributeError, KeyError, TypeError):
        return {}  # another program's, under the same key


def first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].removesuffix(".")


def _text(content: Content, options: FilesOptions) -> Part:
    lines = lines_of(content.text)
    kept = array("Q", [n for n, line in enumerate(lines, 1) if line.strip()])
    empty = [n for n, line in enumerate(lines, 1) if not line.strip()]
    table = pa.table({"text": pa.array([lines[n - 1] for n in kept], pa.string())})
    return Part(table=table, lines=kept, dropped={EMPTY: empty} if empty else {})


def _conll(content: Content, options: FilesOptions) -> Part:
    return read_conll(content.text, content.path, options)


_READERS: Mapping[str, Callable[[Content, FilesOptions], Part]] = {
    "csv": _delimited(False), "tsv": _delimited(True), "jsonl": _jsonl, "json": _json, "parquet": _parquet, "arrow": _arrow,
    "text": _text, "conll": _conll,
}  # fmt: skip
