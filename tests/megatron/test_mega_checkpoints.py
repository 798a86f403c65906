"""Going on from a checkpoint of Megatron's: to the bit on the same layout, dropout on; at another layout, and under another strategy, with
the losses of a run that was never stopped."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from exact.processes import measure
from exact.recipes import laid, language
from parity.warm import READY
from spcore.converting import to_hugging_face
from spcore.recipe import load_recipe
from spcore.running import execute
from support.stored import content
from tests.megatron.mega_recipes import registry

MEGATRON = {
    "tp2-pp2": {"tensor_parallel": 2, "pipeline_parallel": 2}, "dp2": {}, "tp4": {"tensor_parallel": 4}, "tp2": {"tensor_parallel": 2},
    "dp2-distributed": {"distributed_optimizer": True}, "pp2": {"pipeline_parallel": 2}, "pp2-vpp2": {"pipeline_parallel": 2, "virtual_pipeline": 2},
    "tp2-sp": {"tensor_parallel": 2, "sequence_parallel": True}, "cp2": {"context_parallel": 2},
    "dp2-tp2-distributed": {"tensor_parallel": 2, "distributed_optimizer": True},
    "dp2-ep2": {"expert_parallel": 2}, "dp2-tp2-ep2": {"tensor_parallel": 2, "sequence_parallel": True, "expert_parallel": 2, "distributed_optimizer": True},
}  # fmt: skip


def tree_of(kind: str, folder: Path, **model: Any) -> dict[str, Any]:
    """A tiny Llama, or another, on texts: 72 rows in steps of 20, so that checkpoints are amid an epoch."""
    tree = language("denoising" if kind == "t5" else "causal-lm", folder)
    tree["data"] = {**tree["data"], "limit": 72}
    if kind not in ("llama", "t5"):
        sizes = {"hidden_size": 32, "layers": 2, "heads": 4, "positions": 64}
        tree["model"] = {"use": "transformers", "architecture": kind, "tokenizer": "bytes", **sizes}
    tree["model"] = {**tree["model"], **model}
    return tree


def run(
    tree: dict[str, Any], layout: str, output: Path, two: int, four: int, *, steps: int, every: int = 3
) -> dict[str, Any]:
    """Figures of a run, which goes on where its folder has a checkpoint."""
    del two, four  # they stand for processes that are there
    size = 1 if layout == "single" else 4 if layout in ("tp2-pp2", "tp4", "dp2-tp2-distributed", "dp2-tp2-ep2") else 2
    strategy = {"use": "megatron", **MEGATRON[layout]} if layout in MEGATRON else layout
    train = {"global_batch_size": 20, "micro_batch_size": 4, "save_every": every, "keep": 9, "steps": steps}
    whole = {**laid(tree, strategy, size, **train), "output": str(output)}
    return measure(whole) if size == 1 else READY[size].measure(whole)


def resumed(before: Path, after: Path, step: int) -> None:
    """What a run left that was killed after a step."""
    name = f"checkpoints/step-{step:08d}"
    shutil.copytree(before / name, after / name)


def losses(found: dict[str, Any]) -> list[float]:
    return [step["loss"] for step in found["steps"]]


@pytest.mark.parametrize(
    ("layout", "precision"),
    [
        ("tp2", "fp32"), ("dp2-distributed", "bf16"), pytest.param("tp2", "fp16", marks=pytest.mark.slow), pytest.param("tp2-pp2", "fp32", marks=pytest.mark.slow),
        pytest.param("tp2-sp", "bf16", marks=pytest.mark.slow), pytest.param("pp2-vpp2", "fp32", marks=pytest.mark.slow),
        pytest.param("dp2-tp2-distributed", "bf16", marks=pytest.mark.slow), pytest.param("cp2", "fp32", marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_to_the_bit(layout: str, precision: str, tmp_path: Path, two: int, four: int) -> None:
    tree = {**tree_of("llama" if layout != "pp2-vpp2" else "gpt2", tmp_path, dropout=0.1), "precision": precision}
    if layout == "pp2-vpp2":
        tree["model"]["layers"] = 4
    whole = run(tree, layout, tmp_path / "whole", two, four, steps=6)
    resumed(tmp_path / "whole", tmp_path / "again", 3)
    again = run(tree, layout, tmp_path / "again", two, four, steps=6)
    assert again["steps"] == whole["steps"][3:]
    assert again["metrics"] == whole["metrics"]
    files = sorted(p.name for p in (tmp_path / "whole/checkpoints/step-00000006").glob("*.safetensors"))
    assert len(files) == (4 if layout in ("tp2-pp2", "dp2-tp2-distributed") else 2), "each rank writes"
    for name in files:
        ours, theirs = (content(tmp_path / which / "checkpoints/step-00000006" / name) for which in ("again", "whole"))
        assert ours == theirs, f"{name}: model, optimizer, generators"


def test_stopped_at_one_layout_and_gone_on_at_others(tmp_path: Path, two: int, four: int) -> None:
    """Tensor and pipeline parallel, then data parallel with the optimizer spread, then tensor parallel over four, where two groups of queries
    share a head of keys. 1e-6: another order of sums."""
    tree = tree_of("llama", tmp_path)
    whole = run(tree, "tp2-pp2", tmp_path / "whole", two, four, steps=11)
    resumed(tmp_path / "whole", tmp_path / "second", 3)
    second = run(tree, "dp2-distributed", tmp_path / "second", two, four, steps=11)
    resumed(tmp_path / "second", tmp_path / "third", 6)
    third = run(tree, "tp4", tmp_path / "third", two, four, steps=11)
    for found, first in ((second, 3), (third, 6)):
        assert found["rows"] == whole["rows"], "every row once"
        assert len(found["steps"]) == 11 - first
        assert losses(found)[:5] == pytest.approx(losses(whole)[first : first + 5], rel=1e-6)
    norms = [step["grad_norm"] for step in third["steps"]]
    assert norms == pytest.approx([step["grad_norm"] for step in whole["steps"][6:]], rel=1e-5)


@pytest.mark.parametrize(
    ("kind", "before", "after"),
    [
        ("llama", "single", "tp2"), ("gpt2", "pp2", "single"), pytest.param("gpt2", "tp2", "dp2-distributed", marks=pytest.mark.slow),
        pytest.param("gpt2", "single", "dp2-distributed", marks=pytest.mark.slow), pytest.param("gpt2", "dp2", "tp2-pp2", marks=pytest.mark.slow),
        pytest.param("mixtral", "dp2-ep2", "single", marks=pytest.mark.slow), pytest.param("mixtral", "dp2-tp2-ep2", "dp2-ep2", marks=pytest.mark.slow),
        pytest.param("t5", "tp2", "dp2-distributed", marks=pytest.mark.slow), pytest.param("llama", "dp2-tp2-distributed", "ddp", marks=pytest.mark.slow), pytest.param("gpt2", "tp4", "fsdp", marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_under_another_strategy_too(kind: str, before: str, after: str, tmp_path: Path, two: int, four: int) -> None:
    """One format: what another engine began goes on here, and the other way round. GPT-2's head is tied to its embeddings."""
    tree = tree_of(kind, tmp_path, **({"dropout": 0.0} if kind == "gpt2" else {}))
    whole = run(tree, before, tmp_path / "whole", two, four, steps=8)
    resumed(tmp_path / "whole", tmp_path / "again", 3)
    again = run(tree, after, tmp_path / "again", two, four, steps=8)
    assert losses(again) == pytest.approx(losses(whole)[3:], rel=1e-6)


def test_a_checkpoint_becomes_a_model(tmp_path: Path, two: int, four: int) -> None:
    """Of any saved step; of the last one it is what the run saved, to the bit, and nothing there is a pickle."""
    parts = registry()
    tree = laid(tree_of("llama", tmp_path), {"use": "megatron", **MEGATRON["tp2-pp2"]}, 4, steps=4, save_every=2)
    tree |= {"launch": {"use": "warm", "processes": 4}, "output": str(tmp_path / "run")}
    execute(load_recipe(tree, {}, registry=parts), parts)
    made = to_hugging_face(tmp_path / "run", tmp_path / "hf", parts)
    assert made["step"] == 4
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("hf", "run"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    earlier = tmp_path / "run/checkpoints/step-00000002"
    to_hugging_face(earlier, tmp_path / "earlier", parts)
    assert not torch.equal(load_file(tmp_path / "earlier/model.safetensors")["lm_head.weight"], ours["lm_head.weight"])
    assert {p.suffix for p in earlier.iterdir()} == {".safetensors", ".json"}
    stored = json.loads((earlier / "manifest.json").read_text())["files"]
    assert len([name for name in stored if name.startswith("data-")]) == 4
