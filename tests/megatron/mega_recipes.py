"""Recipes that layouts of Megatron are compared on: those of docs/recipes/parity, and classifiers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import parity.warm
from exact.processes import registry_of

RECIPES = Path(__file__).resolve().parents[2] / "docs" / "recipes" / "parity"
MEGATRON = "strategy=megatron"


def registry() -> Any:
    found = registry_of()
    found.register(parity.warm, name="warm")
    return found


def recipe(name: str) -> str | dict[str, Any]:
    """One of docs/recipes/parity, or "TASK on ARCHITECTURE"."""
    task, _, architecture = name.partition(" on ")
    if not architecture:
        return str(RECIPES / f"{name}.yaml")
    sizes = {"hidden_size": 32, "layers": 4, "heads": 4, "intermediate_size": 48, "positions": 48}
    if task == "weather":  # which brings sentences of its own
        data: dict[str, Any] = {"data": "weather", "eval": {"data": {"use": "weather"}}}
    else:
        shown = {"source": "builtin/reviews", "split": "train[:9]", "max_length": 32}
        data = {"data": shown, "eval": {"data": {"split": "test[:5]"}}}
    return {
        **data,
        "model": {"use": "transformers", "architecture": architecture, "tokenizer": "bytes", **sizes},
        "task": task,
        "optimizer": {"use": "adamw", "lr": 1e-3},
        "train": {"steps": 5, "global_batch_size": 11, "micro_batch_size": 2, "clip_norm": 0.5},
        "device": "cpu",
    }
