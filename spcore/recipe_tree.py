"""A recipe before it is checked: a tree of dicts, lists and scalars, its short forms written out, one laid over another."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spcore.errors import RecipeError
from spcore.recipe_files import Places
from spcore.recipe_syntax import KeyPath, dotted

if TYPE_CHECKING:
    from spcore.components import Registry

PART_KEYS = {
    "model": "model", "task": "task", "data": "dataset", "strategy": "strategy", "precision": "precision",
    "optimizer": "optimizer", "schedule": "schedule", "adapter": "adapter", "launch": "launcher",
}  # fmt: skip
"""Key of a recipe -> kind of the component that stands there."""
SOURCED = ("model", "dataset")
"""Kinds of which a recipe may name a source in place of a component."""
DEEPEST = 64


def plain(value: Any, places: Places, path: KeyPath = ()) -> Any:
    """A setting as dicts, lists and scalars; paths as text. Raises RecipeError for what no file could hold."""
    if len(path) > DEEPEST:
        raise RecipeError(f"{places.at(path)}{dotted(path[:3])}...: nested more than {DEEPEST} deep")
    if isinstance(value, Mapping):
        return {str(k): plain(v, places, (*path, str(k))) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v, places, (*path, n)) for n, v in enumerate(value)]
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str | Path):
        return str(value)
    if isinstance(value, numbers.Integral) and abs(int(value)) < 2**1023:
        return int(value)
    if isinstance(value, numbers.Real) and not isinstance(value, numbers.Integral) and math.isfinite(value):
        return float(value)
    if isinstance(value, numbers.Real):
        raise RecipeError(
            f"{places.at(path)}{dotted(path)}: found {value if isinstance(value, float) else 'a huge number'}, expected: a finite number"
        )
    hint = "; put it into quotes" if hasattr(value, "isoformat") else ""
    raise RecipeError(
        f"{places.at(path)}{dotted(path)}: found {value!s:.60} ({type(value).__name__}), expected: text, a number, true, false, "
        f"null, a list or a mapping{hint}"
    )


def in_full(tree: dict[str, Any], registry: Registry) -> dict[str, Any]:
    """A recipe whose parts are mappings: `optimizer: adamw` is `{use: adamw}`, and `data: a.csv` a source."""

    def full(part: Any, kind: str) -> Any:
        named = isinstance(part, int | float) and not isinstance(part, bool) and registry.has(kind, str(part))
        if named or (isinstance(part, str) and (kind not in SOURCED or registry.has(kind, part))):
            return {"use": str(part)}
        return {"source": part} if isinstance(part, str) else part

    def data(part: Any) -> Any:
        part = full(part, "dataset")
        if not (isinstance(part, Mapping) and isinstance(part.get("sources"), Mapping)):
            return part
        return {**part, "sources": {name: full(one, "dataset") for name, one in part["sources"].items()}}

    tree = {
        key: data(value) if key == "data" else full(value, PART_KEYS[key]) if key in PART_KEYS else value
        for key, value in tree.items()
    }
    if isinstance(tree.get("eval"), Mapping) and "data" in tree["eval"]:
        tree["eval"] = {**tree["eval"], "data": data(tree["eval"]["data"])}
    if (loggers := tree.get("loggers")) is not None:
        tree["loggers"] = [full(part, "logger") for part in (loggers if isinstance(loggers, list) else [loggers])]
    return tree


def overlay(below: Any, above: Any, path: KeyPath = ()) -> Any:
    """`above` over `below`. A mapping with another `use` replaces the part whole: the old one's options are not the new one's.
    A mapping over a list changes its entries by number."""
    if not isinstance(above, Mapping):
        return above
    if isinstance(below, list) and "use" not in above:
        changed = list(below)
        for key, value in above.items():
            if not (str(key).isdecimal() and int(key) < len(below)):
                there = f"entries 0 to {len(below) - 1}" if below else "no entries"
                raise RecipeError(f"{dotted((*path, key))}: found {key!r}, expected: a number, the list has {there}")
            changed[int(key)] = overlay(changed[int(key)], value, (*path, key))
        return changed
    if not isinstance(below, Mapping) or above.get("use", below.get("use")) != below.get("use"):
        return above
    return {**below, **{k: overlay(below[k], v, (*path, k)) if k in below else v for k, v in above.items()}}


def nested(keys: Sequence[str], value: Any) -> Any:
    """A tree of nothing but a value at a path."""
    for key in reversed(keys):
        value = {key: value}
    return value


def inside(tree: Any, path: KeyPath) -> Any:
    """What lies at a path of a tree, None where nothing does."""
    for key in path:
        if isinstance(tree, Mapping):
            tree = tree.get(key)
        else:
            tree = tree[key] if isinstance(tree, list) and isinstance(key, int) and key < len(tree) else None
    return tree
