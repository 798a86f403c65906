"""Runs of fakes: no model, a few milliseconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from spcore.components import Registry
from spcore.recipe import Recipe, load_recipe
from spcore.testing import plugin


def registry_of_fakes() -> Registry:
    """A registry of the fakes alone."""
    registry = Registry(entry_points=False)
    registry.register(plugin, name="fakes")
    return registry


def recipe(output: Path, **more: Any) -> dict[str, Any]:
    """Six steps with three checkpoints."""
    return {
        "model": {"use": "fake"}, "task": "fake-classification", "data": {"use": "fake", "rows": 20}, "strategy": "fake",
        "precision": "fake", "optimizer": "fake", "schedule": "fake", "launch": "fake", "loggers": [],
        "train": {"epochs": 2, "global_batch_size": 8, "save_every": 2}, "output": str(output),
        "eval": {"data": {"use": "fake", "rows": 10, "split": "validation"}}, **more,
    }  # fmt: skip


def made(tree: dict[str, Any], registry: Registry, **changes: Any) -> Recipe:
    """The recipe, checked; changes by dotted path, with "__" for the dots."""
    return load_recipe(tree, {name.replace("__", "."): value for name, value in changes.items()}, registry=registry)


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its name there."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
