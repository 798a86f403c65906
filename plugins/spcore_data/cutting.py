"""Lines cut into rows: which delimiter, and whether quotes enclose fields or are text.

Fields are cut by the `csv` module or, where quotes are text, at the delimiter alone. Which of the two, and which
delimiter, is decided by what makes most of the file's lines rows of one width.
"""

from __future__ import annotations

import csv
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

EMPTY, UNBALANCED = "empty line", "quotes that do not balance"
_DELIMITERS = (",", "\t", ";", "|")
_SAMPLE = 200
_RETURN = "\ufdd0"  # no character at all, by Unicode: stands for a CR, which the csv module would take for a line's end
_csv_settings = threading.Lock()


@dataclass
class Cut:
    """Rows as cut, the line each begins and ends on (from 1), and the lines that gave none. quoting: what quotes are:
    "csv", "none", or "unused" where there are none. repaired: what had to be read in another way than the standard's."""

    rows: list[list[str]] = field(default_factory=list)
    spans: list[tuple[int, int]] = field(default_factory=list)
    dropped: dict[str, list[int]] = field(default_factory=dict)
    quoting: str = "none"
    repaired: str | None = None

    @property
    def width(self) -> int:
        """Fields of most rows."""
        return Counter(map(len, self.rows)).most_common(1)[0][0]

    @property
    def even(self) -> int:
        """Rows of that width."""
        return Counter(map(len, self.rows)).most_common(1)[0][1] if self.rows else 0


def guess_delimiter(lines: Sequence[str]) -> str:
    """The delimiter that cuts the first lines into rows as wide as the first; a comma where none does. Up to three lines
    at the top may be a title."""
    sample = [line for line in lines[:_SAMPLE] if line.strip()]
    for start in range(min(4, len(sample))):
        best, most = ",", 0.0
        for delimiter in _DELIMITERS:
            cut = _quoted(sample[start:], delimiter)
            widths = [len(row) for row in cut.rows]
            cuts_the_first = bool(widths) and widths[0] > 1 and cut.spans[0][0] == 1
            same = sum(w == widths[0] for w in widths) / len(widths) if cuts_the_first else 0.0
            if same > most + 0.05:
                best, most = delimiter, same
        if most and (not start or most > 0.8):
            return best
    return ","


def cut_at_returns(lines: list[str], delimiter: str) -> list[str]:
    """Lines that a lone CR ends, among others that LF ends, if that makes more lines as wide as the first; else a CR is text."""
    if not any("\r" in line for line in lines):
        return lines
    parts = [part for line in lines for part in line.split("\r")]
    width = parts[0].count(delimiter)

    def even(of: list[str]) -> int:
        return sum(line.count(delimiter) == width for line in of)

    return parts if width and even(parts) > even(lines) else lines


def cut(lines: list[str], delimiter: str, quoting: str) -> Cut:
    """Rows, with quotes read as asked ("csv", "none") or, for "auto", as the content says."""
    if quoting == "csv":
        return quoted_best(lines, delimiter)
    plain = _plain(lines, delimiter)
    opening = re.compile(f'(?:^|{re.escape(delimiter)}) ?"')
    if quoting == "none":
        return plain
    if not any(opening.search(line) for line in lines):
        plain.quoting = "unused"
        return plain
    quoted = quoted_best(lines, delimiter)
    return quoted if quoted.rows and _encloses(lines, plain, quoted, delimiter) else plain


def quoted_best(lines: list[str], delimiter: str) -> Cut:
    """Rows as the standard has quotes; where that leaves rows out, as other writers have them, if it then leaves out fewer."""
    best = _quoted(lines, delimiter)
    if best.even == len(best.rows) and UNBALANCED not in best.dropped:
        return best
    ways: list[tuple[str, Callable[[str], str]]] = []
    if any('\\"' in line for line in lines):
        ways.append(("quotes after a backslash are part of the field", lambda line: line.replace('\\"', '""')))
    spaced = re.compile(f'({re.escape(delimiter)}) +"(?=[^{re.escape(delimiter)}])')
    if any(spaced.search(line) for line in lines):
        ways.append(("a space before an opening quote is left out", lambda line: spaced.sub(r'\1"', line)))
    for what, change in ways:
        other = _quoted([change(line) for line in lines], delimiter)
        if other.even > best.even:
            best, best.repaired = other, what
    return best


def _encloses(lines: list[str], plain: Cut, quoted: Cut, delimiter: str) -> bool:
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
        return (perfect and (everywhere or any(_doubled(*one) for one in changed))) or good_quoted >= 0.95 * good_plain
    if good_quoted != good_plain or UNBALANCED in quoted.dropped:
        return good_quoted > good_plain
    needed = any(len(text) > 1 or len(row) != usual or _doubled(row, text) for row, text in changed)
    return needed or everywhere


def _doubled(row: list[str], text: list[str]) -> bool:
    """Whether the row's lines have doubled quotes that stand for one: two alone are an empty field."""
    return any('"' in cell for cell in row) and any('""' in line for line in text)


def _plain(lines: Sequence[str], delimiter: str) -> Cut:
    """Every line a row, quotes being text."""
    found = Cut()
    for number, line in enumerate(lines, 1):
        if line.replace(delimiter, " ").strip():
            found.rows.append(line.split(delimiter))
            found.spans.append((number, number))
        else:
            found.dropped.setdefault(EMPTY, []).append(number)
    return found


def _quoted(lines: Sequence[str], delimiter: str) -> Cut:
    """Rows as the `csv` module cuts them. A line on which it finds a quote out of place is left out, and it goes on with the
    next: one stray quote does not cost the rest of the file."""
    found, start = Cut(quoting="csv"), 0
    returns = any("\r" in line for line in lines)
    while start < len(lines):
        feed = (lines[n].replace("\r", _RETURN) + "\n" for n in range(start, len(lines)))
        reader = csv.reader(feed, delimiter=delimiter, strict=True)
        begun, base = start, start
        try:
            with _long_fields():
                for row in reader:
                    span = (begun + 1, base + reader.line_num)
                    begun = base + reader.line_num
                    if any(cell.strip() for cell in row):
                        found.rows.append([cell.replace(_RETURN, "\r") for cell in row] if returns else row)
                        found.spans.append(span)
                    else:
                        found.dropped.setdefault(EMPTY, []).append(span[0])
            break
        except csv.Error:
            found.dropped.setdefault(UNBALANCED, []).append(begun + 1)
            start = begun + 1
    return found


@contextmanager
def _long_fields() -> Iterator[None]:
    """Lift the `csv` module's limit on a field's length, which is the whole process's, and put it back."""
    with _csv_settings:
        before = csv.field_size_limit(2**31 - 1)
        try:
            yield
        finally:
            csv.field_size_limit(before)
