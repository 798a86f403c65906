"""A file's bytes as text: compression, encodings, and files that are not what they say."""

from __future__ import annotations

import codecs
import hashlib
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import zstandard

from spcore.errors import DataError

SUFFIXES = (".gz", ".zst", ".zstd")
TO_UTF8 = "Convert it with iconv -f ENCODING -t utf-8, where ENCODING is what it is written in: latin1, cp1252, gb18030, shift_jis, ..."
"""What to do with text in another encoding, which cannot be told from its bytes alone."""
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_UNPACK, _SAVE = "Unpack it first", "Save its table as CSV in UTF-8"
_FOREIGN = {
    b"BZh": ("bzip2; compressed files are read as gzip or zstd", _UNPACK),
    b"\xfd7zXZ\0": ("xz; compressed files are read as gzip or zstd", _UNPACK),
    b"7z\xbc\xaf": ("a 7z archive; compressed files are read as gzip or zstd", _UNPACK),
    b"Rar!": ("a RAR archive; compressed files are read as gzip or zstd", _UNPACK),
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": ("a file of Excel or Word, not text", _SAVE),
    b"%PDF-": ("a PDF, not data", _SAVE),
    b"{\\rtf": ("rich text of a word processor, not data", _SAVE),
    b"SQLite format 3\0": ("an SQLite database, not text", _SAVE),
    b"\x89PNG": ("a PNG picture, not data", None),
    b"\xff\xd8\xff": ("a JPEG picture, not data", None),
    b"GIF8": ("a GIF picture, not data", None),
    b"\x89HDF": ("an HDF5 file, not text", _SAVE),
    b"\x93NUMPY": ("an array of NumPy, not text", _SAVE),
    b"\x80\x03}": ("a pickle of Python, which is never read", _SAVE),
    b"\x80\x04\x95": ("a pickle of Python, which is never read", _SAVE),
    b"\x80\x05\x95": ("a pickle of Python, which is never read", _SAVE),
    b"Obj\x01": ("an Avro file; known are CSV, TSV, JSON, JSON lines, Parquet, Arrow, text", _SAVE),
}
"""First bytes -> what it is, and what to do."""
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
_PAGES = ("<!doctype html", "<html", "<head", "<body", "<script")
_MARK = re.compile("(^|[\n\r])\ufeff+")
_CHUNK = 1 << 18


@dataclass(frozen=True)
class Content:
    """A file, decompressed. digest: sha256 of the file as it lies there. compression: "gzip", "zstd" or None."""

    path: Path
    data: bytes
    digest: str
    compression: str | None = None

    @cached_property
    def encoding(self) -> str:
        """By the file's mark; without one UTF-8, or UTF-16 where every other byte is 0."""
        marked = next((name for mark, name in _MARKS if self.data.startswith(mark)), None)
        return marked or _unmarked(self.data) or "utf-8"

    @cached_property
    def text(self) -> str:
        """As text, without byte-order marks at the beginning of lines. Raises DataError that names the line."""
        text = self._decoded
        if "\0" in text:
            raise DataError(f"{self.path}:{line_at(text, text.index(chr(0)))}: a NUL byte: not a text file, or damaged")
        if "\ufeff" in text:
            text = _MARK.sub(r"\1", text)
        if not text.strip():
            raise DataError(f"{self.path}:1: the file is empty")
        if text.startswith("version https://git-lfs.github.com/spec/"):
            raise DataError(f"{self.path}:1: a pointer of Git LFS, not the data", hint="Fetch it: git lfs pull")
        return text

    @cached_property
    def remarks(self) -> list[str]:
        """What was mended or guessed to make it text."""
        said = []
        if self.encoding in ("utf-16-le", "utf-16-be"):
            said.append(f"{self.path.name}: read as {self.encoding.upper()}, which its bytes look like; it has no mark")
        lines = [line_at(self._decoded, found.end()) for found in _MARK.finditer(self._decoded)]
        if lines:
            said.append(f"{self.path.name}: byte-order marks within it are left out (first at line {lines[0]})")
        return said

    @cached_property
    def _decoded(self) -> str:
        try:
            return self.data.decode(self.encoding)
        except UnicodeDecodeError as error:
            line = line_at(error.object[: error.start].decode("latin-1"), error.start)
            whole = error.start < len(error.object) and error.reason != "unexpected end of data"
            found = f"byte 0x{error.object[error.start]:02x}" if whole else "it ends early"
            name = self.encoding.removesuffix("-sig").upper()
            raise DataError(
                f"{self.path}:{line}: not {name} ({found})",
                hint=TO_UTF8,
            ) from None

    def refuse_page(self) -> None:
        """Raise DataError for a web page or XML that was saved under a data file's name."""
        encoding = self.encoding if self.encoding.startswith("utf-16") else "utf-8"
        start = self.data[:2000].decode(encoding, "ignore").lstrip("\ufeff \t\r\n").lower()
        start = re.sub(r"^(<!--.*?-->\s*)+", "", start, flags=re.S)
        if start.startswith(_PAGES):
            raise DataError(
                f"{self.path}:1: an HTML page, not data", hint="Download the raw file, not the page that shows it"
            )
        if start.startswith("<?xml"):
            raise DataError(f"{self.path}:1: XML, not data", hint="It may be an answer of the server that was asked")


