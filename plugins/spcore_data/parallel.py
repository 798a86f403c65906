"""Data set `parallel`: texts in several languages, each in a file of its own, line by line: train.en and train.de."""

from __future__ import annotations

import re
from array import array
from collections.abc import Mapping, Sequence
from glob import escape as glob_escape
from glob import glob
from pathlib import Path
from typing import Any

import pyarrow as pa

from spcore.errors import DataError, SourceError, unknown
from spcore.features import fingerprint
from spcore.interfaces.dataset import Dataset, ReadReport, Source
from spcore_data.content import Content, bare_stem, bare_suffix, lines_of, read_content
from spcore_data.cutting import EMPTY
from spcore_data.formats import FORMATS
from spcore_data.options import ParallelOptions
from spcore_data.splits import Found, choose, is_glob, missing_path
from spcore_data.table import Origin, TableSource

Group = Mapping[str, Path]
"""Language -> the file of its lines."""
SCHEME = "parallel:"
_LANGUAGE = re.compile(r"[a-z]{2,3}([-_][A-Za-z0-9]{2,8})*")


class Parallel(Dataset):
    """Files NAME.LANGUAGE, packed or not, `.txt` behind it or not. NAME tells the split, as files' names do elsewhere."""

    def __init__(self, options: ParallelOptions) -> None:
        self.options = options
        self.source = options.source.removeprefix(SCHEME)

    def open(self, split: str | None) -> Source:
        """Rows with a column a language, or with `pairs` source, target, source_language and target_language, of a line each pair after
        the other. Raises SourceError for a split or a language that there is not, DataError for files of unequal length."""
        source = self.source
        groups = {stem: group for stem, group in grouped(source).items() if len(group) > 1}
        if not groups:
            raise SourceError(
                f"data {source!r}: no files there that are called alike but for their language",
                hint="As train.en and train.de, or train.en.txt.gz and train.de.txt.gz",
            )
        named = not Path(source).expanduser().is_dir()
        stems, remarks = choose([Found(stem, named, (stem.name,)) for stem in sorted(groups)], split, source)
        chosen = [groups[stem] for stem in stems]
        return self._read(chosen, self._languages(chosen), remarks)

    def _languages(self, groups: Sequence[Group]) -> list[str]:
        """Those that are read, in order: as told, else all that every group has."""
        there = sorted(set.intersection(*map(set, groups)))
        wanted = list(self.options.languages or ())
        for pair in self.options.pairs or ():
            wanted += [end for end in ends(pair) if end not in wanted]
        for language in wanted:
            if language not in there:
                raise SourceError(f"data {self.source!r}: {unknown('language', language, there)}")
        return wanted or there

    def _read(self, groups: Sequence[Group], languages: Sequence[str], remarks: Sequence[str]) -> TableSource:
        tables, origins, files, digests, said = [], [], [], [], list(remarks)
        dropped: dict[str, list[int]] = {}
        for group in groups:
            contents = {language: read_content(group[language]) for language in languages}
            for content in contents.values():
                content.refuse_page()
                digests.append(content.digest)
                said += content.remarks
            lines = dict(zip(languages, _lines(list(contents.values())), strict=True))
            first = contents[languages[0]].path
            kept: list[int] = []
            empty: list[int] = []
            for n, row in enumerate(zip(*lines.values(), strict=True)):
                (kept if any(cell.strip() for cell in row) else empty).append(n)
            if empty:
                dropped[EMPTY if len(groups) == 1 else f"{first.name}: {EMPTY}"] = [n + 1 for n in empty]
            cells = {language: pa.array([own[n] for n in kept], pa.string()) for language, own in lines.items()}
            rows = self._paired(cells) if self.options.pairs else pa.table(cells)
            numbers = array("Q", [n + 1 for n in kept for _ in self.options.pairs or (0,)])
            tables.append(rows)
            origins.append(Origin(str(first), rows.num_rows, numbers))
            files += [
                {"path": str(c.path), "format": "parallel", "language": language, "compression": c.compression, "rows": len(kept)}
                for language, c in contents.items()
            ]  # fmt: skip
        table = pa.concat_tables(tables)
        report = ReadReport(table.num_rows + sum(map(len, dropped.values())), dropped, tuple(said), tuple(files))
        key = fingerprint(digests, list(languages), self.options.pairs)
        return TableSource(table, key, report=report, advice=self._advice(), origins=origins)

    def _paired(self, cells: Mapping[str, pa.Array]) -> pa.Table:
        """Rows of each line's pairs, one after another."""
        parts = []
        for n, (one, other) in enumerate(map(ends, self.options.pairs or ())):
            count = len(cells[one])
            told = {"source_language": pa.array([one] * count), "target_language": pa.array([other] * count)}
            order = {"line": pa.array(range(count)), "pair": pa.array([n] * count)}
            parts.append(pa.table({"source": cells[one], "target": cells[other], **told, **order}))
        return pa.concat_tables(parts).sort_by([("line", "ascending"), ("pair", "ascending")]).drop(["line", "pair"])

    def _advice(self) -> dict[str, Any]:
        """A text for a text; of the first language the second, where the languages were told."""
        told = self.options.languages
        columns = {"source": told[0], "target": told[1]} if told and not self.options.pairs else {}
        return {"default_task": "seq2seq", "column_map": columns}


