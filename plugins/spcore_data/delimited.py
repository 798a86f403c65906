"""CSV and TSV as people have them: quotes that enclose and quotes that are text, rows of the wrong width, empty lines.

Fields are cut by the `csv` module or, where quotes are text, at the delimiter alone. Which of the two, and which
delimiter, is decided by what makes most of the file's lines rows of one width.
"""

from __future__ import annotations

import csv
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from spcore.errors import DataError
from spcore_data.header import find_header, names_without_header
from spcore_data.options import FilesOptions

EMPTY, UNBALANCED, RETURN = "empty line", "quotes that do not balance", "a carriage return within a field"
_DELIMITERS = (",", "\t", ";", "|")
_SAMPLE = 200
_csv_settings = threading.Lock()


@dataclass
class Delimited:
    """A file's columns. dropped: reason -> line numbers. remarks: what was decided."""

    names: list[str]
    rows: list[list[str]]
    dropped: dict[str, list[int]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


@dataclass
class _Cut:
    """Rows as cut, the line each begins and ends on (from 1), and the lines that gave none."""

    rows: list[list[str]] = field(default_factory=list)
    spans: list[tuple[int, int]] = field(default_factory=list)
    dropped: dict[str, list[int]] = field(default_factory=dict)

    @property
    def width(self) -> int:
        """Fields of most rows."""
        return Counter(map(len, self.rows)).most_common(1)[0][0]


def read_delimited(text: str, path: Path, tab: bool, options: FilesOptions) -> Delimited:
    """Cut a file. tab: it is TSV. Raises DataError that names the line."""
    text = text.replace("\r\r\n", "\n").replace("\r\n", "\n")
    if "\n" not in text:
        text = text.replace("\r", "\n")  # files of old Macs
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    delimiter = options.delimiter or ("\t" if tab else guess_delimiter(lines))
    remarks: list[str] = []
    cut = _cut(lines, delimiter, options.quoting, path, remarks)
    if not cut.rows:
        raise DataError(f"{path}:1: no row; its quotes do not balance", hint="If quotes are text there: quoting: none")
    found = _with_names(cut, path, options, remarks)
    if not found.rows:
        _refuse(cut, found, path)
    return found


def _with_names(cut: _Cut, path: Path, options: FilesOptions, remarks: list[str]) -> Delimited:
    """The header taken off, columns named, rows of another width dropped."""
    width, header = cut.width, options.header
    if header == "auto":
        found = find_header(cut.rows, width)
        header = found is not None
        if found == "guessed" and options.names is None:
            remarks.append(
                f"{path.name}: the first row is taken as the columns' names (header: false would change that)"
            )
    if header:
        width = len(cut.rows[0])
    names = [name.strip() for name in cut.rows[0]] if header else []
    if options.names is not None:
        if header and options.header == "auto":
            remarks.append(f"{path.name}: `names` replaces the header {', '.join(map(repr, names))}")
        names = list(options.names)
    elif not header:
        names = names_without_header(cut.rows, width)
        remarks.append(f"{path.name}: has no header; its columns are called {', '.join(names)}")
    names = [name or f"column_{n}" for n, name in enumerate(names, 1)]
    if len(names) != width:
        raise DataError(f"{path}: `names` has {len(names)} names, the file {width} columns")
    if twice := [name for name, n in Counter(names).items() if n > 1]:
        raise DataError(f"{path}:{cut.spans[0][0]}: column {twice[0]!r} is there twice", hint="Give `names`")
    found_rows = Delimited(names, [], dict(cut.dropped), remarks)
    for row, (line, _) in list(zip(cut.rows, cut.spans, strict=True))[1 if header else 0 :]:
        if len(row) == width:
            found_rows.rows.append(row)
        else:
            fields = f"{len(row)} field{'s' if len(row) != 1 else ''}"
            found_rows.dropped.setdefault(f"{fields} where {width} are expected", []).append(line)
    return found_rows


def _refuse(cut: _Cut, found: Delimited, path: Path) -> None:
    """Raise for a file of which nothing is left."""
    ragged = [(lines[0], why) for why, lines in found.dropped.items() if why != EMPTY]
    if not ragged:
        raise DataError(f"{path}:{cut.spans[0][1]}: a header and no rows")
    line, why = min(ragged)
    raise DataError(
        f"{path}:{line}: no row can be used; the first has {why}",
        hint="Say how the file is cut: delimiter, quoting, header",
    )


def guess_delimiter(lines: list[str]) -> str:
    """The delimiter that cuts the first lines into rows as wide as the first; a comma where none does."""
    sample = [line for line in lines[:_SAMPLE] if line.strip()]
    best, most = ",", 0.0
    for delimiter in _DELIMITERS:
        cut = _quoted(sample, delimiter)
        widths = [len(row) for row in cut.rows]
        cuts_the_first = bool(widths) and widths[0] > 1 and cut.spans[0][0] == 1
        same = sum(w == widths[0] for w in widths) / len(widths) if cuts_the_first else 0.0
        if same > most + 0.05:
            best, most = delimiter, same
    return best


def _cut(lines: list[str], delimiter: str, quoting: str, path: Path, remarks: list[str]) -> _Cut:
    """Rows, with quotes read as asked or, for "auto", as the content says."""
    if quoting == "csv":
        return _quoted(lines, delimiter)
    plain = _plain(lines, delimiter)
    opening = re.compile(f'(?:^|{re.escape(delimiter)})"')
    if quoting == "none" or not any(opening.search(line) for line in lines):
        return plain
    quoted = _quoted(lines, delimiter)
    enclosing = bool(quoted.rows) and _encloses(lines, plain, quoted, delimiter)
    if not enclosing:
        remarks.append(f"{path.name}: quotes are read as text (quoting: csv would have them enclose fields)")
    elif delimiter == "\t":
        remarks.append(f"{path.name}: quotes are read as enclosing fields (quoting: none would read them as text)")
    return quoted if enclosing else plain


def _encloses(lines: list[str], plain: _Cut, quoted: _Cut, delimiter: str) -> bool:
    """Whether quotes enclose fields: then reading them so makes more lines part of an even row. Where it makes no difference,
    they do in CSV; in TSV, whose makers often have no quoting at all, only if a field needs its quotes or every row has them."""
    usual, width = plain.width, quoted.width
    even = [(row, span) for row, span in zip(quoted.rows, quoted.spans, strict=True) if len(row) == width]
    raw = [lines[first - 1 : last] for _, (first, last) in even]
    changed = [
        (row, text)
        for (row, _), text in zip(even, raw, strict=True)
        if len(text) > 1 or row != text[0].split(delimiter)
    ]

    def swallowed(text: list[str]) -> bool:
        """Whether a row over several lines is made of lines that are good rows each: then an opening quote was text."""
        full = [line for line in text if line.strip()]
        doubled = any('""' in line for line in full)  # nobody writes that who does not quote
        return len(text) > 1 and usual > 1 and not doubled and all(line.count(delimiter) + 1 == usual for line in full)

    good_plain = sum(len(row) == usual for row in plain.rows)
    good_quoted = sum(len(text) - sum(not line.strip() for line in text) for text in raw if not swallowed(text))
    everywhere = len(changed) >= len(quoted.rows) - 1  # but for a header
    if delimiter != "\t":
        perfect = len(even) == len(quoted.rows) and UNBALANCED not in quoted.dropped
        doubled = any('""' in line for _, text in changed for line in text)
        return (perfect and (doubled or everywhere)) or good_quoted >= 0.95 * good_plain
    if good_quoted != good_plain or UNBALANCED in quoted.dropped:
        return good_quoted > good_plain
    needed = any(len(text) > 1 or '""' in text[0] or len(row) != usual for row, text in changed)
    return needed or everywhere


def _plain(lines: list[str], delimiter: str) -> _Cut:
    """Every line a row, quotes being text."""
    cut = _Cut()
    for number, line in enumerate(lines, 1):
        if line.replace(delimiter, " ").strip():
            cut.rows.append(line.split(delimiter))
            cut.spans.append((number, number))
        else:
            cut.dropped.setdefault(EMPTY, []).append(number)
    return cut


def _quoted(lines: list[str], delimiter: str) -> _Cut:
    """Rows as the `csv` module cuts them. A line on which it finds a quote out of place is left out, and it goes on with the
    next: one stray quote does not cost the rest of the file."""
    cut, start = _Cut(), 0
    while start < len(lines):
        reader = csv.reader((lines[n] + "\n" for n in range(start, len(lines))), delimiter=delimiter, strict=True)
        begun, base = start, start
        try:
            with _long_fields():
                for row in reader:
                    span = (begun + 1, base + reader.line_num)
                    begun = base + reader.line_num
                    if any(cell.strip() for cell in row):
                        cut.rows.append(row)
                        cut.spans.append(span)
                    else:
                        cut.dropped.setdefault(EMPTY, []).append(span[0])
            break
        except csv.Error as error:
            why = RETURN if "new-line" in str(error) else UNBALANCED
            cut.dropped.setdefault(why, []).append(begun + 1)
            start = begun + 1
    return cut


@contextmanager
def _long_fields() -> Iterator[None]:
    """Lift the `csv` module's limit on a field's length, which is the whole process's, and put it back."""
    with _csv_settings:
        before = csv.field_size_limit(2**31 - 1)
        try:
            yield
        finally:
            csv.field_size_limit(before)
