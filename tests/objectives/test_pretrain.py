"""`slimpajama pretrain` and `slimpajama.pretrain` as people use them: from nothing, further, then fine-tuned; small models of bytes."""

from __future__ import annotations

import json
import random
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

import slimpajama
from spcore.cli import main
from spcore.components import default_registry
from spcore.errors import RecipeError, RunCancelled
from spcore.recipe import load_recipe

SUBJECTS, VERBS = ("the cat", "a dog", "my horse", "our bird"), ("sees", "hears", "likes", "calls")
SIZES = {"hidden_size": 32, "layers": 2, "heads": 2, "intermediate_size": 64, "positions": 64}
SMALL = {"epochs": 1, "batch_size": 8, "learning_rate": 3e-3, "progress": False, "settings": {"data.max_length": 48}}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 texts, parted by blank lines."""
    rng = random.Random(0)
    texts = [
        " ".join(f"{rng.choice(SUBJECTS)} {rng.choice(VERBS)} {rng.choice(SUBJECTS)}." for _ in range(4))
        for _ in range(120)
    ]
    file = tmp_path_factory.mktemp("texts") / "animals.txt"
    file.write_text("\n\n".join(texts))
    return file


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[Any, str, str]:
    """The command in this process: exit code, stdout, stderr."""
    monkeypatch.setattr("sys.argv", ["slimpajama", *words])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code, *capsys.readouterr()


def test_from_nothing_by_the_command(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It learns, transformers opens what was saved, `evaluate` gives the run's figures, and it is trained further."""
    flags = [f"--set=model.{key}={value}" for key, value in SIZES.items()]
    held = ["--set=data.documents=blank-line", "--set=data.holdout=0.2"]
    code, out, err = run(
        monkeypatch, capsys, "pretrain", "--architecture", "llama", "--tokenizer", "bytes", *flags, "--task", "causal-lm",
        "--data", f"corpus:{corpus}", *held, "--split", "train", "--eval-split", "validation", "--max-length", "48", "--pack", "96",
        "--steps", "60", "--set", "train.global_batch_size=4", "--set", "optimizer.lr=0.01", "--output", str(tmp_path / "new"), "--json",
    )  # fmt: skip
    assert code == 0, err
    metrics = json.loads(out)
    assert metrics["nats_per_character"] == pytest.approx(metrics["loss"], rel=0.1), (
        "a byte a character, and the end tokens"
    )
    assert metrics["loss"] < 2.3, "the letters alone have 2.7 nats"
    code, out, _ = run(
        monkeypatch, capsys, "evaluate", str(tmp_path / "new"), "--data", f"corpus:{corpus}", "--set", "data.documents=blank-line",
        "--set", "data.holdout=0.2", "--split", "validation", "--json",
    )  # fmt: skip
    assert code == 0
    assert json.loads(out)["loss"] == pytest.approx(metrics["loss"], rel=1e-5)
    opened = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "new")
    assert opened.config.num_hidden_layers == 2
    code, out, err = run(
        monkeypatch, capsys, "pretrain", str(tmp_path / "new"), "--task", "causal-lm", "--data", f"corpus:{corpus}",
        "--set=data.documents=blank-line", "--steps", "2", "--output", str(tmp_path / "further"), "--json",
    )  # fmt: skip
    assert code == 0, err
    assert (tmp_path / "further" / "model.safetensors").is_file()


@pytest.mark.parametrize(("architecture", "task"), [("llama", "causal-lm"), ("bert", "masked-lm"), ("t5", "denoising")])
def test_in_python_with_bytes(corpus: Path, architecture: str, task: str) -> None:
    """`tokenizer: bytes` has the special tokens that each kind of family needs."""
    data = {"use": "corpus", "source": str(corpus), "documents": "blank-line"}
    model = {"architecture": architecture, "tokenizer": "bytes", **SIZES}
    if architecture == "t5":
        model.pop("positions")
    handle = slimpajama.pretrain(model, data, task, **SMALL)
    assert handle.evaluate(data).metrics["loss"] < 6.0, "of 256 bytes and special tokens, each as likely: 5.6 at first"
    assert handle.task()[1].state() is not None


