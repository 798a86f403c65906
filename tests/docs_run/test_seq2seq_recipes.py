"""The recipes of translation, summaries and answers, for a few steps, over small files of the shapes that real sets have."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

import slimpajama
from objectives import language_tools

RECIPES = Path(__file__).resolve().parents[2] / "docs" / "recipes"
SMALL: dict[str, Any] = {
    "model.hidden_size": 16, "model.layers": 1, "model.heads": 2, "model.intermediate_size": 16, "model.tokenizer.vocabulary_size": 300,
}  # fmt: skip
STEPS: dict[str, Any] = {
    "train.epochs": None, "train.steps": 3, "train.global_batch_size": 4, "train.micro_batch_size": 2, "eval.every": 3, "task.generate.max_new_tokens": 5,
    "task.generate.beams": 2, "task.max_target_length": 24, "device": "cpu", "precision": "fp32",
}  # fmt: skip


@pytest.fixture
def multi30k(tmp_path: Path) -> Path:
    folder = tmp_path / "multi30k"
    folder.mkdir()
    for language, words in (("en", "a man rides"), ("de", "ein Mann fährt"), ("fr", "un homme roule")):
        for split, count in (("train", 12), ("val", 4)):
            lines = "".join(f"{words} {n}\n" for n in range(count))
            (folder / f"{split}.{language}.gz").write_bytes(gzip.compress(lines.encode()))
    return folder


def run(recipe: str, source: Path, output: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> dict[str, float]:
    """The figures of the last evaluation."""
    monkeypatch.setenv("SLIMPAJAMA_CACHE", str(output.parent / "cache"))
    given = {"data.source": str(source), "output": str(output), "loggers": [], **STEPS, **changes}
    done = slimpajama.run(RECIPES / f"{recipe}.yaml", given)
    assert done.steps == 3
    return dict(done.metrics)


def test_translation_from_nothing(multi30k: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = run("translation", multi30k, tmp_path / "run", monkeypatch, **SMALL)
    assert {"bleu", "chrf", "rougeL", "loss"} <= set(found)
    assert found["rows"] == 4
    model = slimpajama.load_model(tmp_path / "run", device="cpu")
    (answer,) = model.predict("a man rides 3")
    (written,) = model.generate("a man rides 3", beams=2, max_new_tokens=5)  # what a person types
    assert answer == {"text": written["text"], "finish": written["finish"]}
    scored = model.evaluate(
        {"use": "parallel", "source": str(multi30k), "languages": ["en", "de"], "split": "validation"}
    )
    assert scored.metrics["bleu"] == pytest.approx(found["bleu"])


@pytest.mark.slow
def test_pairs_of_languages(multi30k: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = run(
        "languages",
        multi30k,
        tmp_path / "run",
        monkeypatch,
        **SMALL,
        **{"eval.generate": 8, "eval.metric": "bleu/fr-en"},
    )
    assert {f"chrf/{pair}" for pair in ("en-de", "en-fr", "de-en", "fr-en")} <= set(found)
    assert found["rows"] == 16


@pytest.mark.slow
def test_summaries_with_several_references(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"source": ["w1 w2", f"w{n}"], "source_labels": [0, 1], "target": [f"w{n}", f"w2 w{n}"][: 1 + n % 2], "paper_id": f"p{n}"}
        for n in range(40)
    ]  # fmt: skip
    (tmp_path / "papers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = str(language_tools.folder_of("t5", tmp_path / "t5"))
    changes = {"model": model, "data.max_length": 32, "eval.generate": 3}
    found = run("summaries", tmp_path / "papers.jsonl", tmp_path / "run", monkeypatch, **changes)
    assert {"rouge1", "rougeLsum"} <= set(found)
    assert found["rows"] > 4  # a feature a reference


@pytest.mark.parametrize("kind", ["questions", pytest.param("instructions", marks=pytest.mark.slow)])
def test_answers_of_a_decoder(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of GSM8K's rows, which have no context, and of Alpaca's."""
    rows = [
        {"question": f"w{n}", "answer": f"w{n} w4"}
        if kind == "questions"
        else {"instruction": f"w{n}", "input": "" if n % 2 else "w3", "output": f"w{n} w4"}
        for n in range(40)
    ]
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = str(language_tools.folder_of("llama", tmp_path / "llama"))
    changes = {
        "model": model,
        "data.max_length": 32,
        "eval.generate": 2,
        "task.max_target_length": 8,
        "task.generate.beams": 1,
    }
    found = run("answers", tmp_path / "tasks.jsonl", tmp_path / "run", monkeypatch, **changes)
    assert 0 <= found["rougeL"] <= 100
    answers = slimpajama.load_model(tmp_path / "run", device="cpu").predict(source=["w5"], context=["w3"])
    assert set(answers[0]) == {"text", "finish"}
