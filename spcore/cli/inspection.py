"""What `data inspect` finds out: one pass over the rows, through the same data sets and tasks as a run."""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from spcore.cli.rendering import rendered
from spcore.components import Registry
from spcore.errors import DataError, RecipeError, SlimPajamaError, UserError
from spcore.files import read_errors
from spcore.gathering import gathered
from spcore.inference import task_with
from spcore.interfaces.dataset import Dataset, Row, Schema, Source
from spcore.interfaces.model import Encoding, LanguageModel, Processor
from spcore.interfaces.task import BoundTask, Task
from spcore.recipe import DataPart
from spcore.rows import RoleSource, is_missing, map_roles, open_rows
from spcore.session import limited
from spcore.text import text_of

_CHUNK, _FIRST, _SHORT, _SHOWN = 1024, 5, 200, 3
_TURNS = ({"role", "content"}, {"from", "value"})
"""How turns of conversations are written: as chat templates take them, and ShareGPT's."""


class Characters(Processor):
    """Stands for a model where none is given: every character is a token."""

    def __init__(self) -> None:
        self.special: Mapping[str, int] = {"pad": 1, "eos": 2}
        self.fill: Mapping[str, int] = {"input_ids": 0}
        self.vocabulary_size, self.max_length, self.fingerprint = 0x110000, None, "characters"

    def encode(
        self, text: str, pair: str | None = None, *, max_length: int | None = None, special: bool = True
    ) -> Encoding:
        """As many zeros as there are characters, each where it is."""
        places = [np.arange(len(part)) for part in (text, pair or "")]
        at, parts = np.concatenate(places), np.repeat([0, 1], [len(part) for part in places])
        return Encoding({"input_ids": np.zeros(len(at), np.int64)}, 0, np.stack([at, at + 1], 1), parts)

    def encode_words(self, words: Sequence[str]) -> Encoding:
        """As `encode`, by words."""
        own = np.repeat(np.arange(len(words)), [len(word) for word in words])
        return Encoding({"input_ids": np.zeros(len(own), np.int64)}, words=own)

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Never asked: nothing is kept of the text."""
        raise UserError("characters are counted here, not kept")

    def save(self, folder: Path) -> None:
        """There is nothing to save."""


@dataclass
class _Reading:
    """How the rows are read. rows: under the task's names, or none of them where no task fits. problem: why a run would
    refuse the data, None where it would not."""

    rows: RoleSource
    name: str | None
    bound: BoundTask | None
    processor: Processor
    problem: str | None = None

    @property
    def tokenised(self) -> bool:
        """Whether the texts come as tokens."""
        column = self.rows.schema.columns.get("text")
        return column is not None and column.largest is not None


@dataclass
class _Seen:
    """What the pass has found. missing: by column. dirt: reason -> places. rows, texts: hash -> first place, or label."""

    missing: Counter[str] = field(default_factory=Counter)
    lengths: list[int] = field(default_factory=list)
    used: int = 0
    truncated: int = 0
    dirt: dict[str, list[str]] = field(default_factory=dict)
    rows: set[bytes] = field(default_factory=set)
    texts: dict[bytes, str] = field(default_factory=dict)
    twice: list[str] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)
    examples: list[dict[str, Any]] = field(default_factory=list)


def inspected(
    source: str,
    registry: Registry,
    *,
    model: str | None = None,
    task: str | None = None,
    split: str | None = None,
    options: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The facts, as JSON: files, rows, columns, lengths, labels, duplicates, dirt, examples, remarks, problem.

    options: what may stand under `data`. settings: of the task, which then must be named. problem: why a run would refuse it, None where
    it would not. Raises SlimPajamaError where it cannot be read.
    """
    from spcore.artifact import open_model
    from spcore.given import data_tree
    from spcore.recipe import data_part, part_options

    tree = {**data_tree(source, None, registry, None), **(options or {}), **({"split": split} if split else {})}
    part = data_part(tree, registry)
    _check(part, model, task, settings or {})
    dataset = registry.create("dataset", part.use, part_options(part, "dataset", registry))
    with read_errors():
        opened: Source = dataset.open((part.split or "").partition("[")[0] or None)
    if opened.length is None:
        raise DataError(f"{source}: a stream; inspect reads what has an end")
    language = open_model(model, registry) if model else None
    chosen = (task, settings or {}) if task else None
    reading = _reading(registry, chosen, dataset, opened, part, language)
    seen = _pass(reading)
    files = [dict(file) for file in opened.report.files] or [
        {"path": source, "format": part.use, "rows": opened.length}
    ]
    return {"source": source, "task": reading.name, "files": files, **_facts(reading, seen)}


