"""What programs give, as a recipe: data sets by name, path, mapping or rows; texts by column."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from spcore.components import Registry
from spcore.errors import DataError, RecipeError, UserError, unknown
from spcore.interfaces.dataset import Row
from spcore.recipe_tree import nested, overlay

Data = str | Path | Mapping[str, Any] | Sequence[Row]
"""A data set: a name, a path, a mapping as under a recipe's `data`, or rows as dicts."""
Scratch = Callable[[], Path]
"""Makes a temporary folder."""


@contextlib.contextmanager
def scratch() -> Iterator[Scratch]:
    """Temporary folders that are gone when this is left."""
    with contextlib.ExitStack() as stack:
        yield lambda: Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slimpajama-")))


def recipe_tree(
    model: str | Mapping[str, Any], dataset: Data, task: str | Mapping[str, Any] | None, *, eval_dataset: Data | None, registry: Registry, scratch: Scratch,
    epochs: float | None = None, batch_size: int | None = None, learning_rate: float | None = None, seed: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The recipe of a fine-tuning, not yet checked. A `task` that is no component is the data set's `name`."""
    component = task if not isinstance(task, str) or registry.has("task", task) else None
    name = task if component is None and isinstance(task, str) else None
    data = data_tree(dataset, name, registry, scratch)
    tree: dict[str, Any] = {"model": model, "data": data}
    if component is not None:
        tree["task"] = component
    train = {"epochs": epochs, "global_batch_size": batch_size, "seed": seed}
    tree["train"] = {k: v for k, v in train.items() if v is not None}
    if learning_rate is not None:
        tree["optimizer"] = {"lr": learning_rate}
    if eval_dataset is not None:
        tree["eval"] = {"data": data_tree(eval_dataset, name, registry, scratch)}
    return tree


def data_tree(dataset: Data, name: str | None, registry: Registry, scratch: Scratch | None) -> dict[str, Any]:
    """A data set as a recipe's mapping. Rows are spilled to a file, so that every process can read them."""
    if isinstance(dataset, str | Path):
        known = registry.has("dataset", str(dataset))
        tree: dict[str, Any] = {"use": str(dataset)} if known else {"source": str(dataset)}
    elif isinstance(dataset, Mapping):
        tree = dict(dataset)
    else:
        tree = {"source": str(_spilled(dataset, scratch))}
    if name is not None:
        component = tree.get("use") or registry.claiming("dataset", str(tree.get("source", ""))).name
        options = registry.options_model("dataset", component)
        if options is None or "name" not in options.model_fields:
            raise UserError(unknown("task", name, registry.names("task")))
        tree["name"] = name
    return tree


def started(processes: int, registry: Registry, what: str) -> dict[str, Any]:
    """The part `launch` for so many processes: of the launchers that take such a number the default, else the first by name. what: the
    flag that asks. Raises RecipeError."""
    defaults = registry.defaults("launcher")
    for name in sorted(registry.names("launcher"), key=lambda name: (name not in defaults, name)):
        if starts(name, processes, registry):
            return {"use": name, "processes": processes}
    raise RecipeError(f"{what} {processes}: no installed launcher starts so many")


def starts(launcher: str, processes: int, registry: Registry) -> bool:
    """Whether a launcher has an option `processes` that takes the number."""
    model = registry.options_model("launcher", launcher)
    if model is None or "processes" not in model.model_fields:
        return False
    try:
        model.model_validate({"processes": processes})
    except ValidationError:
        return False  # it starts another number
    return True


def parted(settings: Mapping[str, Any], kinds: tuple[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings by dotted path, as trees of each of two kinds: {"data.limit": 9} is {"limit": 9} of "data"."""
    found: dict[str, dict[str, Any]] = {kind: {} for kind in kinds}
    for path, value in settings.items():
        keys = path.split(".")
        if keys[0] not in found or len(keys) < 2 or not all(keys):
            raise UserError(f"evaluate: setting {path!r}, expected: {' or '.join(f'{kind}.KEY' for kind in kinds)}")
        found = overlay(found, nested(keys, value))
    return found[kinds[0]], found[kinds[1]]


def _spilled(rows: Sequence[Row], scratch: Scratch | None) -> Path:
    if not rows:
        raise DataError("dataset: an empty list of rows")
    assert scratch is not None, "rows as dicts come from programs, which give a place for them"
    path = scratch() / "rows.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for n, row in enumerate(rows):
            if not isinstance(row, Mapping):
                raise DataError(f"dataset: row {n} is {type(row).__name__}, expected a dict of column -> value")
            try:
                file.write(json.dumps(dict(row)) + "\n")  # ASCII: halves of surrogate pairs are no UTF-8
            except TypeError as error:
                raise DataError(f"dataset: row {n}: {error}") from error
    return path


def text_rows(given: Mapping[str, str | Sequence[str]], roles: Sequence[str]) -> list[Row]:
    """Columns of texts as rows."""
    for name in given:
        if name not in roles:
            raise UserError(f"predict: {unknown('column', name, roles)}")
        if isinstance(given[name], Mapping):
            raise UserError(
                f"predict: {name}: found a mapping, expected: texts. Give columns by name, {name}=..., or rows=[...]"
            )
    if not given:
        raise UserError(f"predict: no text given; columns: {', '.join(roles)}")
    columns = {name: [value] if isinstance(value, str) else list(value) for name, value in given.items()}
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise UserError(f"predict: columns of different lengths: {', '.join(f'{n} {k}' for n, k in lengths.items())}")
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
