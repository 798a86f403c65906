"""A file's bytes as text: compression, encodings, and files that are not what they say."""

from __future__ import annotations

import codecs
import gzip
import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path

import zstandard

from spcore.errors import DataError

GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
SUFFIXES = (".gz", ".zst", ".zstd")


@dataclass(frozen=True)
class Content:
    """A file, decompressed. digest: sha256 of the file as it lies there."""

    path: Path
    data: bytes
    digest: str

    def text(self) -> str:
        """As text: UTF-8, or UTF-16 with its mark. Raises DataError that names the line."""
        data, encoding = self.data, "utf-8"
        for mark, name in _BOMS:
            if data.startswith(mark):
                encoding = name
                data = data[len(mark) :] if name == "utf-8" else data
                break
        if encoding == "utf-8" and b"\0" in data:
            raise DataError(f"{self.path}:{data[: data.index(0)].count(10) + 1}: a NUL byte: not a text file")
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError as error:
            line = data[: error.start].count(b"\n") + 1
            raise DataError(
                f"{self.path}:{line}: not UTF-8 (byte 0x{data[error.start]:02x})", hint="Convert it, for example with iconv -f latin1 -t utf-8"
            ) from None
        if not text.strip():
            raise DataError(f"{self.path}: the file is empty")
        if text.lstrip()[:200].lower().startswith(("<!doctype html", "<html")):
            raise DataError(f"{self.path}:1: an HTML page, not data")
        return text


def read_content(path: Path) -> Content:
    """Read and decompress. Raises DataError."""
    raw = path.read_bytes()
    digest = hashlib.sha256(raw).hexdigest()
    try:
        if raw.startswith(GZIP):
            raw = gzip.decompress(raw)
        elif raw.startswith(ZSTD):
            reader = zstandard.ZstdDecompressor().decompressobj(read_across_frames=True)
            data = reader.decompress(raw)
            if not reader.eof and reader.unused_data == b"" and not _complete(raw):
                raise EOFError("the compressed data ends early")
            raw = data
    except (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError) as error:
        raise DataError(f"{path}: the compressed file is damaged or cut short: {error}") from error
    if not raw:
        raise DataError(f"{path}: the file is empty")
    return Content(path, raw, digest)


def _complete(raw: bytes) -> bool:
    """Whether zstd data ends at a frame's end."""
    rest = raw
    while rest:
        frame = zstandard.ZstdDecompressor().decompressobj()
        frame.decompress(rest)
        if not frame.eof:
            return False
        rest = frame.unused_data
    return True


def bare_suffix(path: Path) -> str:
    """The suffix under the compression's: ".csv" of "a.csv.gz"."""
    suffixes = [s.lower() for s in path.suffixes]
    while suffixes and suffixes[-1] in SUFFIXES:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""
