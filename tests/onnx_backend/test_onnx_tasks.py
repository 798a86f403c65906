"""Every task exported, by the recipes that layouts are compared on: the export's own checks pass, answers and figures are those of torch; those
that write a text are refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

import slimpajama
from spcore.components import default_registry
from spcore.errors import RefusalError

RECIPES = Path(__file__).resolve().parents[2] / "docs" / "recipes" / "parity"
WRITERS = {"gpt2": "gpt2", "llama": "llama", "seq2seq": "bart", "t5": "t5"}
"""Recipe -> the family that writes token by token under its task."""
ASKED: dict[str, dict[str, Any]] = {
    "bert": {"text": "a <mask> film"},
    "multiple-choice": {"context": "it snowed", "choices": ["roads were white", "roads were black", "he ran"]},
    "question-answering": {"question": "who?", "context": "Late in the night a stranger came to the door, and nobody knew who it was."},
    "sentence-embedding": {"text": "a cat"},
    "sentence-pair": {"text": "a cat", "text_pair": "two cats"},
    "text-classification": {"text": "a fine film"},
    "token-classification": {"tokens": ["a", "long", "way", "from", "New", "York", "said", "Ann", "Lee"]},
}  # fmt: skip
QUICK = {"multiple-choice"}


def tree(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((RECIPES / f"{name}.yaml").read_text(encoding="utf-8"))
    return found


def trained(name: str, folder: Path) -> Path:
    """After a step; of what an encoder can learn, an encoder."""
    changes = {"output": str(folder), "train.steps": 1, "eval.data": None, "loggers": []}
    slimpajama.run(RECIPES / f"{name}.yaml", changes if name in WRITERS else {**changes, "model.architecture": "bert"})
    return folder


def test_no_task_is_left_out() -> None:
    tasks = [tree(name)["task"] for name in (*WRITERS, *ASKED)]
    named = {task if isinstance(task, str) else task["use"] for task in tasks}
    assert named == set(default_registry().names("task"))
    assert {*WRITERS, *ASKED} == {file.stem for file in RECIPES.glob("*.yaml")}


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in ASKED])
def test_answers_and_figures_are_those_of_torch(name: str, tmp_path: Path) -> None:
    folder = trained(name, tmp_path / "run")
    report = slimpajama.load_model(folder, device="cpu").export("onnx")
    assert report.refusal is None
    models = [slimpajama.load_model(folder, runtime=runtime, device="cpu") for runtime in ("torch", "onnx")]
    eager, ours = (model.predict(rows=[ASKED[name]]) for model in models)
    assert alike(eager, ours), (eager, ours)
    data = tree(name)["eval"]["data"]
    figures = [
        model.evaluate(data if "rows" in data else {"source": "builtin/reviews", **data}).metrics for model in models
    ]
    assert figures[0] == pytest.approx(figures[1], rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("name", [n if n == "gpt2" else pytest.param(n, marks=pytest.mark.slow) for n in WRITERS])
def test_what_writes_is_refused(name: str, tmp_path: Path) -> None:
    model = slimpajama.load_model(trained(name, tmp_path / "run"), device="cpu")
    with pytest.raises(RefusalError, match=rf"family '{WRITERS[name]}' writes token by token under this task"):
        model.export("onnx")


def alike(one: Any, other: Any) -> bool:
    """Whether answers are the same, numbers to the tolerance that an export's check has."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(alike, one, other))
    return one == other if not isinstance(one, float) else other == pytest.approx(one, abs=1e-4)
