"""The documents of one file of a corpus, by number: plain text, JSON lines, Parquet. Each kind makes its index and reads by it."""

from __future__ import annotations

import codecs
import contextlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import xxhash

from spcore.errors import DataError, unknown
from spcore_data.content import bare_suffix
from spcore_data.corpus_index import Builder, Entry, Index, content_of, hash_of, index_of, lines_in
from spcore_data.corpus_pieces import documents_of, pieces
from spcore_data.cutting import EMPTY
from spcore_data.formats import FORMATS, first_line, json_name, parsed
from spcore_data.options import CorpusOptions

TEXT_COLUMNS = ("text", "content", "document")
BLANK, NOT_UTF8, NUL = "empty document", "not UTF-8", "a NUL byte: not text, or damaged"


class CorpusFile(ABC):
    """One file. kind, documents (what one is), compression: for people. index: see `Index`."""

    kind: str
    index: Index
    documents: str
    compression: str | None

    def __init__(self, path: Path, options: CorpusOptions) -> None:
        self.path, self.options = path, options

    @abstractmethod
    def texts(self, entries: np.ndarray) -> Iterator[str]:
        """The texts of documents. entries: uint64 [n, 5], rows of `index.entries`."""

    def place(self, entry: np.ndarray) -> str:
        """Where a document stands, for people."""
        return f"{self.path}:{int(entry[Entry.LINE])}"

    def split_at(self, entry: np.ndarray, character: int) -> list[np.ndarray] | None:
        """A document's entry as two, cut before a character of its text; None where its kind has no parts."""
        return None


class PlainText(CorpusFile):
    """Plain text in UTF-8. CRLF is read as LF."""

    kind = "text"

    def __init__(self, path: Path, options: CorpusOptions) -> None:
        super().__init__(path, options)
        self.content, self.compression = content_of(path)
        if self.content.read(0, 2) in (b"\xff\xfe", b"\xfe\xff"):
            raise DataError(
                f"{path}:1: UTF-16; a corpus is UTF-8", hint="Convert it: iconv -f utf-16 -t utf-8 < FILE > NEW"
            )
        self.documents = documents_of(options.documents, self.content)
        self.index = index_of(path, ["text", self.documents], self._built)

    def _built(self) -> Index:
        made, whole, since = Builder(), xxhash.xxh3_64(), 0
        wrong: str | None = None
        for piece in pieces(self.content, self.documents):
            if piece.begins:
                whole.reset()
                since, wrong = len(made), None
            elif wrong is not None:
                continue
            text = _decoded(piece.raw)
            if not isinstance(text, str):
                wrong = text.reason
                made.take_back(since)
                made.drop(wrong, piece.line)
                continue
            whole.update(text.encode())
            if text.strip():
                made.add(piece.first, piece.first + len(piece.raw), piece.line, text, whole.intdigest())
            elif piece.begins and self.documents != "blank-line":  # of several blank lines, one parts
                made.drop(BLANK, piece.line)
            elif len(made) > since:  # the blank end of a long document
                made.extend(len(piece.raw), text)
            made.share(since, whole.intdigest())
        return made.built()

    def texts(self, entries: np.ndarray) -> Iterator[str]:
        """See `CorpusFile.texts`."""
        for entry in entries:
            text = _decoded(self.content.read(int(entry[Entry.FIRST]), int(entry[Entry.END])))
            assert isinstance(text, str), f"{self.place(entry)}: a document when it was indexed"
            yield text

    def split_at(self, entry: np.ndarray, character: int) -> list[np.ndarray] | None:
        """See `CorpusFile.split_at`: where the file is the document."""
        if self.documents != "file":
            return None
        raw = self.content.read(int(entry[Entry.FIRST]), int(entry[Entry.END])).decode()
        at = character
        for found in re.finditer("\r\n", raw):  # read as one character
            if found.start() >= at:
                break
            at += 1
        size = len(raw[:at].encode())
        head, tail = entry.copy(), entry.copy()
        head[Entry.END] = tail[Entry.FIRST] = int(entry[Entry.FIRST]) + size
        head[Entry.CHARACTERS], tail[Entry.CHARACTERS] = character, int(entry[Entry.CHARACTERS]) - character
        tail[Entry.LINE] += raw.count("\n", 0, at)
        return [head, tail]


@dataclass(frozen=True)
class _Unread:
    """Why bytes are no text."""

    reason: str


def _decoded(raw: bytes) -> str | _Unread:
    if b"\0" in raw:
        return _Unread(NUL)
    try:
        return raw.decode().replace("\r\n", "\n")
    except UnicodeDecodeError:
        return _Unread(NOT_UTF8)


