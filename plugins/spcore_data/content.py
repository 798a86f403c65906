"""A file's bytes as text: compression, encodings, and files that are not what they say."""

from __future__ import annotations

import codecs
import hashlib
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import zstandard

from spcore.errors import DataError

SUFFIXES = (".gz", ".zst", ".zstd")
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_FOREIGN = {b"PK\x03\x04": "a ZIP archive", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"7z\xbc\xaf": "a 7z archive"}
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Content:
    """A file, decompressed. digest: sha256 of the file as it lies there."""

    path: Path
    data: bytes
    digest: str

    @cached_property
    def text(self) -> str:
        """As text: UTF-8, or UTF-16 and UTF-32 with their mark. Raises DataError that names the line."""
        encoding = next((name for mark, name in _MARKS if self.data.startswith(mark)), "utf-8")
        try:
            text = self.data.decode(encoding)
        except UnicodeDecodeError as error:
            line = error.object[: error.start].count(b"\n") + 1
            found = f"byte 0x{error.object[error.start]:02x}" if error.start < len(error.object) else "it ends early"
            raise DataError(
                f"{self.path}:{line}: not {encoding.removesuffix('-sig').upper()} ({found})",
                hint="Convert it, for example with iconv -f latin1 -t utf-8",
            ) from None
        if "\0" in text:
            line = text[: text.index("\0")].count("\n") + 1
            raise DataError(f"{self.path}:{line}: a NUL byte: not a text file, or damaged")
        if not text.strip():
            raise DataError(f"{self.path}:1: the file is empty")
        if text.startswith("version https://git-lfs.github.com/spec/"):
            raise DataError(f"{self.path}:1: a pointer of Git LFS, not the data", hint="Fetch it: git lfs pull")
        return text

    def refuse_html(self) -> None:
        """Raise DataError for a web page that was saved under a data file's name."""
        start = self.text.lstrip()[:200].lower()
        if start.startswith(("<!doctype html", "<html", "<head")):
            raise DataError(
                f"{self.path}:1: an HTML page, not data", hint="Download the raw file, not the page that shows it"
            )


def read_content(path: Path) -> Content:
    """Read and decompress. Raises DataError."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    foreign = next((what for magic, what in _FOREIGN.items() if raw.startswith(magic)), None)
    if foreign:
        raise DataError(f"{path}: {foreign}; compressed files are read as gzip or zstd", hint="Unpack it first")
    data = raw
    if raw.startswith(_GZIP):
        data = _decompressed(path, raw, lambda: zlib.decompressobj(wbits=31), b"\0")
    elif raw.startswith(_ZSTD):
        data = _decompressed(path, raw, lambda: zstandard.ZstdDecompressor().decompressobj(), b"")
    if not data:
        raise DataError(f"{path}:1: the file is empty")
    return Content(path, data, hashlib.sha256(raw).hexdigest())


def _decompressed(path: Path, raw: bytes, new: Callable[[], Any], padding: bytes) -> bytes:
    """All members or frames of a file, one after another; zeros may follow gzip. In chunks, so that an error can say how
    many lines came before it."""
    parts: list[bytes] = []
    stream, at = new(), 0
    try:
        while at < len(raw):
            if stream.eof:
                if padding and not raw[at:].strip(padding):
                    break
                stream = new()
            chunk = raw[at : at + _CHUNK]
            parts.append(stream.decompress(chunk))
            at += len(chunk) - len(stream.unused_data)
        wrong = None if stream.eof else "it ends early"
    except (zlib.error, zstandard.ZstdError) as error:
        wrong = str(error)
    data = b"".join(parts)
    if wrong is not None:
        line = data.count(b"\n") + 1
        raise DataError(f"{path}:{line}: the compressed file is damaged or cut short: {wrong}", hint="Fetch it again")
    return data


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