def _check(part: DataPart, model: str | None, task: str | None, settings: Mapping[str, Any]) -> None:
    """Raise RecipeError for what would be ignored."""
    counted = [name for name in ("max_length", "stride", "pack") if getattr(part, name) is not None]
    if counted and model is None:
        raise RecipeError(f"data.{counted[0]}: counts a model's tokens, and no model is given; give one (--model)")
    if settings and task is None:
        raise RecipeError(f"task.{next(iter(settings))}: of which task? Name it (--task)")


def _reading(
    registry: Registry,
    asked: tuple[str, Mapping[str, Any]] | None,
    dataset: Dataset,
    opened: Source,
    part: DataPart,
    language: LanguageModel | None,
) -> _Reading:
    """The rows as the task asked for would read them, or the task that the data set is known for, or the one that its columns suit best.
    asked: a task's name, and its settings."""
    processor = language.processor if language else Characters()

    def view(task: Task | None, targets: bool = True) -> RoleSource:
        return open_rows(
            dataset, task.roles if task else (), columns=part.columns if task else {}, split=part.split, limit=part.limit,
            targets=targets, known=opened,
        )  # fmt: skip

    known, settings = asked or (opened.schema.default_task, {})
    tasks = {name: _task(registry, name, opened, settings) for name in ([known] if known else registry.names("task"))}
    name, problem = _suited(tasks, opened, part, sure=known is not None)
    if name is None:
        for other, task in sorted(tasks.items(), key=lambda item: not any(r.kind == "label" for r in item[1].roles)):
            try:  # its texts at least
                return _Reading(view(task, targets=False), known and other, None, processor, problem)
            except (DataError, RecipeError):
                continue
        return _Reading(view(None), None, None, processor, problem)
    task = tasks[name]
    try:
        reading = _Reading(view(task), name, None, processor)
    except DataError as error:
        return _Reading(view(None), None, None, processor, str(error))
    if language is None and not any(role.target for role in task.roles):
        return reading  # all that such a task may lack is the model's
    try:
        most = (
            processor.max_length if language else sys.maxsize
        )  # characters are no tokens: windows of so many would tell nothing
        config, limits = language.config if language else None, limited(part, most, task)
        reading.bound = task.bind(processor, config, reading.rows.schema, limits)
    except SlimPajamaError as error:
        reading.problem = str(error)
    return reading


def _suited(tasks: Mapping[str, Task], opened: Source, part: DataPart, *, sure: bool) -> tuple[str | None, str | None]:
    """The task that the columns suit best, and where none has its columns why the simplest that learns labels has not. sure: it is known
    that they suit."""
    best, most, lacking = None, 0.0, []
    for name, task in tasks.items():
        try:
            source, given = gathered(opened, task.roles, part.columns)
            columns = map_roles(source.schema, task.roles, given, report=opened.report)
        except (DataError, RecipeError) as error:
            labelled = any(role.kind == "label" for role in task.roles)
            lacking.append((not labelled, sum(role.required for role in task.roles), name, str(error)))
            continue
        told = {**source.schema.column_map, **part.columns}
        held = Schema({role: source.schema.columns[column] for role, column in columns.items()})
        suits = task.suits(held, {role: role if role in told else column for role, column in columns.items()})
        if sure or suits > most:
            best, most = name, suits
    return best, min(lacking)[-1] if lacking and best is None else None


