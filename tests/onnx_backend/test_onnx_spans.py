"""A head of spans, exported: two outputs with a value a token, the same answers and figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from spcore.api import load_model
from transformers_plugin.tiny_models import save_tiny


def test_answers_and_figures_are_those_of_torch(tmp_path: Path) -> None:
    source = save_tiny(tmp_path / "theirs", "bert", "AutoModelForQuestionAnswering")
    folder = tmp_path / "ours"
    load_model(source).export("onnx", output=folder)
    context = "z y x w " * 30 + "a  b c"
    rows = [{"question": "a b", "context": context}, {"question": "q", "context": "ß 中 🙂 z"}]
    eager, ours = load_model(folder), load_model(folder, runtime="onnx")
    for one, other in zip(eager.predict(rows=rows), ours.predict(rows=rows), strict=True):
        assert (one["text"], one["start"], one["end"]) == (other["text"], other["start"], other["end"])
        assert one["score"] == pytest.approx(other["score"], abs=1e-5)
    labelled = [{**row, "answers": {"text": [text], "answer_start": [row["context"].index(text)]}} for row, text in zip(rows, ("w z", "中"), strict=True)]  # fmt: skip
    figures = [model.evaluate(labelled, stride=6, settings={"task.no_answer": True}).metrics for model in (eager, ours)]
    assert figures[0] == pytest.approx(figures[1], abs=1e-4)
    assert figures[0]["rows"] == 2
