"""CoNLL files: a word a line, its tags in further columns, sentences parted by blank lines (Tjong Kim Sang and De Meulder 2003), and
CoNLL-U (universaldependencies.org/format.html)."""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from spcore.errors import DataError
from spcore_data.content import lines_of
from spcore_data.options import FilesOptions
from spcore_data.parts import Part

TOKENS, TAGS = "tokens", "tags"
UNIVERSAL = ("id", TOKENS, "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
WIDTH, EMPTY_CELL = "a line of another number of columns", "a line with an empty column"
_DOCUMENT = "-DOCSTART-"
_TAG = re.compile(r"O|[BIESLUM]-\S+")
_FACT = re.compile(r"# *\w+ = ")
_RANGE = re.compile(r"\d+[-.]\d+")
"""Ids of CoNLL-U that are of no word: what is written as one word, and words that are left out."""


def is_conll(lines: Sequence[str]) -> bool:
    """Whether lines are words with tags of entities, and blank lines between: what a file under another name is known by."""
    filled = [line for line in lines if line.strip() and not line.startswith(_DOCUMENT)]
    between = [not line.strip() for line in lines]
    while between and between[-1]:  # the end of the last line
        between.pop()
    if not any(between) or not filled:
        return False
    separator = _separator(filled)
    rows = [line.split(separator) for line in filled if not _comment(line, separator)]
    tags = [cells[-1].strip() for cells in rows]
    widths = {len(cells) for cells in rows}
    return len(widths) == 1 and widths != {1} and all(map(_TAG.fullmatch, tags)) and set(tags) != {"O"}


def read_conll(text: str, path: Path, options: FilesOptions) -> Part:
    """A row a sentence, a list a column. A sentence with a line that is not like the others is dropped, and its line told. Raises
    DataError."""
    lines = lines_of(text)
    filled = [line for line in lines if line.strip()]
    separator = options.delimiter or _separator(filled)
    widths = Counter(
        len(_cells(line, separator))
        for line in filled
        if not line.startswith(_DOCUMENT) and not _comment(line, separator)
    )
    if not widths:
        raise DataError(f"{path}:1: no word")
    width = widths.most_common(1)[0][0]
    names = _names(width, filled, separator, path, options)
    found = _Sentences(width, universal=names == UNIVERSAL)
    for number, line in enumerate(lines, 1):
        if not line.strip():
            found.end()
        elif line.startswith(_DOCUMENT):
            found.end()
            found.documents += 1
        elif _comment(line, separator):
            found.comments += 1
        else:
            found.take(_cells(line, separator), number)
    found.end()
    columns = ([sentence[n] for sentence in found.rows] for n in range(width))
    kind = pa.list_(pa.string())
    table = pa.table({name: pa.array(column, kind) for name, column in zip(names, columns, strict=True)})
    task = "token-classification" if TAGS in names or "upos" in names else None
    facts = {"columns": width, "documents": found.documents or None, "comments": found.comments or None}
    return Part(table=table, lines=found.lines, dropped=found.dropped, facts=facts, task=task)


class _Sentences:
    """Sentences as lines come. rows: of each, a list a column; lines: where each begins; dropped: reason -> line numbers."""

    def __init__(self, width: int, *, universal: bool) -> None:
        self.width, self.universal = width, universal
        self.rows: list[list[list[str]]] = []
        self.lines = array("Q")
        self.dropped: dict[str, list[int]] = {}
        self.documents = self.comments = 0
        self._words: list[list[str]] = []
        self._first: int | None = None
        self._wrong: tuple[str, int] | None = None

    def take(self, cells: list[str], number: int) -> None:
        """A word's line."""
        if self.universal and _RANGE.fullmatch(cells[0]):
            return
        self._first = self._first or number
        if self._wrong is None and len(cells) != self.width:
            self._wrong = WIDTH, number
        elif self._wrong is None and not all(cells):
            self._wrong = EMPTY_CELL, number
        self._words.append(cells)

    def end(self) -> None:
        """Of a sentence, if one has begun."""
        if self._wrong is not None:
            reason, number = self._wrong
            self.dropped.setdefault(reason, []).append(number)
        elif self._first is not None:
            self.rows.append([list(column) for column in zip(*self._words, strict=True)])
            self.lines.append(self._first)
        self._words, self._first, self._wrong = [], None, None


def _separator(filled: Sequence[str]) -> str | None:
    """A tab where most lines have one, else any spaces (None, as `str.split` has it)."""
    return "\t" if 2 * sum("\t" in line for line in filled) > len(filled) else None


def _cells(line: str, separator: str | None) -> list[str]:
    return [cell.strip(" ") for cell in line.split(separator)]


def _comment(line: str, separator: str | None) -> bool:
    """Whether a line is about a sentence: `# id = 3`, or between tabs one that has none. "#" is a word too."""
    return line.startswith("#") and (_FACT.match(line) is not None or (separator == "\t" and "\t" not in line))


def _names(
    width: int, filled: Sequence[str], separator: str | None, path: Path, options: FilesOptions
) -> tuple[str, ...]:
    if options.names is not None:
        if len(options.names) != width:
            raise DataError(f"{path}: `names` has {len(options.names)} names, and lines have {width} columns")
        return options.names
    if width == len(UNIVERSAL) and all(
        _cells(line, separator)[0].replace("-", "").replace(".", "").isdigit()
        for line in filled
        if not _comment(line, separator)
    ):
        return UNIVERSAL
    if width == 1:
        return (TOKENS,)
    return (TOKENS, *(f"column_{n}" for n in range(2, width)), TAGS)
