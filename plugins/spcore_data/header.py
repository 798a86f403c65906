"""Names and types of a delimited file's columns, from its cells."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from spcore.rows import MISSING

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_IDENTIFIER = re.compile(r"[^\W\d][\w.#/-]*( [\w.#/-]+){0,2}")
TEXTS = frozenset(
    "text sentence sentence1 sentence2 question question1 question2 premise hypothesis review content title body document "
    "tweet comment 文本".split()
)
_KNOWN = TEXTS | frozenset(
    "label labels id index idx class category score target sentiment rating answer source quality is_duplicate gold_label 标签".split()
)
_ROWS = 500
_INTEGERS = r"^-?(0|[1-9][0-9]{0,17})$"
_NUMBERS = r"^-?((0|[1-9][0-9]{0,14})(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?$|^-?[Ii]nf(inity)?$"
_WRITTEN = r"^[-+$€£ ]*[0-9][0-9., '\x{a0}]*%?$"
"""Numbers as people write them: with separators of thousands, a decimal comma, a unit."""
_WORDS = pa.array(sorted(MISSING | {"NAN", "Nan"}))


def find_header(rows: Sequence[Sequence[str]], width: int) -> str | None:
    """Whether the first row names the columns: "known" (a name that such files have is among them), "guessed" (it differs
    from the rows below as names do), or None. width: fields of most rows."""
    first = [cell.strip() for cell in rows[0]]
    below = [[row[n].strip() for row in rows[1:_ROWS] if len(row) == len(first)] for n in range(len(first))]
    if not first[0] and len(first) > 1 and below[0] and all(map(str.isdigit, below[0])):
        first = first[1:]  # an index without a name, as pandas writes it
        below, width = below[1:], width - 1
    if any(len(c) > 40 or c.count(" ") > 4 or _NUMBER.fullmatch(c) for c in first):
        return None
    if sum(cell.lower() in _KNOWN for cell in first) > (0 if all(first) else 1):
        return "known"
    if (
        not all(first)
        or len(set(first)) < len(first)
        or len(first) != width
        or not all(below)
        or not all(_IDENTIFIER.fullmatch(cell) for cell in first)
    ):
        return None
    if any(all(_NUMBER.fullmatch(cell) for cell in column) for column in below):
        return "guessed"
    for name, column in zip(first, below, strict=True):
        if len(column) >= 8 and len(set(column)) <= len(column) // 4 and name not in column:
            return "guessed"
    return None


def names_without_header(rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """column_1, column_2, ...; of two columns of which one has few different values and the other longer texts, `label` and
    `text`; of more, one or two of sentences beside one of labels, `text`, `text_pair` and `label`."""
    names = [f"column_{n}" for n in range(1, width + 1)]
    sample = [[cell.strip() for cell in row] for row in rows[:2000] if len(row) == width]
    if width == 2 and sample:
        different = [len({row[n] for row in sample}) for n in (0, 1)]
        lengths = [sum(len(row[n]) for row in sample) for n in (0, 1)]
        label = 0 if lengths[0] < lengths[1] else 1
        if different[label] <= max(2, len(sample) // 5) and different[1 - label] > different[label]:
            names = ["label", "text"] if label == 0 else ["text", "label"]
    elif sample:
        columns = list(zip(*sample, strict=True))
        texts = [n for n, cells in enumerate(columns) if _sentences(cells)]
        labels = [n for n in range(width) if n not in texts and _labels(columns[n])]
        numbers = [n for n in labels if all(map(_NUMBER.fullmatch, columns[n]))]
        if texts and len(texts) <= 2 and labels:
            # Of several, the one nearest the texts: before them stand genres, files and years.
            label = min(numbers or labels, key=lambda n: min(abs(n - text) for text in texts))
            for n, name in ((label, "label"), *zip(texts, ("text", "text_pair"), strict=False)):
                names[n] = name
    return names


def _sentences(cells: Sequence[str]) -> bool:
    """Whether a column's cells are mostly different, and of several words."""
    words = sum(cell.count(" ") + 1 for cell in cells)
    return len(set(cells)) > len(cells) // 2 and words >= 3 * len(cells)


def _labels(cells: Sequence[str]) -> bool:
    """Whether a column is filled, and its values repeat."""
    return all(cells) and 2 <= len(set(cells)) <= max(2, len(cells) // 5)


def typed(table: pa.Table, place: Callable[[int], str], remarks: list[str]) -> pa.Table:
    """Columns of text that hold nothing but numbers, as numbers; empty cells, NaN and the like in them are missing. Columns
    that are texts by their name stay. place: of a row, for remarks on columns that are numbers but for a few cells."""
    columns = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        columns[name] = column
        if name.lower() not in TEXTS:
            columns[name], odd, why = _typed(column)
            if why is not None:
                cell = column[odd].as_py().strip()
                remarks.append(f"column {name!r} is read as text: {why.format(repr(cell[:40]), place(odd))}")
    return pa.table(columns)


def _typed(column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, int, str | None]:
    """The column, and for one that nearly holds numbers the first row that is none, and what to say about it."""
    cells = pc.utf8_trim_whitespace(column)
    empty = pc.or_(pc.equal(cells, ""), pc.is_in(cells, value_set=_WORDS))
    filled = pc.drop_null(pc.if_else(empty, None, cells))
    if not len(filled):
        return column, 0, None
    for pattern, kind in ((_INTEGERS, pa.int64()), (_NUMBERS, pa.float64())):
        if pc.all(pc.match_substring_regex(filled, pattern)).as_py():
            return pc.if_else(empty, None, cells).cast(kind), 0, None
    numbers = pc.or_(pc.match_substring_regex(cells, _NUMBERS), empty)
    odd = pc.index(numbers, False).as_py()
    if pc.all(pc.match_substring_regex(filled, _WRITTEN)).as_py() and re.search(r"[^\d.\-]", cells[odd].as_py()):
        return column, odd, "{} ({}) is not how numbers are read; write them as 1234.5"
    count = pc.sum(pc.match_substring_regex(filled, _NUMBERS)).as_py()
    if count >= 0.8 * len(filled) and not _NUMBER.fullmatch(cells[odd].as_py()):
        return column, odd, f"{count} of its {len(filled)} cells are numbers, " + "{} ({}) is none"
    return column, odd, None
