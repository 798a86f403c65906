"""Which files a source stands for, and which of them are a split's."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from spcore.errors import SourceError, nearest, unknown
from spcore_data.content import bare_stem, bare_suffix
from spcore_data.formats import FORMATS

SPLITS = {
    "train": "train", "training": "train", "dev": "validation", "val": "validation", "valid": "validation",
    "validation": "validation", "eval": "validation", "test": "test", "testing": "test",
}  # fmt: skip
"""A word in a file's name -> the split it stands for."""
_WORD = re.compile(rf"({'|'.join(sorted(SPLITS, key=len, reverse=True))})(?:set|data)?(?![a-z])")
_NOT_DATA = frozenset("dataset_info dataset_infos dataset_dict state readme license licence requirements".split())
WILD = "*?["


@dataclass(frozen=True)
class Found:
    """A file. named: written out by the user, not found in a folder or by a glob. below: its path under that folder."""

    path: Path
    named: bool
    below: tuple[str, ...]


def find(source: str) -> list[Found]:
    """Files of a path, a glob or a folder, sorted; of a folder without data files, those further below."""
    path = Path(source).expanduser()
    if path.is_dir():
        direct = [p for p in path.iterdir() if _is_data(p)]
        found = direct or [p for p in path.rglob("*") if _is_data(p)]
        if not found:
            raise SourceError(f"data {source!r}: a folder without data files; known: {', '.join(sorted(FORMATS))}")
        return [Found(p, False, p.relative_to(path).parts) for p in sorted(found)]
    if path.exists():
        return [Found(path, True, (path.name,))]
    if not is_glob(source):
        return []
    matches = sorted(Path(p) for p in glob.glob(str(path), recursive=True))
    return [Found(p, False, (p.name,)) for p in matches if p.is_file()]


def is_glob(source: str) -> bool:
    """Whether it is written as a glob."""
    return any(c in source for c in WILD)


def _is_data(path: Path) -> bool:
    known = bare_suffix(path) in FORMATS and bare_stem(path).lower() not in _NOT_DATA
    return path.is_file() and known and not path.name.startswith(".")


def split_of(name: str) -> str | None:
    """The split that a file's or folder's name tells: by its first word, else by any."""
    lowered = name.lower()
    first = _WORD.match(lowered)
    anywhere = first or re.search(rf"(?<![a-z]){_WORD.pattern}", lowered)
    return SPLITS[anywhere.group(1)] if anywhere else None


def choose(files: Sequence[Found], split: str | None, subject: str) -> tuple[list[Path], list[str]]:
    """The files of a split, and remarks. split None: the only one, or "train". Raises SourceError."""
    if len(files) == 1 and files[0].named:
        return _single(files[0].path, split, subject)
    groups: dict[str, list[Path]] = {}
    rest: list[Found] = []
    for file in files:
        told = next(filter(None, map(split_of, reversed(file.below))), None)
        if told is not None:
            groups.setdefault(told, []).append(file.path)
        else:
            rest.append(file)
    if not groups or any(file.named for file in rest):
        groups.setdefault("train", []).extend(file.path for file in rest)
        rest = []
    by_name = [file.path for file in files if split == bare_stem(file.path)]
    chosen = by_name or groups[_chosen(groups, split, subject)]
    remarks = (
        [f"{subject}: of the files named for no split, none is read: {_names([f.path for f in rest])}"] if rest else []
    )
    if len(chosen) > 1:
        remarks.append(f"{subject}: {len(chosen)} files are read one after another: {_names(chosen)}")
    return chosen, remarks


def _single(path: Path, split: str | None, subject: str) -> tuple[list[Path], list[str]]:
    own = {"train", bare_stem(path), split_of(path.name)}
    if split is None or split in own or SPLITS.get(split, split) in own:
        return [path], []
    raise SourceError(f"data {subject!r}: {unknown('split', split, ['train'])}")


def _chosen(groups: dict[str, list[Path]], split: str | None, subject: str) -> str:
    if split is None:
        return default_split(groups, subject)
    wanted = split if split in groups else SPLITS.get(split, split)
    if wanted not in groups:
        raise SourceError(f"data {subject!r}: {unknown('split', split, groups)}")
    return wanted


def default_split(splits: Sequence[str] | dict[str, list[Path]], subject: str) -> str:
    """The split where none is asked for: the only one, or "train". Raises SourceError."""
    names = list(splits)
    if len(names) == 1:
        return names[0]
    if "train" not in names:
        raise SourceError(
            f"data {subject!r}: has no split 'train'; known: {', '.join(names)}", hint="Say which: data.split=NAME"
        )
    return "train"


def _names(paths: Sequence[Path]) -> str:
    return ", ".join(p.name for p in paths[:5]) + (f", ... ({len(paths)} in all)" if len(paths) > 5 else "")


def near_path(source: str) -> str | None:
    """A path that is there and most like one that is not."""
    path = Path(source).expanduser()
    near = nearest(path.name, _names_in(path.parent)) if path.parent.is_dir() else None
    return str(path.parent / near) if near else None


def missing_path(source: str, what: str = "file") -> str:
    """The sentence for a path that is not there, with what is there that is most like it. what: that was expected."""
    path = Path(source).expanduser()
    if is_glob(source):
        return f"data {source!r}: no file matches"
    folder = path.parent
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    here = "the working directory" if folder == Path() else repr(str(folder))
    sentence = f"data {source!r}: no such {what}"
    if folder != path.parent:
        lost = path.relative_to(folder).parts[0]
        near = nearest(lost, _names_in(folder))
        return f"{sentence}: there is no {lost!r} in {here}" + (f"; did you mean {near!r}?" if near else "")
    if near := near_path(source):
        return f"{sentence}; did you mean {near!r}?"
    there = _names_in(folder)
    listed = ", ".join(there[:5]) + (f", ... ({len(there)} in all)" if len(there) > 5 else "")
    return f"{sentence}; {here} has {listed or 'no files'}"


def _names_in(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))
