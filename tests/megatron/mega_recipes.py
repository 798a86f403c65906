"""Recipes that layouts of Megatron are compared on: those of docs/recipes/parity, and classifiers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

import parity.warm
from exact.processes import registry_of

RECIPES = Path(__file__).resolve().parents[2] / "docs" / "recipes" / "parity"
MEGATRON = "strategy=megatron"


def registry() -> Any:
    found = registry_of()
    found.register(parity.warm, name="warm")
    return found


def recipe(name: str) -> str | dict[str, Any]:
    """One of docs/recipes/parity, or "TASK on ARCHITECTURE": a tiny one on the task's rows there, else on texts."""
    task, _, architecture = name.partition(" on ")
    file = RECIPES / f"{task}.yaml"
    if not architecture:
        return str(file)
    model: dict[str, Any] = {
        "use": "transformers", "architecture": architecture, "tokenizer": "bytes", "hidden_size": 32, "layers": 4, "heads": 4,
        "intermediate_size": 48, "config": _CONFIGS.get(architecture, {}), **({} if architecture == "t5" else {"positions": 64}),
    }  # fmt: skip
    if file.exists():
        tree: dict[str, Any] = yaml.safe_load(file.read_text())
        tree["model"] = model
        if task in ("multiple-choice", "sentence-embedding"):
            # First tokens of an encoder that starts as small as BERT does are alike, and gradients what rounding leaves of differences.
            # Those of biases of keys are nothing but rounding, of which Adam would make whole steps.
            wide = {"initializer_range": 0.06} if architecture in ("bert", "roberta") else {}
            model["config"] = {**model["config"], **wide}
            tree["optimizer"]["eps"] = 1e-3
        if task == "seq2seq" and architecture != "t5":
            tree["task"]["prompt"] = "{source} = "
        return tree
    if task == "weather":  # which brings sentences of its own
        data: dict[str, Any] = {"data": "weather", "eval": {"data": {"use": "weather"}}}
    else:
        shown = {"source": "builtin/reviews", "split": "train[:9]", "max_length": 32}
        data = {"data": shown, "eval": {"data": {"split": "test[:5]"}}}
    return {
        **data,
        "model": model,
        "task": task,
        "optimizer": {"use": "adamw", "lr": 1e-3},
        "train": {"steps": 5, "global_batch_size": 11, "micro_batch_size": 2, "clip_norm": 0.5},
        "device": "cpu",
    }


_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
_CONFIGS: dict[str, dict[str, Any]] = {
    "qwen2_moe": {**_EXPERTS, "shared_expert_intermediate_size": 40}, "qwen3_moe": _EXPERTS, "mixtral": {"num_local_experts": 4},
}  # fmt: skip