def ends(pair: str) -> tuple[str, str]:
    """The two languages of "en-de"."""
    one, _, other = pair.partition("-")
    return one, other


def grouped(source: str) -> dict[Path, dict[str, Path]]:
    """Name without its language -> language -> file, of a folder, a glob, a name without its language, or one of such files. Raises
    SourceError where nothing is there."""
    path = Path(source).expanduser()
    if path.is_dir():
        files = [file for file in path.iterdir() if not file.name.startswith(".")]
    elif is_glob(source):
        files = [Path(found) for found in glob(str(path), recursive=True)]
    else:
        start = _split(path)[0].name if path.is_file() else path.name
        files = (
            [file for file in path.parent.glob("*") if file.name.startswith(f"{start}.")]
            if path.parent.is_dir()
            else []
        )
        if path.is_file() or any(_split(file)[0].name == start for file in files):
            files = [file for file in files if _split(file)[0].name == start]
    if not files:
        raise SourceError(missing_path(source))
    found: dict[Path, dict[str, Path]] = {}
    for file in sorted(files):
        stem, language = _split(file)
        if file.is_file() and _LANGUAGE.fullmatch(language):
            if language in found.setdefault(stem, {}):
                raise SourceError(
                    f"data {source!r}: {found[stem][language].name} and {file.name} are the same language twice"
                )
            found[stem][language] = file
    return found


def alike(file: Path) -> list[Path]:
    """Files beside one that are called as it is but for their language."""
    stem, language = _split(file)
    if not _LANGUAGE.fullmatch(language):
        return []
    beside = sorted(
        other for other in file.parent.glob(f"{glob_escape(stem.name)}.*") if other.is_file() and other != file
    )
    return [other for other in beside if _split(other)[0] == stem and _LANGUAGE.fullmatch(_split(other)[1])]


def _split(file: Path) -> tuple[Path, str]:
    """The path without its language, and that: ("multi30k/train", "en") of multi30k/train.en.txt.gz; no language: ""."""
    name = Path(f"{bare_stem(file)}{bare_suffix(file)}")
    if FORMATS.get(name.suffix) == "text":
        name = Path(name.stem)
    language = name.suffix.removeprefix(".")
    return file.parent / name.stem, "" if name.suffix in FORMATS else language


def _lines(contents: Sequence[Content]) -> list[list[str]]:
    """The lines of files that belong together, as many of each: up to the last that is filled in one of them. Raises DataError."""
    whole = []
    for content in contents:
        *lines, last = lines_of(f"{content.text}.")  # so that blank ones at the end stay
        whole.append([*lines, last[:-1]] if last != "." else lines)
    most = max(len(lines_of(content.text)) for content in contents)
    if any(len(lines) < most for lines in whole):
        said = ", ".join(f"{c.path.name} has {len(lines):,}" for c, lines in zip(contents, whole, strict=True))
        raise DataError(f"{contents[0].path}: lines of the same number are the same text, and {said} lines")
    return [lines[:most] for lines in whole]
