"""Documents in a file of plain text, found in one pass without holding the file: where they begin, and their bytes."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from typing import NamedTuple, Protocol

MOST = 2 << 20
"""Bytes of a document that is read as one; a longer one is cut into pieces at a line's end."""
_BLOCK = 1 << 20
_ENDS = {"file": None, "line": b"\n", "blank-line": rb"\n[ \t\r]*\n"}
_LONG_LINES = 2000
"""Bytes of a line, on average, from which lines are documents."""
_EDGES = b"\r\n"


class Blob(Protocol):
    """A file's content, decompressed."""

    size: int

    def read(self, first: int, end: int) -> bytes:
        """Bytes first <= byte < end, fewer at the end."""


class Piece(NamedTuple):
    """A document or a piece of one. begins: it is a document's first. line: from 1, that it begins on."""

    first: int
    raw: bytes
    begins: bool
    line: int


def documents_of(asked: str, blob: Blob) -> str:
    """What a document is in a file: as asked, or by its first lines."""
    if asked != "auto":
        return asked
    head = blob.read(0, _BLOCK)
    lines = [line for line in head.split(b"\n") if line.strip()]
    return "line" if len(lines) > 1 and sum(map(len, lines)) / len(lines) >= _LONG_LINES else "file"


def pieces(blob: Blob, documents: str, most: int = MOST) -> Iterator[Piece]:
    """Every stretch between two ends of a document, blank ones too, in order. Line ends round a document are none of its own, but
    where the file is one. most: bytes of a piece."""
    ending = _ENDS.get(documents, re.escape(documents.encode()))
    pattern = re.compile(ending) if ending is not None else None
    buffer, at, line, begins = b"", 0, 1, True
    while True:
        block = blob.read(at + len(buffer), at + len(buffer) + _BLOCK)
        buffer += block
        done = 0
        # What follows the last end goes on in the next block, but for a long document's: an end that is half read stays whole.
        rest = len(buffer) - len(documents) if block else len(buffer)
        for first, end in [*(m.span() for m in (pattern.finditer(buffer) if pattern else ())), (rest, None)]:
            while first - done > most:
                size = _cut(buffer, done, most)
                yield _piece(at + done, buffer[done : done + size], begins, line, parted=pattern is not None and begins)
                line += buffer.count(b"\n", done, done + size)
                done, begins = done + size, False
            if end is None and (block or done == len(buffer)):
                break
            raw = buffer[done:first]
            yield _piece(at + done, raw, begins, line, parted=pattern is not None and begins, ends=pattern is not None)
            line += buffer.count(b"\n", done, end or first)
            done, begins = end or first, True
        if not block:
            return
        buffer, at = buffer[done:], at + done


def _piece(first: int, raw: bytes, begins: bool, line: int, *, parted: bool, ends: bool = False) -> Piece:
    """parted, ends: line ends before and after it are left out."""
    if first == 0 and raw.startswith(codecs.BOM_UTF8):
        first, raw = 3, raw[3:]
    bare = raw.lstrip(_EDGES) if parted else raw
    lost = len(raw) - len(bare)
    return Piece(first + lost, bare.rstrip(_EDGES) if ends else bare, begins, line + raw.count(b"\n", 0, lost))


def _cut(buffer: bytes, start: int, most: int) -> int:
    """Bytes of a piece of a long document: to the last line end, else to the last whole character of UTF-8."""
    end = buffer.rfind(b"\n", start, start + most) + 1
    if end > start:
        return end - start
    end = start + most
    while end > start + 1 and buffer[end] & 0xC0 == 0x80:
        end -= 1
    return end - start