def _task(registry: Registry, name: str, opened: Source, settings: Mapping[str, Any]) -> Task:
    """A task with these settings, and what the data set advises where they say nothing. Raises RecipeError, ComponentError."""
    options = registry.options_model("task", name)
    advice = {k: v for k, v in opened.schema.task_options.items() if options and k in options.model_fields}
    return task_with(registry, name, {**advice, **settings})


def _pass(reading: _Reading) -> _Seen:
    """One pass over all rows."""
    rows, seen = reading.rows, _Seen()
    assert rows.length is not None
    for start in range(0, rows.length, _CHUNK):
        ids = range(start, min(start + _CHUNK, rows.length))
        whole = rows.source.read([rows.row_number(i) for i in ids])
        for i, row in zip(ids, whole, strict=True):
            place = _short(rows.place(i))
            seen.missing.update(name for name, value in row.items() if is_missing(value))
            named = {role: row[column] for role, column in rows.columns.items()}
            _measure(reading, named, place, seen)
            _compare(row, named, place, seen)
            if len(seen.examples) < 3:
                seen.examples.append(_example(reading, row, named, place))
    return seen


def _example(reading: _Reading, row: Row, named: Row, place: str) -> dict[str, Any]:
    """A row, its long values cut, and where there is a model what that is given of it."""
    found: dict[str, Any] = {"place": place, "row": {name: _cut(value) for name, value in row.items()}}
    if reading.bound is not None and not isinstance(reading.processor, Characters):
        try:
            features = reading.bound.featurize(named)
        except DataError:
            return found  # counted as dropped
        shown = features[:_SHOWN]
        found["rendered"] = [part for f in shown for part in rendered(reading.bound, reading.processor, f)]
        if len(features) > len(shown):
            found["more"] = len(features) - len(shown)
    return found


def _measure(reading: _Reading, row: Row, place: str, seen: _Seen) -> None:
    """The row's length, or why a run would drop it."""
    try:
        if reading.bound is not None:
            found = [(f.length, f.truncated) for f in reading.bound.featurize(row)]
        elif reading.tokenised:
            found = [(len(row["text"]), 0)]
        elif "text" in row:
            pair = text_of(row, "text_pair") if "text_pair" in row else None
            encoding = reading.processor.encode(text_of(row, "text"), pair, max_length=reading.processor.max_length)
            found = [(len(encoding.arrays["input_ids"]), encoding.truncated)]
        else:
            return
    except DataError as error:
        seen.dirt.setdefault(error.message, []).append(place)
        return
    seen.used += 1
    seen.lengths += [length + cut for length, cut in found]
    seen.truncated += any(cut for _, cut in found)


def _compare(row: Row, named: Row, place: str, seen: _Seen) -> None:
    """Whether the row, or its texts with another label, was there before."""
    key = _hash(row)
    if key in seen.rows:
        seen.twice.append(place)
    seen.rows.add(key)
    if "label" not in named or is_missing(named["label"]):
        return
    texts = _hash({role: value for role, value in named.items() if role != "label"})
    label = str(named["label"]).strip()
    if seen.texts.setdefault(texts, label) != label:
        seen.conflicts.append(place)


