"""CSV and TSV as people have them: with and without a header, with quotes that enclose and quotes that are text."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from spcore.errors import DataError
from spcore_data.options import FilesOptions

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_KNOWN = {
    "text", "sentence", "sentence1", "sentence2", "label", "labels", "question", "premise", "hypothesis", "id", "index", "idx", "review",
    "content", "title", "class", "category", "score", "target", "body", "文本", "标签",
}  # fmt: skip
csv.field_size_limit(2**31 - 1)


@dataclass
class Delimited:
    """A file's columns. dropped: reason -> line numbers. remarks: what was decided."""

    names: list[str]
    rows: list[list[str]]
    dropped: dict[str, list[int]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def read_delimited(text: str, path: Path, tab: bool, options: FilesOptions) -> Delimited:
    """Parse a file. Raises DataError that names the line."""
    # csv wants \n, and a lone \r ends a line too where no \n follows (old Mac files).
    text = text.replace("\r\n", "\n")
    if "\r" in text and "\n" not in text:
        text = text.replace("\r", "\n")
    delimiter = options.delimiter or ("\t" if tab else _guess_delimiter(text))
    quoting = options.quoting if options.quoting != "auto" else _guess_quoting(text, delimiter)
    remarks = []
    if options.quoting == "auto" and quoting == "none" and '"' in text:
        remarks.append(f"{path.name}: quotes are read as text, not as enclosing fields (quoting: csv would change that)")
    rows, lines, dropped = _parse(text, delimiter, quoting, path)
    if not rows:
        raise DataError(f"{path}: no rows")
    width = Counter(map(len, rows)).most_common(1)[0][0]
    header = options.header == "yes" or (options.header == "auto" and options.names is None and _is_header(rows, width))
    names = rows[0] if header else list(options.names or _names(rows, width, remarks, path))
    body = list(zip(rows, lines, strict=True))[1 if header else 0 :]
    if header:
        width = len(names)
    if len(names) != width:
        raise DataError(f"{path}: names has {len(names)} columns, the file {width}")
    names = [name.strip() for name in names]
    twice = [name for name, n in Counter(names).items() if n > 1]
    if twice:
        raise DataError(f"{path}:{lines[0]}: column {twice[0]!r} is there twice")
    kept = []
    for row, line in body:
        if len(row) == width:
            kept.append(row)
        else:
            dropped.setdefault(f"{len(row)} fields where {width} are expected", []).append(line)
    if not kept:
        raise DataError(f"{path}: a header and no rows" if header and not dropped else f"{path}: no row has the {width} fields of the header")
    return Delimited(names, kept, dropped, remarks)


def _parse(text: str, delimiter: str, quoting: str, path: Path) -> tuple[list[list[str]], list[int], dict[str, list[int]]]:
    rows, lines, dropped = [], [], {}
    if quoting == "none":
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                rows.append(line.split(delimiter))
                lines.append(number)
            elif line or number <= text.count("\n"):
                dropped.setdefault("empty line", []).append(number)
    else:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        before = 0
        try:
            for row in reader:
                if any(cell.strip() for cell in row):
                    rows.append(row)
                    lines.append(before + 1)
                else:
                    dropped.setdefault("empty line", []).append(before + 1)
                before = reader.line_num
        except csv.Error as error:
            raise DataError(f"{path}:{before + 1}: {error}", hint="If quotes are text there: quoting: none") from error
    return rows, lines, dropped


def _guess_delimiter(text: str) -> str:
    """The delimiter that cuts the first lines most evenly."""
    lines = [line for line in text[:200_000].split("\n") if line.strip()][:50]
    best, best_score = ",", 0.0
    for delimiter in (",", "\t", ";", "|"):
        counts = Counter(line.count(delimiter) for line in lines)
        count, same = counts.most_common(1)[0]
        score = same / len(lines) if count else 0.0
        if score > best_score + 0.2 or (delimiter == "," and score > 0):
            best, best_score = delimiter, score
    return best


def _guess_quoting(text: str, delimiter: str) -> str:
    """Quotes enclose where fields that begin with one also end with one, over lines if need be; else they are text. The test is
    the parse itself: with quoting, every row must be as wide as most rows are without."""
    if '"' not in text:
        return "none"
    plain = Counter(line.count(delimiter) + 1 for line in text.split("\n") if line.strip())
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True) if any(row)]
    except csv.Error:
        return "none"
    quoted = Counter(map(len, rows))
    # An opening quote that is text swallows lines until the next one: rows then hold line breaks in fields, and fewer rows are even.
    swallowed = sum(n for cells in rows for n in [sum(cell.count("\n") for cell in cells)])
    even_plain = plain.most_common(1)[0][1]
    even_quoted = quoted.most_common(1)[0][1]
    if len(quoted) == 1 and (even_quoted + swallowed >= even_plain) and not (len(plain) == 1 and swallowed):
        return "csv"
    return "csv" if even_quoted > even_plain else "none"


def _is_header(rows: list[list[str]], width: int) -> bool:
    """Names are short, all different, none a number; and known ones are among them, or below one of them all is numbers."""
    first = [cell.strip() for cell in rows[0]]
    if len(rows) < 2 or len(set(first)) != len(first) or not all(first) or any(_NUMBER.fullmatch(c) for c in first):
        return False
    if any(len(cell) > 40 or cell.count(" ") > 4 for cell in first):
        return False
    if any(cell.lower() in _KNOWN for cell in first):
        return True
    if len(first) != width:
        return False
    below = [[row[n].strip() for row in rows[1:200] if len(row) == width] for n in range(width)]
    if any(column and all(_NUMBER.fullmatch(c) for c in column) for column in below):
        return True
    classes = [n for n, column in enumerate(below) if column and len(set(column)) <= max(2, len(column) // 5)]
    return any(first[n] not in below[n] for n in classes)


def _names(rows: list[list[str]], width: int, remarks: list[str], path: Path) -> list[str]:
    """Names for columns without: of two where one is few values and one is texts, `text` and `label`."""
    names = [f"column_{n}" for n in range(1, width + 1)]
    if width == 2:
        sample = [row for row in rows[:2000] if len(row) == 2]
        kinds = [len({row[n] for row in sample}) for n in (0, 1)]
        lengths = [sum(len(row[n]) for row in sample) / max(1, len(sample)) for n in (0, 1)]
        label = 0 if lengths[0] < lengths[1] else 1
        if kinds[label] <= max(2, len(sample) // 5) and kinds[1 - label] > kinds[label]:
            names = ["label", "text"] if label == 0 else ["text", "label"]
    remarks.append(f"{path.name}: has no header; columns are called {', '.join(names)}")
    return names
