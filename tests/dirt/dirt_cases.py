"""Files with every kind of dirt that `docs/data.md` has a line for, and the rows that are left of each.

A case's name is the first cell of its line. `rows` are (text, label) as a task sees them, None where the file is refused.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import pickle
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import zstandard
from pyarrow import parquet

Label = Any
Rows = list[tuple[str, Label]]


@dataclass(frozen=True)
class Case:
    """files: name -> content; the data is the first, or the folder where there are several. labelled: only runs that need
    labels meet the dirt; predictions do not. also: other contents of the first file, of which the same becomes."""

    files: Mapping[str, bytes]
    rows: Rows | None = None
    labelled: bool = False
    also: tuple[bytes, ...] = ()

    @property
    def others(self) -> list[Case]:
        """The case with each of the other contents."""
        name = next(iter(self.files))
        return [replace(self, files={name: content}, also=()) for content in self.also]

    def lay(self, folder: Path) -> Path:
        """Write the files; what to read."""
        for name, content in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        return folder / next(iter(self.files)) if len(self.files) == 1 else folder


CASES: dict[str, Case] = {}
GOOD: Rows = [("a fine film", 1), ("dull and long", 0), ("quite good", 1)]
LINES = ["text,label", "a fine film,1", "dull and long,0", "quite good,1"]
CSV = ("\n".join(LINES) + "\n").encode()
BIG = b"text,label\n" + b"".join(b"row %d %s,%d\n" % (n, str(hash(str(n))).encode(), n % 2) for n in range(3000))
WORDS = "word " * 200_000


def case(name: str, content: bytes | str, rows: Rows | None = GOOD, file: str = "a.csv", **more: Any) -> None:
    """A case of one file."""
    assert name not in CASES, f"two cases are called {name!r}"
    CASES[name] = Case({file: content.encode() if isinstance(content, str) else content}, rows, **more)


def lines(*content: str, end: str = "\n") -> str:
    """Lines with their ends."""
    return end.join(content) + end


def labels(name: str, *values: str, rows: Rows | None, **more: Any) -> None:
    """A CSV of texts a, b, c, ... with these labels."""
    case(name, lines("text,label", *(f"{chr(97 + n)},{value}" for n, value in enumerate(values))), rows, **more)


def objects(*rows: Any) -> str:
    """JSON lines."""
    return lines(*(row if isinstance(row, str) else json.dumps(row) for row in rows))


def as_parquet(**columns: Any) -> bytes:
    """A Parquet file."""
    stream = io.BytesIO()
    parquet.write_table(pa.table(columns), stream)
    return stream.getvalue()


def zipped(*names: str) -> bytes:
    """A ZIP archive."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return stream.getvalue()


