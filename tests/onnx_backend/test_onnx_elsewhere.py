"""Models from elsewhere exported, and exported models opened elsewhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import transformers
from exported import save

from spcore.api import load_model
from spcore.errors import ArtifactError, OutputError
from transformers_plugin.tiny_models import save_tiny

TEXTS = ["a b c", "z y x w", "q"]
pytestmark = pytest.mark.usefixtures("traced_once")


def test_a_model_trained_elsewhere_becomes_a_saved_one(tmp_path: Path) -> None:
    source = save_tiny(
        tmp_path / "theirs",
        "bert",
        "AutoModelForSequenceClassification",
        num_labels=3,
        id2label={0: "x", 1: "y", 2: "z"},
    )
    expected = load_model(source).predict(TEXTS)
    with pytest.raises(ArtifactError, match="Give output"):
        load_model(source).export("onnx")
    with pytest.raises(OutputError, match="not empty"):
        load_model(source).export("onnx", output=source)
    report = load_model(source).export("onnx", output=tmp_path / "ours")
    assert report.files == ("onnx/model.onnx",)
    for runtime in ("onnx", "torch"):
        found = load_model(tmp_path / "ours", runtime=runtime).predict(TEXTS)
        assert [a["label"] for a in found] == [a["label"] for a in expected]
        assert [a["score"] for a in found] == pytest.approx([a["score"] for a in expected], abs=1e-5)


def test_plain_onnxruntime_and_a_tokenizer_give_the_same(tmp_path: Path) -> None:
    folder = save(tmp_path / "model")
    load_model(folder).export("onnx")
    session = onnxruntime.InferenceSession(folder / "onnx" / "model.onnx", providers=["CPUExecutionProvider"])
    tokens = transformers.AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="np")
    (logits,) = session.run(
        ["logits"], {value.name: tokens[value.name].astype(np.int64) for value in session.get_inputs()}
    )
    theirs = transformers.pipeline("text-classification", model=str(folder))(TEXTS)
    shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    assert shares.max(-1) == pytest.approx([answer["score"] for answer in theirs], abs=1e-5)
