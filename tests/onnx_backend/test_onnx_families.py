from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import transformers
from exported import CUSTOM, export, runner, save

from spcore.artifact import Artifact, open_artifact
from spcore.components import default_registry
from tensors.tensor_fakes import Weighted
from transformers_plugin.tiny_models import FAMILIES, opened, padded, save_tiny, texts

ATTENTION = {name: 0 if name == "deberta-v2" else 2 for name in FAMILIES}
"""Blocks that become one node: DeBERTa's relative attention has no operator of its own."""


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_that_of_transformers(family: str, tmp_path: Path) -> None:
    artifact = open_artifact(save(tmp_path / "model", family), default_registry())
    report = export(artifact)
    fused = report.details["fused"]
    assert (fused.get("MultiHeadAttention", 0), fused["attention blocks"]) == (ATTENTION[family], 2)
    onnx.checker.check_model(tmp_path / "model" / "onnx" / "model.onnx", full_check=family == "deberta-v2")
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").eval()
    batch = padded(texts(lengths=(9, 21, 3, 14, 1, 21)), theirs.config.pad_token_id)
    with torch.inference_mode():
        expected = theirs(**batch).logits.numpy()
    found = runner(artifact).run(
        {**{k: v.numpy() for k, v in batch.items()}, "token_type_ids": 0 * batch["input_ids"].numpy()}
    )
    np.testing.assert_allclose(found["logits"], expected, atol=1e-4)
    cases = report.details["files"]["float32"]["check"]["cases"]
    assert {(c["batch"], c["length"], c["padded"]) for c in cases} == {
        (b, n, p) for b in (1, 7) for n in (1, 17, 40) for p in (False, True) if n > 1 or not p
    }


@pytest.mark.parametrize(
    "family", ["bert", *(pytest.param(family, marks=pytest.mark.slow) for family in ("modernbert", "deberta-v2"))]
)
def test_a_strangers_head(family: str, tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model", family)
    task = Weighted()
    task.head = CUSTOM
    model = opened(folder)
    artifact = Artifact(folder, model, {"format": 1, "limits": {"max_length": 40}})
    with_head(folder, model)
    report = export(artifact, task)
    graph = onnx.load(folder / "onnx" / "model.onnx", load_external_data=False).graph
    assert [value.name for value in graph.output] == ["verdict", "tags"]
    assert report.files == ("onnx/model.onnx",)


def with_head(folder: Path, model: object) -> None:
    """Write the head's weights beside the backbone's, as a run does."""
    from safetensors.torch import load_file, save_file

    from transformers_plugin.tiny_models import made

    tensors = load_file(folder / "model.safetensors")
    module = made(model, CUSTOM)  # type: ignore[arg-type]
    tensors |= {name: value.contiguous() for name, value in module.state_dict().items() if name.startswith("head.")}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("problem", ["several", "regression"])
def test_other_problems_and_pairs(problem: str, tmp_path: Path) -> None:
    from spcore.api import load_model

    folder = save(tmp_path / "model", problem=problem)
    load_model(folder).export("onnx")
    rows = [{"text": "a b c", "text_pair": "d e"}, {"text": "f"}, {"text": "q" + " q" * 60}, {"text": "z ß 中 🙂"}]
    eager, ours = load_model(folder).predict(rows=rows), load_model(folder, runtime="onnx").predict(rows=rows)
    for one, other in zip(eager, ours, strict=True):
        assert one.keys() == other.keys()
        theirs, found = one.get("scores", one.get("score")), other.get("scores", other.get("score"))
        assert found == pytest.approx(theirs, abs=1e-5)