def tarred(content: bytes) -> bytes:
    """A tar archive of one file."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        info = tarfile.TarInfo("a.csv")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


ZST = zstandard.ZstdCompressor().compress
GZ = gzip.compress(BIG)

# -- bytes --
case("a byte-order mark", b"\xef\xbb\xbf" + CSV)
case("byte-order marks within a file", lines(*LINES[:2], "\ufeff" + LINES[2], LINES[3]))
case("UTF-16 and UTF-32 with their mark", CSV.decode().encode("utf-16"), also=(CSV.decode().encode("utf-32"),))
case("UTF-16 without its mark", CSV.decode().encode("utf-16-le"))
case("bytes that are not UTF-8", "text,label\na,1\ncafé,0\n".encode("latin-1"), None)
case("a character cut in two at the end", b"text,label\na,1\nb,0\ncaf\xc3", None)
case("a NUL byte", b"text,label\na\0b,1\nc,0\n", None)
case("half of a surrogate pair in JSON", objects('{"text": "\\ud83d x", "label": 1}', {"text": "b", "label": 0}), [("\ufffd x", 1), ("b", 0)], "a.jsonl")  # fmt: skip

# -- compression --
case(
    "gzip or zstd, under any name",
    gzip.compress(CSV),
    also=(ZST(CSV), gzip.compress(CSV[:20]) + gzip.compress(CSV[20:]), gzip.compress(CSV) + bytes(99)),
)
case("a plain file named .gz", CSV, file="a.csv.gz")
case("a gzip cut short", GZ[: len(GZ) // 2], None, "a.csv.gz")
case("a zst cut short", ZST(BIG)[:-3000], None, "a.csv.zst")
case("a gzip followed by something else", gzip.compress(CSV) + b"garbage", None, "a.csv.gz")
case("a gzip with a wrong checksum", gzip.compress(CSV)[:-8] + b"\1\2\3\4" + gzip.compress(CSV)[-4:], None, "a.csv.gz")
case("a file compressed twice", gzip.compress(gzip.compress(CSV)), None, "a.csv.gz")
case(
    "bzip2, xz, 7z, RAR",
    bz2.compress(CSV),
    None,
    "a.csv.bz2",
    also=(lzma.compress(CSV), b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\x07"),
)
case("a ZIP archive", zipped("a.csv"), None)
case("a tar archive", gzip.compress(tarred(CSV)), None, "a.tar.gz")

# -- not what it says --
case("an empty file", b"", None, also=(b"\xef\xbb\xbf", gzip.compress(b"")))
case("nothing but blanks", " \n\n\t\n", None)
case("a header and no rows", "text,label\n", None)
case(
    "an HTML page",
    "\n<!DOCTYPE html>\n<html><body>sign in</body></html>",
    None,
    also=(b"<!-- saved -->\n<html>x", b"\xef\xbb\xbf<HTML lang=en>"),
)
case("an HTML page named .parquet", "<html><body>sign in</body></html>", None, "a.parquet")
case("XML", '<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code></Error>\n', None)
case("a PDF", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", None)
case("a workbook of Excel", zipped("[Content_Types].xml", "xl/workbook.xml"), None)
case(
    "pictures, databases, arrays, pickles",
    pickle.dumps({"text": ["a"]}),
    None,
    also=(
        pickle.dumps([1], 5),
        pickle.dumps({}, 3),
        b"\x89PNG\r\n\x1a\n\0",
        b"\xff\xd8\xff\xe0",
        b"GIF89a",
        b"SQLite format 3\0",
        b"\x93NUMPY\1\0",
        b"\x89HDF\r\n",
        b"Obj\x01",
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1\0",
        b"{\\rtf1 hello}",
    ),
)
case("a pointer of Git LFS", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n", None)
case(
    "JSON named .csv",
    json.dumps([{"text": text, "label": label} for text, label in GOOD]),
    also=(objects(*({"text": text, "label": label} for text, label in GOOD)).encode(),),
)
case("CSV named .json", CSV, None, "a.json")
case("CSV named .tsv", CSV, file="a.tsv")
CASES["a folder without data"] = Case({"a.csv/notes.md": b"x", "b.md": b""}, None)

# -- lines --
case(
    "CRLF and CRCRLF",
    lines(*LINES, end="\r\n"),
    also=(lines(*LINES, end="\r\r\n").encode(), b"text,label\r\na fine film,1\ndull and long,0\r\nquite good,1"),
)
case("lone CRs that end all lines", lines(*LINES, end="\r"))
case("lone CRs that end some lines", "text,label\r\na fine film,1\ndull and long,0\rquite good,1\r\n")
case("a lone CR in a field", lines("text,label", '"a\rb, c",1', "d\re,0"), [("a\rb, c", 1), ("d\re", 0)])
case("U+2028, U+0085, form feeds in a field", "text,label\na\u2028b\x85c\x0cd,1\ne,0\n", [("a\u2028b\x85c\x0cd", 1), ("e", 0)])  # fmt: skip
case("no line end at the end", "\n".join(LINES))
case("empty rows", lines(LINES[0], "", LINES[1], " , ", *LINES[2:]))
case("empty rows at the end", lines(*LINES, "", "  ", ""))
case("a field of a million characters", f"text,label\n{WORDS},1\nb,0\n", [(WORDS, 1), ("b", 0)])

# -- quotes --
case("fields over several lines", 'text,label\n"a\n\nb, c",1\nd,0\n', [("a\n\nb, c", 1), ("d", 0)])
case("doubled quotes", 'text,label\n"he said ""no""",1\n"x",0\n', [('he said "no"', 1), ("x", 0)])
case("quotes that are only text", 'sentence\tlabel\n"it is\t1\nhe said "no\t0\n"x"\t1\n', [('"it is', 1), ('he said "no', 0), ('"x"', 1)], "a.tsv")  # fmt: skip
case("quotes within a field", 'text,label\na 6" sub,1\nthe "best",0\n', [('a 6" sub', 1), ('the "best"', 0)])
case("a quote that is never closed", lines("text,label", '"a, b",1', '"c, d",0', '"e, f",1', '"g,0'), [("a, b", 1), ("c, d", 0), ("e, f", 1)])  # fmt: skip
case("quotes after a backslash", 'text,label\n"he said \\"no\\", twice",1\n"b, c",0\n', [('he said "no", twice', 1), ("b, c", 0)])  # fmt: skip
case("a space before a quote", 'label, text\n1, "a, b"\n0, "c, d"\n', [("a, b", 1), ("c, d", 0)])

