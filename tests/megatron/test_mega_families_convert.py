"""A saved model becomes a checkpoint that Megatron starts from: its weights, and an optimizer that begins anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from exact.recipes import laid
from spcore.converting import to_checkpoint
from spcore.recipe import load_recipe
from spcore.running import execute
from tests.megatron.mega_recipes import registry
from tests.megatron.test_mega_checkpoints import losses, run, tree_of


def test_a_model_becomes_a_checkpoint(tmp_path: Path, two: int) -> None:
    parts, tree = registry(), tree_of("gpt2", tmp_path, dropout=0.0)
    first = {**laid(tree, "single", 1, steps=2), "output": str(tmp_path / "first")}
    execute(load_recipe(first, {}, registry=parts), parts)
    made = to_checkpoint(tmp_path / "first", tmp_path / "run" / "checkpoints", parts)
    assert made["folder"] == str(tmp_path / "run/checkpoints/step-00000000")
    found = run(tree, "tp2", tmp_path / "run", two, 0, steps=3)
    again = {**tree, "model": {"use": "transformers", "source": str(tmp_path / "first"), "dropout": 0.0}}
    wanted = run(again, "single", tmp_path / "wanted", two, 0, steps=3)
    assert losses(found) == pytest.approx(losses(wanted), rel=1e-6)
