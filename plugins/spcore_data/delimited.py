"""CSV and TSV as people have them: titles above the header, headers again in the middle, delimiters at the ends of rows, rows of
the wrong width, empty lines. `cutting` cuts the lines, here rows get their columns."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spcore.errors import DataError
from spcore_data.content import lines_of
from spcore_data.cutting import EMPTY, Cut, cut, cut_at_returns, guess_delimiter
from spcore_data.header import find_header, names_without_header
from spcore_data.options import FilesOptions

AGAIN, ABOVE = "the header again", "a line above the header"
_SEPARATOR = re.compile(r'"?sep=(.)"?', re.IGNORECASE)


@dataclass
class Delimited:
    """A file's columns. lines: the line each row begins on. dropped: reason -> line numbers. remarks: what was decided.
    facts: delimiter, quoting, header, for `ReadReport.files`."""

    names: list[str]
    rows: list[list[str]] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    dropped: dict[str, list[int]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


def read_delimited(text: str, path: Path, tab: bool, options: FilesOptions) -> Delimited:
    """Cut a file. tab: it is TSV. Raises DataError that names the line."""
    lines = lines_of(text)
    remarks: list[str] = []
    told = _SEPARATOR.fullmatch(lines[0].strip())  # Excel's own way of saying it
    if told:
        lines[0] = ""
    delimiter = options.delimiter or (told[1] if told else None) or _delimiter(lines, tab, path, remarks)
    whole, lines = lines, cut_at_returns(lines, delimiter)
    if lines is not whole:
        remarks.append(f"{path.name}: lone carriage returns end lines there, beside other line ends")
    found = cut(lines, delimiter, options.quoting)
    if told:
        _forget_line(found, 1)
    if not found.rows:
        raise DataError(f"{path}:1: no row; its quotes do not balance", hint="If quotes are text there: quoting: none")
    _tell_quoting(found, delimiter, options, path, remarks)
    _trim(found, path, remarks)
    result = _with_names(found, delimiter, path, options, remarks)
    result.facts = {"delimiter": delimiter, "quoting": found.quoting, **result.facts}
    if not result.rows:
        _refuse(found, result, path)
    return result


def _delimiter(lines: list[str], tab: bool, path: Path, remarks: list[str]) -> str:
    if tab and any("\t" in line for line in lines[:200]):
        return "\t"
    guessed = guess_delimiter([part for line in lines[:200] for part in line.split("\r")])
    if tab:
        remarks.append(f"{path.name}: has no tabs; {guessed!r} is taken as the delimiter")
    return guessed


def _forget_line(found: Cut, line: int) -> None:
    empty = [n for n in found.dropped.pop(EMPTY, []) if n != line]
    if empty:
        found.dropped[EMPTY] = empty


def _tell_quoting(found: Cut, delimiter: str, options: FilesOptions, path: Path, remarks: list[str]) -> None:
    if found.repaired:
        remarks.append(f"{path.name}: {found.repaired}")
    if options.quoting != "auto":
        return
    if found.quoting == "none":
        remarks.append(f"{path.name}: quotes are read as text (quoting: csv would have them enclose fields)")
    elif found.quoting == "csv" and delimiter == "\t":
        remarks.append(f"{path.name}: quotes are read as enclosing fields (quoting: none would read them as text)")


def _trim(found: Cut, path: Path, remarks: list[str]) -> None:
    """Cut off blank cells beyond the columns, which a delimiter at the end of a row makes: columns at the right that are blank
    in every row, their name too, and blank cells of rows that are longer."""

    def filled(row: list[str]) -> int:
        return next((n for n in range(len(row), 0, -1) if row[n - 1].strip()), 0)

    whole = len(found.rows[0])
    width = max(filled(row) for row in found.rows if len(row) == whole)
    longer = [n for n, row in enumerate(found.rows) if len(row) > width and filled(row) <= width]
    for n in longer:
        found.rows[n] = found.rows[n][:width]
    if longer:
        line = found.spans[longer[0]][0]
        remarks.append(
            f"{path.name}: delimiters at the ends of {len(longer)} lines are left out (first at line {line})"
        )


def _above(found: Cut) -> int:
    """Rows above the header: titles and comments, where a header with usual names follows them."""
    width = found.width
    for n, row in enumerate(found.rows[:10]):
        if width > 1 and len(row) == width and find_header(found.rows[n:], width) == "known":
            return n
        if sum(bool(cell.strip()) for cell in row) > 1 and not row[0].lstrip().startswith("#"):
            return 0
    return 0


def _with_names(found: Cut, delimiter: str, path: Path, options: FilesOptions, remarks: list[str]) -> Delimited:
    """The header taken off, columns named, rows of another width dropped; of TSV without a header, which says no width, longer ones are cut."""
    header: bool | str | None = options.header
    result = Delimited([], dropped=dict(found.dropped), remarks=remarks)
    start = 0
    if header == "auto":
        start = _above(found)
        if start:
            result.dropped[ABOVE] = [line for line, _ in found.spans[:start]]
        header = find_header(found.rows[start:], found.width)
        if header == "guessed" and options.names is None:
            remarks.append(
                f"{path.name}: the first row is taken as the columns' names (header: false would change that)"
            )
    first = [cell.strip() for cell in found.rows[start]] if header else []
    width = len(first) or found.width
    result.names = _names(found, first, width, path, options, remarks, found.spans[start][0])
    result.facts = {"header": header if isinstance(header, str) else "given" if header else "none"}
    beyond: list[int] = []
    for row, (line, _) in list(zip(found.rows, found.spans, strict=True))[start + bool(header) :]:
        if len(row) > width and result.facts["header"] == "none" and delimiter == "\t":
            beyond.append(line)
            result.rows.append(row[:width])
            result.lines.append(line)
        elif len(row) != width:
            fields = f"{len(row)} field{'s' if len(row) != 1 else ''}"
            result.dropped.setdefault(f"{fields} where {width} are expected", []).append(line)
        elif width > 1 and row[0].strip() == (first or [""])[0] and [cell.strip() for cell in row] == first:
            result.dropped.setdefault(AGAIN, []).append(line)
        else:
            result.rows.append(row)
            result.lines.append(line)
    if beyond:
        remarks.append(
            f"{path.name}: {len(beyond)} lines have more than {width} fields; those beyond are left out (first at line {beyond[0]})"
        )
    return result


def _names(
    found: Cut, first: list[str], width: int, path: Path, options: FilesOptions, remarks: list[str], line: int
) -> list[str]:
    """Names of the columns. first: the header's cells, none where there is no header."""
    names = first
    if options.names is not None:
        if first and options.header == "auto":
            remarks.append(f"{path.name}: `names` replaces the header {', '.join(map(repr, first))}")
        names = list(options.names)
    elif not first:
        names = names_without_header(found.rows, width)
        remarks.append(f"{path.name}: has no header; its columns are called {', '.join(names)}")
    names = [name or f"column_{n}" for n, name in enumerate(names, 1)]
    if len(names) != width:
        raise DataError(f"{path}: `names` has {len(names)} names, the file {width} columns")
    if twice := [name for name, n in Counter(names).items() if n > 1]:
        raise DataError(f"{path}:{line}: column {twice[0]!r} is there twice", hint="Give `names`")
    return names


def _refuse(found: Cut, result: Delimited, path: Path) -> None:
    """Raise for a file of which nothing is left."""
    ragged = [(lines[0], why) for why, lines in result.dropped.items() if why not in (EMPTY, AGAIN, ABOVE)]
    if not ragged:
        raise DataError(f"{path}:{found.spans[0][1]}: a header and no rows")
    line, why = min(ragged)
    raise DataError(
        f"{path}:{line}: no row can be used; the first has {why}",
        hint="Say how the file is cut: delimiter, quoting, header",
    )
