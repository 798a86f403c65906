"""What docs/question-answering.md shows: its recipe and its commands, on a tiny model and small files of SQuAD's shape; its table of options."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

import slimpajama
from docs_run.docs_copy import copied
from objectives.language_tools import folder_of
from spcore.cli import main
from spcore_tasks.options import QuestionAnsweringOptions

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "question-answering.md").read_text(encoding="utf-8")
SMALL = ["data.max_length=24", "data.stride=6", "eval.data.split=train[80%:]", "data.split=train[:80%]", "train.epochs=null", "train.steps=4", "output=runs/reader", "device=cpu"]  # fmt: skip


def commands(start: str) -> list[list[str]]:
    """The page's command lines that begin so."""
    lines = [line for block in re.findall(r"^```bash\n(.*?)^```$", PAGE, re.M | re.S) for line in block.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith(f"slimpajama {start}")]


def run(line: list[str], patch: pytest.MonkeyPatch, ends: int = 0) -> None:
    patch.setattr(sys, "argv", ["slimpajama", *line])
    with pytest.raises(SystemExit) as ended:
        main()
    assert (ended.value.code or 0) == ends


def articles(none: bool) -> dict[str, Any]:
    """Contexts of thirty words w0 ... w59, each with a question that names the word before the answer. none: some have none."""
    paragraphs = []
    for n in range(20):
        words = [f"w{(7 * n + 11 * i) % 60}" for i in range(30)]
        context = " ".join(words)
        asked: dict[str, Any] = {"id": f"q{n}", "question": words[n], "answers": [{"text": words[n + 1], "answer_start": len(" ".join(words[: n + 1])) + 1}]}  # fmt: skip
        if none:
            asked |= {"is_impossible": n % 4 == 0, **({"answers": []} if n % 4 == 0 else {})}
        paragraphs.append({"context": context, "qas": [asked]})
    return {"version": "made", "data": [{"title": "words", "paragraphs": paragraphs}]}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reader")
    for version, none in (("1.1", False), ("2.0", True)):
        for split in ("train", "dev"):
            (folder / f"{split}-v{version}.json").write_text(json.dumps(articles(none)))
    folder_of("bert", folder / "tiny")
    copied(folder)
    return folder


def test_the_table_is_of_the_options() -> None:
    table = re.findall(r"^\| `(\w+)` \| `", PAGE.partition("## Options")[2].partition("## Figures")[0], re.M)
    assert table == list(QuestionAnsweringOptions.model_fields)


def test_the_recipe_runs_and_its_model_answers(
    made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(made)
    (recipe,) = commands("run docs/recipes/question-answering.yaml")
    run([*recipe, *SMALL, "model=tiny"], monkeypatch)
    capsys.readouterr()
    evaluate = next(line for line in commands("evaluate") if "task.max_answer_length=20" in line)
    run([*evaluate, "--name", "dev", "--json"], monkeypatch)
    figures = json.loads(capsys.readouterr().out)
    assert figures["rows"] == 20
    assert figures["unreachable"] == 0
    assert 0 <= figures["exact_match"] <= figures["f1"] <= 100
    told = [json.loads(line) for line in Path("runs/reader/evaluations/dev/predictions.jsonl").read_text().splitlines()]
    assert [one["id"] for one in told] == [f"q{n}" for n in range(20)], "a line a question, of several windows each"
    assert 5 * sum(one["text"] in one["answers"] for one in told) == pytest.approx(figures["exact_match"])
    questions = [
        qa | paragraph for paragraph in articles(none=False)["data"][0]["paragraphs"] for qa in paragraph["qas"]
    ]
    model = slimpajama.load_model("runs/reader", device="cpu")
    asked_alone = model.predict(question=[q["question"] for q in questions], context=[q["context"] for q in questions])
    assert [one["start"] for one in told] == [answer["start"] for answer in asked_alone]
    asked = {"question": "w3", "context": " w1  w2 w3\nw4 "}
    run(["predict", "runs/reader", json.dumps(asked), "--json"], monkeypatch)
    (answer,) = json.loads(capsys.readouterr().out)
    assert answer["text"] == asked["context"][answer["start"] : answer["end"]]
    assert answer["text"].strip() == answer["text"] != ""


def test_no_answer_is_learnt_and_its_threshold_found(
    made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(made)
    settings = [word for pair in SMALL[:1] + SMALL[4:6] for word in ("--set", pair)]
    run(["finetune", "tiny", "--data", "train-v2.0.json", *settings, "--set", "device=cpu", "--output", "runs/none"], monkeypatch)  # fmt: skip
    capsys.readouterr()
    run(["evaluate", "runs/none", "--data", "dev-v2.0.json", "--json"], monkeypatch)
    first = json.loads(capsys.readouterr().out)
    found = first["best_f1_threshold"]
    run(["evaluate", "runs/none", "--data", "dev-v2.0.json", "--set", f"task.null_threshold={found - 1e-4}", "--json"], monkeypatch)  # fmt: skip
    again = json.loads(capsys.readouterr().out)
    assert (again["best_f1"], again["best_f1_threshold"]) == (first["best_f1"], found)
    assert first["best_f1"] >= first["f1"]


def test_the_refusal_reads_as_shown(
    made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(made)
    (shown,) = re.findall(r"^error: (data\.stride .*)$", PAGE, re.M)
    settings = ["--set", "data.max_length=40", "--set", "data.stride=38"]
    run(["finetune", "tiny", "--data", "train-v1.1.json", *settings, "--output", "runs/no"], monkeypatch, ends=2)
    said = capsys.readouterr().err.strip().splitlines()
    expected = shown.replace("382", "38").replace("384", "40").replace("380", "36")
    assert said[-1].endswith(expected), said
    assert not (made / "runs/no").exists()
