"""GLUE from a folder of TSV files, as its archives hold them: no quoting, labels as numbers or names, tests without labels."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pyarrow as pa

from spcore.errors import DataError, SourceError, unknown
from spcore.features import fingerprint
from spcore.interfaces.dataset import ReadReport
from spcore_data.content import bare_suffix, lines_of, read_content
from spcore_data.glue_tasks import TASKS, GlueTask, matched
from spcore_data.splits import default_split, missing_path, split_of
from spcore_data.table import Origin, TableSource

_OWN = {"mrpc": r"msr_paraphrase", "cola": r"(in|out_of)_domain"}
"""How files are called that do not begin with their split or their task."""


def open_folder(folder: str, name: str, split: str | None) -> TableSource:
    """A split of a task. folder: with the TSV files, or with the task's folder in it. Raises SourceError, DataError."""
    root, task = Path(folder).expanduser(), TASKS[name]
    if not root.is_dir():
        raise SourceError(missing_path(folder, "folder"))
    inner = next((p for p in sorted(root.iterdir()) if p.is_dir() and _same(p.name, task.folder)), root)
    splits = _splits(inner, name)
    if not splits:
        raise SourceError(
            f"glue {name!r}: no TSV files of it in {folder!r}",
            hint=f"Expected train.tsv, dev.tsv and test.tsv there or in its folder {task.folder!r}",
        )
    wanted = matched(name, split) or default_split(list(splits), folder)
    if wanted not in splits and split in splits:
        wanted = str(split)  # MNLI's in a folder that does not tell the two apart
    if wanted not in splits:
        raise SourceError(f"glue {name!r} in {folder!r}: {unknown('split', str(split), splits)}")
    return _read(splits[wanted], name, task)


def _same(name: str, other: str) -> bool:
    return name.lower().replace("-", "") == other.lower().replace("-", "")


def _splits(folder: Path, name: str) -> dict[str, list[Path]]:
    """Files of a task by split, MNLI's by their genres too."""
    own = "|".join(filter(None, (name, TASKS[name].folder.lower(), _OWN.get(name))))
    pattern = re.compile(rf"(train|dev|validation|test|{own})(?![a-z0-9])")
    splits: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        split = split_of(path.name)
        if path.is_file() and bare_suffix(path) in (".tsv", ".txt") and pattern.match(path.name.lower()) and split:
            genre = re.search(r"_(mismatched|matched)", path.name)
            splits.setdefault(split + (genre.group(0) if genre else ""), []).append(path)
    return splits


def _read(paths: list[Path], name: str, task: GlueTask) -> TableSource:
    columns: dict[str, list[Any]] = {column: [] for column in task.columns}
    dropped: dict[str, list[int]] = {}
    digests, origins = [], []
    for path in paths:
        content = read_content(path)
        content.refuse_page()
        digests.append(content.digest)
        lines = _read_file(content.text, path, task, columns, dropped)
        origins.append(Origin(str(path), len(lines), lines))
    rows = len(columns["label"])
    if not rows:
        raise DataError(f"{paths[0]}:1: no rows of glue {name!r}")
    kinds = {"label": pa.int64() if task.labels else pa.float64()}
    table = pa.table({c: pa.array(values, kinds.get(c, pa.string())) for c, values in columns.items()})
    several = f"glue {name!r}: {len(paths)} files are read one after another: {', '.join(p.name for p in paths)}"
    files = tuple({"path": o.path, "format": "tsv", "quoting": "none", "rows": o.rows} for o in origins)
    report = ReadReport(rows + sum(map(len, dropped.values())), dropped, (several,) if len(paths) > 1 else (), files)
    declared = {"label": task.labels} if task.labels else {}
    key = fingerprint(digests, name)
    return TableSource(table, key, report=report, declared=declared, advice=task.advice(), origins=origins)


def _read_file(
    text: str, path: Path, task: GlueTask, columns: dict[str, list[Any]], dropped: dict[str, list[int]]
) -> list[int]:
    """Add a file's rows to `columns`; the line of each."""
    lines, kept = lines_of(text), []
    where, header = _positions(lines[0].split("\t"), path, task)
    for number, line in enumerate(lines, 1):
        if header and number == 1:
            continue
        fields = line.split("\t")
        if not line.strip():
            dropped.setdefault("empty line", []).append(number)
        elif len(fields) <= max(where.values()):
            dropped.setdefault(f"{len(fields)} fields where {max(where.values()) + 1} are expected", []).append(number)
        else:
            label = _label(fields[where["label"]], task, f"{path}:{number}") if "label" in where else None
            for column in task.texts:
                columns[column].append(fields[where[column]])
            columns["label"].append(label)
            kept.append(number)
    return kept


def _positions(first: list[str], path: Path, task: GlueTask) -> tuple[dict[str, int], bool]:
    """column -> field number, and whether the first line is a header. Only a test file may lack the label."""
    header = [cell.strip().lower() for cell in first]
    found = {column: header.index(tsv.lower()) for column, tsv in task.columns.items() if tsv.lower() in header}
    if not any(text in found for text in task.texts) and task.positions:
        if len(first) <= max(task.positions.values()):
            raise DataError(f"{path}:1: {len(first)} fields where {max(task.positions.values()) + 1} are expected")
        return dict(task.positions), False
    needed = [*task.texts, *([] if split_of(path.name) == "test" else ["label"])]
    lacking = [task.columns[column] for column in needed if column not in found]
    if lacking:
        raise DataError(f"{path}:1: no column {lacking[0]!r}; found: {', '.join(cell.strip() for cell in first[:12])}")
    return found, True


def _label(cell: str, task: GlueTask, where: str) -> int | float | None:
    """A label's id, or a score; None for what stands for no label."""
    cell = cell.strip()
    if cell in ("", "-", "-1"):
        return None
    if cell in task.labels:
        return task.labels.index(cell)
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if task.labels and value in range(len(task.labels)):
        return int(value)
    if task.labels or not math.isfinite(value):
        raise DataError(f"{where}: {unknown('label', cell, task.labels) if task.labels else f'{cell!r} is no score'}")
    return value