def test_an_encoder_is_then_fine_tuned(corpus: Path, tmp_path: Path) -> None:
    data = {"use": "corpus", "source": str(corpus), "documents": "blank-line"}
    slimpajama.pretrain(
        {"architecture": "bert", "tokenizer": "bytes", **SIZES}, data, "masked-lm", output=tmp_path / "encoder", **SMALL
    )
    model = slimpajama.load_model(tmp_path / "encoder")
    rows = [{"text": f"{subject} {verb}", "label": subject.split()[1]} for subject in SUBJECTS for verb in VERBS]
    model.finetune(
        rows, "text-classification", epochs=1, learning_rate=1e-12, progress=False, output=tmp_path / "classifier"
    )
    assert {answer["label"] for answer in model.predict(["the cat", "a dog"])} <= {"cat", "dog", "horse", "bird"}
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("encoder", "classifier"))
    shared = [name for name in after if "encoder.layer" in name or "embeddings" in name]
    assert len(shared) > 20
    for name in shared:
        assert torch.allclose(before[name], after[name], atol=1e-6), name


def test_cancelled_is_an_error(corpus: Path) -> None:
    cancel = threading.Event()
    cancel.set()
    data = {"use": "corpus", "source": str(corpus), "documents": "blank-line"}
    with pytest.raises(RunCancelled, match="cancelled before the model was finished"):
        slimpajama.pretrain(
            {"architecture": "llama", "tokenizer": "bytes", **SIZES}, data, "causal-lm", cancel=cancel, **SMALL
        )


def test_what_is_evaluated_is_the_training_s_data_set(corpus: Path) -> None:
    tree: dict[str, Any] = {
        "model": {"preset": "nano-gpt", "tokenizer": "bytes"}, "task": "causal-lm",
        "data": {"use": "corpus", "source": str(corpus), "holdout": 0.1, "limit": 5, "pack": 64, "columns": {"text": "text"}},
        "eval": {"data": {"split": "validation"}},
    }  # fmt: skip
    recipe = load_recipe(tree, registry=default_registry())
    assert recipe.model.use == "transformers"
    assert recipe.eval.data is not None
    assert recipe.eval.data.options["source"] == str(corpus)
    assert (recipe.eval.data.split, recipe.eval.data.limit, recipe.eval.data.pack) == ("validation", None, None)
    mixed = {
        **tree,
        "data": {"sources": {"a": {"source": str(corpus), "weight": 0.7}, "b": {"source": str(corpus), "weight": 0.3}}},
    }
    mixed["eval"], mixed["train"] = {"data": {"stride": 8}}, {"steps": 1}
    recipe = load_recipe(mixed, registry=default_registry())
    assert recipe.eval.data is not None
    assert [part.weight for part in (recipe.eval.data.sources or {}).values()] == [None, None]
    own = {**tree, "eval": {"data": {"use": "files", "source": str(corpus)}}}
    found = load_recipe(own, registry=default_registry()).eval.data
    assert found is not None
    assert "holdout" not in found.options


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--task", "causal-lm", "--data", "x"], "MODEL, --preset or --architecture is missing; give it, or a recipe with --recipe"),
        (["--preset", "nano-gpt", "--tokenizer", "bytes", "--data", "x"], "--task is missing"),
        (["--preset", "nano-gtp", "--tokenizer", "bytes", "--task", "causal-lm", "--data", "{corpus}", "--dry-run"], "did you mean 'nano-gpt'?"),
        (["--preset", "nano-gpt", "--tokenizer", "bytes", "--task", "masked-lm", "--data", "{corpus}", "--dry-run"], "the tokenizer has no mask token"),
        (["gone", "--preset", "nano-gpt", "--tokenizer", "bytes", "--task", "causal-lm", "--data", "{corpus}", "--dry-run"], "model.source 'gone' is given too"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(
    words: list[str], line: str, corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(monkeypatch, capsys, "pretrain", *(word.format(corpus=corpus) for word in words))
    assert (code, out) == (2, "")
    assert line in err
    assert len(err.strip().splitlines()) == 1


def test_a_model_that_names_nothing_known_is_refused() -> None:
    with pytest.raises(RecipeError, match="expected: `use` or `source` in it"):
        load_recipe({"model": {"presett": "a"}, "data": "a.csv"}, registry=default_registry())