def _facts(reading: _Reading, seen: _Seen) -> dict[str, Any]:
    rows = reading.rows
    report = rows.report
    read_as = {column: role for role, column in rows.columns.items()}
    dirt = [*_dropped(report.dropped, [str(file["path"]) for file in report.files])]
    dirt += [{"what": what, "rows": len(places), "first": places[:_FIRST]} for what, places in seen.dirt.items()]
    label = rows.schema.columns.get("label")
    problem = reading.problem or (None if seen.used else "no usable row")
    return {
        "rows": {
            "read": (rows.length or 0) + sum(map(len, report.dropped.values())), "used": seen.used,
            "dropped": sum(d["rows"] for d in dirt), "truncated": seen.truncated,
        },
        "columns": {
            name: {
                "kind": column.kind, "different": None if column.counts is None else len(column.counts),
                "missing": seen.missing[name], "role": read_as.get(name),
            }
            for name, column in rows.source.schema.columns.items()
        },
        "lengths": _lengths(seen.lengths, reading),
        "labels": None if label is None or label.counts is None else _by_name(label.labels, label.counts),
        "label_names": list(reading.bound.head.labels) if reading.bound is not None else None,
        "duplicates": {
            "rows": len(seen.twice), "first": seen.twice[:_FIRST], "conflicts": len(seen.conflicts),
            "first_conflicts": seen.conflicts[:_FIRST],
        },
        "dirt": dirt, "examples": seen.examples, "remarks": [*report.remarks, *_nested(rows)], "problem": problem,
    }  # fmt: skip


def _nested(rows: RoleSource) -> list[str]:
    """What columns of lists of objects hold, by the first row that has some."""
    found = []
    lists = [name for name, column in rows.source.schema.columns.items() if column.kind == "list"]
    first = rows.source.read([rows.row_number(0)])[0] if lists and rows.length else {}
    for name in lists:
        held = first[name][0] if first[name] else None
        if isinstance(held, dict):
            what = "conversations, turns" if any(held.keys() >= keys for keys in _TURNS) else "lists"
            found.append(f"column {name!r} holds {what} of {', '.join(held)}")
    return found


def _dropped(dropped: Mapping[str, Sequence[int]], paths: Sequence[str]) -> list[dict[str, Any]]:
    """What the reader dropped. Of several files, a reason begins with the file's name."""
    found = []
    for reason, lines in dropped.items():
        name, _, rest = reason.partition(": ") if len(paths) > 1 else ("", "", "")
        what, where = (rest, name) if rest else (reason, _short(paths[0]) if paths else "line")
        found.append({"what": what, "rows": len(lines), "first": [f"{where}:{line}" for line in lines[:_FIRST]]})
    return found


def _by_name(names: Sequence[str] | None, counts: Mapping[str, int]) -> dict[str, int]:
    """Counts, the most frequent first; ids under the names that the data declares."""
    known = {str(n): name for n, name in enumerate(names or ())}
    held = {value: n for value, n in counts.items() if not is_missing(value)}
    return {known.get(value, value): n for value, n in sorted(held.items(), key=lambda item: (-item[1], item[0]))}


def _lengths(lengths: Sequence[int], reading: _Reading) -> dict[str, Any]:
    """Of the whole texts, before they are cut. histogram: from and to, both included, doubling."""
    processor = reading.processor
    characters = isinstance(processor, Characters) and not reading.tokenised
    found: dict[str, Any] = {"unit": "characters" if characters else "tokens", "histogram": []}
    if processor.max_length is not None:
        found["max_length"] = processor.max_length
    if not lengths:
        return found
    values = np.array(lengths)
    found.update(
        least=int(values.min()),
        median=int(np.median(values)),
        p95=int(np.percentile(values, 95)),
        most=int(values.max()),
    )
    low = 1
    while low <= found["most"]:
        high = 2 * low - 1
        rows = int(((values >= low) & (values <= high)).sum())
        if rows or found["histogram"]:
            found["histogram"].append({"from": low, "to": high, "rows": rows})
        low = high + 1
    return found


def _hash(row: Row) -> bytes:
    text = json.dumps(row, sort_keys=True, default=str, ensure_ascii=False)
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).digest()


def _cut(value: Any) -> Any:
    """A value for an example: long texts are cut, and so are lists and objects, which then are JSON."""
    if isinstance(value, list | dict):
        written = json.dumps(value, ensure_ascii=False, default=str)
        return value if len(written) <= _SHORT else written[:_SHORT] + "..."
    return value[:_SHORT] + "..." if isinstance(value, str) and len(value) > _SHORT else value


def _short(place: str) -> str:
    return place.rpartition("/")[2]