# -- columns --
case("rows of another width", lines(*LINES, "a,b,1", "only"))
case(
    "delimiters at the ends of rows",
    lines("text,label,,", *(line + ",," for line in LINES[1:])),
    also=(lines("text,label", *(line + "," for line in LINES[1:])).encode(), lines("text,label,", *LINES[1:]).encode()),
)
case("a column without a name", "text,label,\na,1,x\nb,0,\n", [("a", 1), ("b", 0)])
case(
    "semicolons, bars, tabs in CSV",
    "text;label\na, b;1\nc, d;0\n",
    [("a, b", 1), ("c, d", 0)],
    also=(b"text|label\na, b|1\nc, d|0\n", b"text\tlabel\na, b\t1\nc, d\t0\n"),
)
case("`sep=;` above the header", "sep=;\r\ntext;label\r\na, b;1\r\nc;0\r\n", [("a, b", 1), ("c", 0)])
case(
    "a title or a comment above the header",
    lines("# exported on Monday", *LINES),
    also=(lines("My export,", *LINES).encode(),),
)
case("no header", lines(*LINES[1:]))
case("the header again", lines(*LINES[:3], LINES[0], LINES[3]))
case("a header in capitals, with spaces", lines(" TEXT , Label ", *LINES[1:]))
case("a column twice", "text,label,text\na,1,b\n", None)
case("columns that differ in capitals", "Text,text,label\nx,a,1\ny,b,0\n", [("a", 1), ("b", 0)])
case("no column for a role", "id,foo,bar\n1,a,b\n2,c,d\n", None)
CASES["a column that one of several files lacks"] = Case(
    {"a.csv": CSV, "b.csv": b"text,id\nlate,7\n"}, GOOD, labelled=True
)
CASES["another file's header in other capitals"] = Case(
    {"a.csv": CSV, "b.csv": b"Text,LABEL\nlate,0\n"}, [*GOOD, ("late", 0)]
)
CASES["a file among several that is empty"] = Case({"a.csv": CSV, "b.csv": b""}, None)
case(
    "numbers with separators or units", lines("text,label", 'a,"1,200"', 'b,"3,400"'), [("a", "1,200"), ("b", "3,400")]
)
case("a word among numbers", lines("text,label", "a,0", "b,1", "c,0", "d,1", "e,zero", "f,1"), [("a", "0"), ("b", "1"), ("c", "0"), ("d", "1"), ("e", "zero"), ("f", "1")])  # fmt: skip

