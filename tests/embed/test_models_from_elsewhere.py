"""A classifier that was not trained here answers as transformers has it answer, before any fine-tuning."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import slimpajama
from embed import parts
from slimpajama import Component, Registry
from torch_backend import tiny_bert

NAMES = {"id2label": {0: "bad", 1: "fine", 2: "good"}, "label2id": {"bad": 0, "fine": 1, "good": 2}}
KINDS: dict[str, dict[str, Any]] = {
    "one label": NAMES,
    "one label, stated": {**NAMES, "problem_type": "single_label_classification"},
    "several labels": {**NAMES, "problem_type": "multi_label_classification"},
    "a number": {"num_labels": 1},
    "a number, stated": {"num_labels": 1, "problem_type": "regression"},
}


def logits(folder: Path) -> torch.Tensor:
    """What transformers' model gives for the texts."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    inputs = transformers.AutoTokenizer.from_pretrained(folder)(tiny_bert.TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        return model(**inputs).logits.double()


def expected(kind: str, found: torch.Tensor) -> list[dict[str, Any]]:
    if "number" in kind:
        return [{"score": row.item()} for row in found]
    names = list(NAMES["id2label"].values())
    if "several" in kind:
        shares = [dict(zip(names, row.sigmoid().tolist(), strict=True)) for row in found]
        return [{"labels": [n for n, share in row.items() if share > 0.5], "scores": row} for row in shares]
    return [{"label": names[int(row.argmax())], "score": row.softmax(-1).max().item()} for row in found]


def flat(answers: list[dict[str, Any]]) -> list[Any]:
    """Figures and names, in order."""
    found: list[Any] = []
    for answer in answers:
        for value in answer.values():
            found += value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_it_predicts_as_transformers_does(kind: str, tmp_path: Path) -> None:
    folder = tiny_bert.write(tmp_path / "model", **KINDS[kind])
    answers = slimpajama.load_model(folder).predict(tiny_bert.TEXTS)
    wanted = expected(kind, logits(folder))
    assert [a.keys() for a in answers] == [w.keys() for w in wanted]
    for ours, theirs in zip(flat(answers), flat(wanted), strict=True):
        assert ours == (pytest.approx(theirs, abs=1e-5) if isinstance(theirs, float) else theirs)


@pytest.mark.parametrize("labels", ["names", "numbers"])
def test_it_is_evaluated_on_its_own_labels(labels: str, tmp_path: Path) -> None:
    folder = tiny_bert.write(tmp_path / "model", **NAMES)
    best = logits(folder).argmax(-1).tolist()
    names = list(NAMES["id2label"].values())
    golds = [*best[:-1], (best[-1] + 1) % 3]
    rows = [
        {"text": text, "label": names[gold] if labels == "names" else gold}
        for text, gold in zip(tiny_bert.TEXTS, golds, strict=True)
    ]
    done = slimpajama.evaluate(folder, rows)
    assert done.metrics["accuracy"] == pytest.approx(1 - 1 / len(golds))
    assert [row["predicted"] for row in done.predictions] == [names[n] for n in best]


def test_it_learns_other_labels(tmp_path: Path) -> None:
    model = slimpajama.load_model(tiny_bert.write(tmp_path / "model", **NAMES))
    model.predict(tiny_bert.TEXTS)
    rows = [{"text": text, "label": "odd" if n % 2 else "even"} for n, text in enumerate(tiny_bert.TEXTS)]
    model.finetune(rows, "text-classification", epochs=1, progress=False)
    assert {answer["label"] for answer in model.predict(tiny_bert.TEXTS)} <= {"odd", "even"}


def test_what_has_no_head_has_no_task(tmp_path: Path) -> None:
    folder = tiny_bert.write(tmp_path / "model", transformers.BertModel)
    with pytest.raises(slimpajama.ArtifactError, match=r"has no task yet\. Fine-tune it first"):
        slimpajama.load_model(folder).predict("w1")
    with pytest.raises(slimpajama.ArtifactError, match="has no task yet"):
        slimpajama.load_model(folder).evaluate([{"text": "w1", "label": 1}])


def test_a_classifier_without_its_head_is_refused(tmp_path: Path) -> None:
    folder = tiny_bert.write(tmp_path / "model", **NAMES)
    file = folder / "model.safetensors"
    save_file({k: v for k, v in load_file(file).items() if not k.startswith("classifier")}, file, {"format": "pt"})
    with pytest.raises(slimpajama.ArtifactError, match=r"its weights lack classifier\.(weight|bias)"):
        slimpajama.load_model(folder).predict("w1")


def test_it_is_not_saved_as_ours(tmp_path: Path) -> None:
    folder = tiny_bert.write(tmp_path / "model", **NAMES)
    model = slimpajama.load_model(folder)
    model.predict("w1")
    with pytest.raises(slimpajama.ArtifactError, match="was not fine-tuned here"):
        model.save(tmp_path / "saved")


def test_a_plugin_s_task_is_asked_too_and_two_that_claim_a_model_are_named(tmp_path: Path) -> None:
    folder = tiny_bert.write(tmp_path / "model", transformers.BertModel, **NAMES)
    registry = Registry()
    registry.register(parts)
    needs = "spcore.testing.options:FakeOptions"  # not there: a task that is broken costs its own models only
    registry.add(Component("task", "particular", "embed.parts:Particular", "", options=needs), parts.Particular)
    found = slimpajama.load_model(folder, registry=registry)
    assert found.task()[1].head.labels == ("bad", "fine", "good")
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = ["BertForSequenceClassification"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(slimpajama.RefusalError, match=r"of several tasks: greedy, text-classification\. .*blocked="):
        slimpajama.load_model(folder, registry=registry).predict("w1")
