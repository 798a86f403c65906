"""A real encoder on real sentences under Megatron, and a real decoder, beside one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from exact.processes import measure
from exact.recipes import laid, minilm
from parity.warm import READY
from spcore.recipe import load_recipe
from spcore.running import execute
from tests.megatron.mega_models import smollm2_file
from tests.megatron.mega_recipes import registry


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("options", [{"tensor_parallel": 2}, {"pipeline_parallel": 2}])
def test_minilm_learns_what_one_process_learns(options: dict[str, Any], two: int) -> None:
    settings = {"steps": 6, "global_batch_size": 8}
    one = measure(laid(minilm(), "single", 1, **settings))
    both = READY[two].measure(laid(minilm(), {"use": "megatron", **options}, 2, **settings))
    for mine, theirs in zip(both["steps"], one["steps"], strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=5e-5)
        assert mine["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-5)
    assert both["metrics"]["accuracy"] == pytest.approx(one["metrics"]["accuracy"], abs=5e-4)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_smollm2_goes_on_learning_and_is_saved(tmp_path: Path) -> None:
    """Nine heads in three groups: two processes share its layers, six its heads and layers. What each saves opens in transformers."""
    parts, found = registry(), {}
    texts = {"source": "builtin/reviews", "split": "train[:6]", "max_length": 64, "pack": 64}
    tree = {
        "model": {"use": "transformers", "source": f"gguf:{smollm2_file()}", "dropout": 0.0}, "task": "causal-lm", "data": texts,
        "eval": {"data": {"split": "test[:2]"}}, "optimizer": {"use": "adamw", "lr": 1e-4, "eps": 1e-5},
    }  # fmt: skip
    for name, strategy, processes in (
        ("one", "single", 1),
        ("two", {"use": "megatron", "pipeline_parallel": 2}, 2),
        ("six", {"use": "megatron", "tensor_parallel": 3, "pipeline_parallel": 2}, 6),
    ):
        output = tmp_path / name
        whole = laid(tree, strategy, processes, steps=3, global_batch_size=2, micro_batch_size=1)
        result = execute(load_recipe({**whole, "output": str(output)}, {}, registry=parts), parts)
        model = AutoModelForCausalLM.from_pretrained(output, dtype=torch.float32).eval()
        ids = torch.tensor([[504, 3575, 282, 4649, 314]])
        with torch.no_grad():
            logits = model(ids).logits
        text = model.generate(ids, max_new_tokens=8, do_sample=False)
        found[name] = (result.metrics["perplexity"], logits, text)
    for name in ("two", "six"):
        assert found[name][0] == pytest.approx(found["one"][0], rel=1e-5)
        # Three steps of Adam on float32 sums that were taken in another order.
        torch.testing.assert_close(found[name][1], found["one"][1], rtol=1e-3, atol=1e-3)
        assert torch.equal(found[name][2], found["one"][2])