# -- JSON and Parquet --
case("a broken line of JSON lines", objects({"text": "a", "label": 1}, '{"text": "b", "la'), None, "a.jsonl")
case("a line that is no object", objects({"text": "a", "label": 1}, ["b", 0]), None, "a.jsonl")
case("a key twice in an object", objects('{"text": "a", "text": "b", "label": 1}'), None, "a.jsonl")
case("JSON cut short", '[\n{"text": "a", "label": 1},\n{"text": "b", "la', None, "a.json")
case("an object as label", objects({"text": "a", "label": 1}, {"text": "b", "label": {"x": 0}}), None, "a.jsonl", labelled=True)  # fmt: skip
case("lists as labels of some rows", objects({"text": "a", "label": 1}, {"text": "b", "label": [0]}), None, "a.jsonl", labelled=True)  # fmt: skip
case("a list as text", objects({"text": "a", "label": 1}, {"text": ["b"], "label": 0}, {"text": "c", "label": 0}), [("a", 1), ("c", 0)], "a.jsonl")  # fmt: skip
case("null, NaN or no label in JSON", objects({"text": "a", "label": 1}, {"text": "b", "label": None}, '{"text": "c", "label": NaN}', {"text": "d"}, {"text": "e", "label": 0}), [("a", 1), ("e", 0)], "a.jsonl", labelled=True)  # fmt: skip
case("null labels in Parquet", as_parquet(text=["a", "b", "c"], label=[1, None, 0]), [("a", 1), ("c", 0)], "a.parquet", labelled=True)  # fmt: skip
case("text in Parquet that is stored as bytes", as_parquet(text=[b"a", "é".encode()], label=[1, 0]), [("a", 1), ("é", 0)], "a.parquet")  # fmt: skip
case("Parquet cut short", as_parquet(text=["a"] * 99)[:-10], None, "a.parquet")

# -- texts and labels --
case("blank text", "text,label\na,1\n ,1\n,0\nb,0\n", [("a", 1), ("b", 0)])
labels("labels as words", "good", "bad", rows=[("a", "good"), ("b", "bad")])
labels("spaces round labels", " good", "bad ", "good", rows=[("a", " good"), ("b", "bad "), ("c", "good")])
labels("labels that differ in capitals", "good", "Good", "bad", rows=[("a", "good"), ("b", "Good"), ("c", "bad")])
labels("labels from 1 on", "1", "2", "3", rows=[("a", 1), ("b", 2), ("c", 3)])
case("labels as texts of digits", objects({"text": "a", "label": "0"}, {"text": "b", "label": "1"}), [("a", "0"), ("b", "1")], "a.jsonl")  # fmt: skip
labels("labels as 0.0 and 1.0", "0.0", "1.0", rows=[("a", 0.0), ("b", 1.0)])
case("one label in several forms", objects(*({"text": chr(97 + n), "label": v} for n, v in enumerate([1, "1", 1.0, True, "True", 0, "0.0", False]))), [("a", "1"), ("b", "1"), ("c", "1.0"), ("d", "true"), ("e", "True"), ("f", "0"), ("g", "0.0"), ("h", "false")], "a.jsonl")  # fmt: skip
labels("missing labels", "1", "", "0", " ", rows=[("a", 1), ("c", 0)], labelled=True)
labels("words for a missing label", "good", "None", "bad", "N/A", "null", rows=[("a", "good"), ("c", "bad")], labelled=True)  # fmt: skip
labels("infinite numbers", "0.5", "inf", "0.75", rows=[("a", 0.5), ("c", 0.75)], labelled=True)
labels("only one label", "1", "1", rows=None, labelled=True)
labels("no label in any row", "", "", rows=None, labelled=True)

# -- all at once --
case(
    "all of this at once",
    '\ufeffsep=,\r\ntext,label,\r\n"a, ""b""\r\nc",1,\r\n\r\n,0,\r\nd,0,9,\r\ne,,\r\ntext,label,\r\nf,None\r\n\ufeffg,0.0\r\nh,1,',
    [('a, "b"\nc', 1.0), ("g", 0.0), ("h", 1.0)],
    labelled=True,
)