class JsonLines(CorpusFile):
    """JSON lines: a row is a document."""

    kind = "jsonl"

    def __init__(self, path: Path, options: CorpusOptions) -> None:
        super().__init__(path, options)
        self.content, self.compression = content_of(path)
        head = next((row for row in self._rows(lines_in(self.content))), None)
        self.column = _text_column(path, list(head[1]) if head else [], options)
        self.documents = f"row, {self.column!r}"
        self.index = index_of(path, ["jsonl", self.column], self._built)

    def _rows(self, lines: Iterable[tuple[int, bytes, int]], made: Builder | None = None) -> Iterator[tuple[Any, Any]]:
        """Each line with its row. made: where what has none is counted. Raises DataError for what is no JSON object."""
        for line in lines:
            _, raw, number = line
            text = _decoded(raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw)
            if not isinstance(text, str) or not text.strip():
                if made is not None:
                    made.drop(EMPTY if isinstance(text, str) else text.reason, number)
                continue
            row = parsed(text, self.path, number)
            if not isinstance(row, dict):
                raise DataError(f"{self.path}:{number}: found {json_name(row)}, expected an object of column: value")
            yield line, row

    def _built(self) -> Index:
        made = Builder()
        for (first, raw, number), row in self._rows(lines_in(self.content), made):
            text = row.get(self.column)
            if text is not None and not isinstance(text, str):
                raise DataError(f"{self.path}:{number}: column {self.column!r} holds {json_name(text)}, expected text")
            if not text or not text.strip():
                made.drop(BLANK, number)
            else:
                made.add(first, first + len(raw), number, text, hash_of(text))
        return made.built()

    def texts(self, entries: np.ndarray) -> Iterator[str]:
        """See `CorpusFile.texts`."""
        for entry in entries:
            raw = self.content.read(int(entry[Entry.FIRST]), int(entry[Entry.END]))
            found = next(self._rows([(0, raw, int(entry[Entry.LINE]))]), None)
            text = found[1].get(self.column) if found else None
            assert isinstance(text, str), f"{self.place(entry)}: a document when it was indexed"
            yield text


class ParquetFile(CorpusFile):
    """Parquet: a row is a document. Memory holds a row group or two of the column."""

    kind = "parquet"
    compression = None

    def __init__(self, path: Path, options: CorpusOptions) -> None:
        super().__init__(path, options)
        with self._opened() as file:
            known = file.schema_arrow
            self._groups = np.cumsum([0, *(file.metadata.row_group(n).num_rows for n in range(file.num_row_groups))])
        texts = [name for name in known.names if _is_text(known.field(name).type)]
        self.column = _text_column(path, known.names, options, texts)
        self.documents = f"row, {self.column!r}"
        self._group = lru_cache(2)(self._read_group)
        self.index = index_of(path, ["parquet", self.column], self._built)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Any]:
        try:
            with pyarrow.parquet.ParquetFile(self.path) as file:
                yield file
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.path}: not a whole Parquet file: {first_line(error)}") from error

    def _built(self) -> Index:
        made, row = Builder(), 0
        with self._opened() as file:
            for batch in file.iter_batches(1024, columns=[self.column]):
                for text in batch.column(0).to_pylist():
                    if not text or not text.strip():
                        made.drop(BLANK, row)
                    else:
                        made.add(row, row + 1, row, text, hash_of(text))
                    row += 1
        return made.built()

    def _read_group(self, number: int) -> pa.ChunkedArray:
        with self._opened() as file:
            return file.read_row_group(number, columns=[self.column]).column(0)

    def texts(self, entries: np.ndarray) -> Iterator[str]:
        """See `CorpusFile.texts`."""
        for row in entries[:, Entry.FIRST].tolist():
            group = int(np.searchsorted(self._groups, row, "right")) - 1
            yield self._group(group)[row - int(self._groups[group])].as_py()

    def place(self, entry: np.ndarray) -> str:
        """See `CorpusFile.place`."""
        return f"{self.path}: row {int(entry[Entry.FIRST])}"


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _text_column(path: Path, columns: Sequence[str], options: CorpusOptions, texts: Sequence[str] | None = None) -> str:
    """The column with the text. texts: those that hold text, where it is known. Raises DataError."""
    if options.text is not None:
        if options.text not in columns:
            raise DataError(
                f"{path}: {unknown('column', options.text, columns)}", hint="Give another: data.text=COLUMN"
            )
        if texts is not None and options.text not in texts:
            raise DataError(f"{path}: column {options.text!r} holds no text", hint="Give another: data.text=COLUMN")
        return options.text
    found = [name for name in TEXT_COLUMNS if name in (columns if texts is None else texts)]
    if not found:
        listed = ", ".join(columns) or "none"
        raise DataError(
            f"{path}: no column {', '.join(map(repr, TEXT_COLUMNS))}: the data has {listed}",
            hint="Say which holds the text: data.text=COLUMN",
        )
    return found[0]


_KINDS: dict[str | None, type[PlainText] | type[JsonLines] | type[ParquetFile]] = {
    None: PlainText, "text": PlainText, "jsonl": JsonLines, "parquet": ParquetFile,
}  # fmt: skip


def is_corpus(path: Path) -> bool:
    """Whether a file found in a folder or by a glob is of a kind that a corpus reads."""
    return FORMATS.get(bare_suffix(path)) in _KINDS


def open_file(path: Path, options: CorpusOptions) -> PlainText | JsonLines | ParquetFile:
    """A file of a corpus, by its name. Raises DataError."""
    kind = FORMATS.get(bare_suffix(path))
    if kind not in _KINDS:
        raise DataError(
            f"{path}: {kind}; a corpus is plain text, JSON lines or Parquet",
            hint="Data set `files` reads it: leave `use: corpus` out",
        )
    return _KINDS[kind](path, options)