def line_at(text: str, at: int) -> int:
    """The number, from 1, of the line that a position is on; lines end as in `lines_of`."""
    before = text[:at]
    return before.count("\n" if "\n" in text else "\r") + 1


def lines_of(text: str) -> list[str]:
    """Lines without their ends (LF, CRLF, CRCRLF, in files without these CR); blank ones at the end are none."""
    text = text.replace("\r\r\n", "\n").replace("\r\n", "\n")
    if "\n" not in text:
        text = text.replace("\r", "\n")  # files of old Macs
    lines = text.split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def _unmarked(data: bytes) -> str | None:
    """UTF-16 without its mark: of Latin letters every other byte is 0."""
    head = data[: min(len(data) // 2 * 2, 4000)]
    low, high = head[::2].count(0), head[1::2].count(0)
    if len(head) < 8 or len(data) % 2:
        return None
    if not low and high >= 0.45 * len(head):
        return "utf-16-le"
    return "utf-16-be" if not high and low >= 0.45 * len(head) else None


def read_content(path: Path) -> Content:
    """Read and decompress. Raises DataError."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    refuse_foreign(path, raw)
    data, compression = raw, compression_of(raw)
    if compression is not None:
        data = b"".join(decompressed(path, compression, (raw[at : at + _CHUNK] for at in range(0, len(raw), _CHUNK))))
    if not data:
        raise DataError(f"{path}:1: the file is empty")
    if compression:
        refuse_foreign(path, data)
        if data.startswith((_GZIP, _ZSTD)):
            raise DataError(f"{path}:1: compressed twice", hint="Unpack it once")
    return Content(path, data, hashlib.sha256(raw).hexdigest(), compression)


def refuse_foreign(path: Path, data: bytes) -> None:
    """Raise DataError for a format that is told by its bytes and not read."""
    found = next((known for magic, known in _FOREIGN.items() if data.startswith(magic)), None)
    if data.startswith(b"PK\x03\x04"):
        office = b"[Content_Types].xml" in data
        found = ("a workbook of Excel, not text", _SAVE) if office else None
        found = found or ("a ZIP archive; compressed files are read as gzip or zstd", _UNPACK)
    elif data[257:262] == b"ustar":
        found = ("a tar archive", "Unpack it, and name its folder")
    if found:
        raise DataError(f"{path}:1: {found[0]}", hint=found[1])


def decompressed(path: Path, compression: str, blocks: Iterable[bytes]) -> Iterator[bytes]:
    """All members or frames of a file, one after another; zeros may follow gzip. blocks: of the file as it lies there. Raises
    DataError that says how many lines came before what is wrong."""
    new, padding = _UNPACKERS[compression]
    stream, lines, fresh, wrong = new(), 1, False, None
    try:
        for block in blocks:
            while block:
                if stream.eof:
                    if padding and not block.strip(padding):
                        break
                    stream, fresh = new(), True
                data = stream.decompress(block)
                block = stream.unused_data
                lines, fresh = lines + data.count(b"\n"), False
                yield data
        wrong = None if stream.eof else "it ends early"
    except (zlib.error, zstandard.ZstdError) as error:
        wrong = str(error).rpartition(": ")[2]
        if fresh:
            wrong = f"something else follows its end ({wrong})"
    if wrong is not None:
        raise DataError(f"{path}:{lines}: the compressed file is damaged or cut short: {wrong}", hint="Fetch it again")


_UNPACKERS: Mapping[str, tuple[Callable[[], Any], bytes]] = {
    "gzip": (lambda: zlib.decompressobj(wbits=31), b"\0"),
    "zstd": (lambda: zstandard.ZstdDecompressor().decompressobj(), b""),
}
"""Compression -> what makes a reader of one member, and what may follow the last."""


def compression_of(head: bytes) -> str | None:
    """ "gzip", "zstd" or None, by a file's first bytes."""
    return "gzip" if head.startswith(_GZIP) else "zstd" if head.startswith(_ZSTD) else None


def bare_suffix(path: Path) -> str:
    """The suffix under the compression's: ".csv" of "a.csv.gz"."""
    suffixes = [s.lower() for s in path.suffixes]
    while suffixes and suffixes[-1] in SUFFIXES:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def bare_stem(path: Path) -> str:
    """The name without suffixes of format and compression: "a.b" of "a.b.csv.gz"."""
    name = path.name
    while Path(name).suffix.lower() in SUFFIXES:
        name = Path(name).stem
    return Path(name).stem
