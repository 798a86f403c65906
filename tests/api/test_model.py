"""The handle that `load_model` gives, on a small real BERT: fine-tune, evaluate, predict, save; and what other tools make of it."""

from __future__ import annotations

import json
import random
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import slimpajama
from spcore.interfaces.logger import Event, Step
from support.hub_content import put_tiny_bert

WORDS = {"good": ("lovely", "bright", "happy", "great"), "bad": ("awful", "dull", "sad", "poor")}
NOUNS = ("story", "film", "meal", "day", "song", "book", "room")
CHINESE = [("这家餐厅的菜很好吃，服务也周到。", "好评"), ("等了一个小时，菜还是凉的！", "差评")] * 20


def rows_of(count: int, seed: int = 0) -> list[dict[str, object]]:
    """Labelled rows."""
    rng = random.Random(seed)
    labels = [rng.choice(sorted(WORDS)) for _ in range(count)]
    return [
        {"text": f"a {rng.choice(WORDS[label])} {rng.choice(NOUNS)} " * rng.randint(1, 4), "label": label}
        for label in labels
    ]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a small BERT with random weights."""
    root = tmp_path_factory.mktemp("models")
    put_tiny_bert(root, "test/tiny", [*(str(row["text"]) for row in rows_of(300)), *(text for text, _ in CHINESE)])
    return str(root / "models" / "test" / "tiny")


@pytest.fixture(scope="module")
def tuned(tiny: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder."""
    folder = tmp_path_factory.mktemp("runs") / "tuned"
    model = slimpajama.load_model(tiny)
    model.finetune(
        rows_of(400),
        "text-classification",
        epochs=4,
        learning_rate=3e-3,
        eval_dataset=rows_of(60, 1),
        output=folder,
        progress=False,
    )
    return folder


def test_it_learns_and_keeps_what_it_says_it_keeps(tuned: Path) -> None:
    manifest = json.loads((tuned / "slimpajama.json").read_text())
    assert manifest["metrics"]["accuracy"] > 0.95
    assert manifest["head"]["labels"] == ["bad", "good"]
    assert manifest["task"]["use"] == "text-classification"
    report = json.loads((tuned / "report.json").read_text())
    assert report["train"]["rows_read"] == report["train"]["rows_used"] == 400
    events = [json.loads(line) for line in (tuned / "metrics.jsonl").read_text().splitlines()]
    assert events[0]["event"] == "run_started"
    assert events[-1]["event"] == "run_ended"
    assert sum(e["event"] == "step" for e in events) == manifest["steps"] == 52
    assert "Labels: bad, good" in (tuned / "README.md").read_text()


def test_transformers_gives_the_same_answers(tuned: Path) -> None:
    texts = [str(row["text"]) for row in rows_of(12, 5)]
    pipeline = transformers.pipeline("text-classification", model=str(tuned))
    for ours, theirs in zip(slimpajama.load_model(tuned).predict(texts), pipeline(texts), strict=True):
        assert ours["label"] == theirs["label"]
        assert ours["score"] == pytest.approx(theirs["score"], abs=1e-5)


def test_predictions_keep_their_order_and_do_not_depend_on_company(tuned: Path) -> None:
    texts = [str(row["text"]) for row in rows_of(30, 6)]
    model = slimpajama.load_model(tuned)
    together = model.predict(texts)
    alone = [model.predict(text)[0] for text in texts]
    assert [a["label"] for a in together] == [a["label"] for a in alone]
    assert [a["score"] for a in together] == pytest.approx([a["score"] for a in alone], abs=1e-6)
    assert model.predict([]) == []


def test_save_copies_the_model_and_nothing_else(tuned: Path, tmp_path: Path) -> None:
    saved = slimpajama.load_model(tuned).save(tmp_path / "copy")
    assert not (saved / "metrics.jsonl").exists()
    text = str(rows_of(1, 7)[0]["text"])
    assert slimpajama.load_model(saved).predict(text) == slimpajama.load_model(tuned).predict(text)


def test_the_resolved_recipe_runs_again_to_the_same_model(tuned: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in rows_of(400)))
    overrides = {
        "output": str(tmp_path / "again"),
        "loggers": [],
        "data.source": str(rows),
        "eval.data": None,
        "train.steps": 20,
        "train.epochs": None,
    }
    first = slimpajama.run(tuned / "recipe.yaml", overrides)
    again = slimpajama.run(Path(first.output) / "recipe.yaml", {"output": str(tmp_path / "third")})
    names = ("model.safetensors",)
    for name in names:
        assert (Path(first.output) / name).read_bytes() == (Path(again.output) / name).read_bytes()


def test_evaluate_counts_every_row_and_says_what_it_dropped(tuned: Path) -> None:
    rows = [*rows_of(37, 8), {"text": "  ", "label": "bad"}]
    done = slimpajama.evaluate(tuned, rows)
    assert done.metrics["rows"] == 37
    assert done.report["rows_read"] == 38
    assert any("blank text" in line for line in done.report["remarks"])


@pytest.mark.parametrize("pack", [None, 64])
def test_a_chinese_data_set_goes_through(tiny: str, tmp_path: Path, pack: int | None) -> None:
    file = tmp_path / "评论.tsv"
    file.write_text("文本\t标签\n" + "".join(f"{text}\t{label}\n" for text, label in CHINESE), encoding="utf-8")
    model = slimpajama.load_model(tiny)
    model.finetune(
        file, "text-classification", epochs=6, batch_size=4, learning_rate=3e-3, settings={"data.pack": pack}
    )
    assert [a["label"] for a in model.predict([text for text, _ in CHINESE[:2]])] == ["好评", "差评"]
    assert model.evaluate(file).metrics["accuracy"] == 1.0


def test_pairs_numbers_and_several_labels(tiny: str) -> None:
    pairs = [{"text": str(r["text"]), "text_pair": "a film", "label": n % 7 / 2} for n, r in enumerate(rows_of(40))]
    model = slimpajama.load_model(tiny)
    model.finetune(pairs, "text-classification", epochs=1, learning_rate=1e-3)
    assert set(model.predict(text=["a film"], text_pair=["a meal"])[0]) == {"score"}
    assert {"pearson", "spearman"} <= set(model.evaluate(pairs).metrics)
    several = [{"text": str(r["text"]), "label": [r["label"], "any"]} for r in rows_of(40)]
    other = slimpajama.load_model(tiny)
    other.finetune(several, "text-classification", epochs=1, learning_rate=1e-3)
    assert set(other.predict("a film")[0]["scores"]) == {"any", "bad", "good"}


def test_cancelled_at_a_step_and_resumed_to_the_same_losses(tiny: str, tmp_path: Path) -> None:
    def losses_of(output: Path, stop_at: int | None) -> list[float]:
        cancel, losses = threading.Event(), []

        def told(event: Event) -> None:
            if isinstance(event, Step):
                losses.append(event.loss)
                if event.step == stop_at:
                    cancel.set()

        tree = {"source": str(rows)}
        slimpajama.load_model(tiny).finetune(
            tree,
            "text-classification",
            epochs=2,
            batch_size=16,
            learning_rate=1e-3,
            output=output,
            progress=False,
            on_event=told,
            cancel=cancel,
        )
        return losses

    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in rows_of(120)))
    whole = losses_of(tmp_path / "whole", None)
    first = losses_of(tmp_path / "parts", 5)
    rest = losses_of(tmp_path / "parts", None)
    assert len(first) == 5
    assert first + rest == whole


def test_the_best_step_is_what_is_saved(tiny: str, tmp_path: Path) -> None:
    settings = {"eval.every": 3, "eval.keep_best": True, "eval.metric": "loss", "schedule": "constant"}
    model = slimpajama.load_model(tiny)
    model.finetune(
        rows_of(60), "text-classification", epochs=8, batch_size=8, learning_rate=3e-2, eval_dataset=rows_of(40, 1),
        output=tmp_path / "run", settings=settings, progress=False,
    )  # fmt: skip
    events = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = {e["step"]: e["metrics"]["loss"] for e in events if e["event"] == "evaluated"}
    manifest = json.loads((tmp_path / "run" / "slimpajama.json").read_text())
    assert manifest["steps"] == min(losses, key=losses.__getitem__)
    assert model.evaluate(rows_of(40, 1)).metrics["loss"] == pytest.approx(min(losses.values()), rel=1e-5)
    assert not (tmp_path / "run" / ".best").exists()


def test_a_finished_run_is_not_overwritten(tiny: str, tuned: Path) -> None:
    with pytest.raises(slimpajama.OutputError, match="a finished run is there"):
        slimpajama.load_model(tiny).finetune(rows_of(20), "text-classification", output=tuned)


def test_embeddings(tiny: str) -> None:
    vectors = slimpajama.load_model(tiny).embed(["a film", "a meal a meal a meal", "a film"])
    assert vectors.shape == (3, 64)
    assert vectors[0] == pytest.approx(vectors[2], abs=1e-6)


def test_process_wide_state_is_left_as_it_was(tiny: str) -> None:
    torch.manual_seed(3)
    before = (
        torch.get_rng_state(),
        torch.get_num_threads(),
        torch.get_default_dtype(),
        torch.get_float32_matmul_precision(),
    )
    slimpajama.load_model(tiny).finetune(rows_of(20), "text-classification", epochs=1)
    after = (
        torch.get_rng_state(),
        torch.get_num_threads(),
        torch.get_default_dtype(),
        torch.get_float32_matmul_precision(),
    )
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision_learns_too(tiny: str, precision: str) -> None:
    model = slimpajama.load_model(tiny)
    model.finetune(
        rows_of(200),
        "text-classification",
        epochs=4,
        batch_size=16,
        learning_rate=2e-3,
        settings={"precision": precision},
    )
    assert model.evaluate(rows_of(50, 3)).metrics["accuracy"] > 0.9


def test_mistakes_are_one_line(tiny: str, tuned: Path) -> None:
    model = slimpajama.load_model(tuned)
    with pytest.raises(slimpajama.UserError, match="columns of different lengths"):
        model.predict(text=["a", "b"], text_pair=["c"])
    with pytest.raises(slimpajama.UserError, match="unknown column 'txt_pair'; did you mean 'text_pair'"):
        model.predict(text=["a"], txt_pair=["c"])
    with pytest.raises(slimpajama.DataError, match="row 1: blank text"):
        model.predict(["fine", " "])
    with pytest.raises(slimpajama.DataError, match="row 0: blank text"):
        slimpajama.load_model(tiny).predict(" ")
    with pytest.raises(slimpajama.RecipeError, match=r"unknown key 'lerning_rate'"):
        slimpajama.load_model(tiny).finetune(rows_of(4), "text-classification", settings={"optimizer.lerning_rate": 1})
    with pytest.raises(slimpajama.SourceError, match=r"'mmm.*cannot be read: File name too long") as caught:
        slimpajama.load_model("m" * 300)
    assert len(str(caught.value)) < 200
    with pytest.raises(slimpajama.SourceError, match="cannot be read: File name too long"):
        slimpajama.load_model(tiny).finetune("d" * 300, "text-classification")


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"runtime": "torsch"}, "unknown runtime 'torsch'; did you mean 'torch'?"),
        ({"runtime": {"use": "torch", "dtype": "float17"}}, "runtime.dtype"),
        ({"runtime": {"use": "torch", "dtyp": "float32"}}, "runtime.dtyp: unknown key 'dtyp'; did you mean 'dtype'?"),
        ({"device": "gpu"}, "device: found 'gpu'"),
    ],
)
def test_wrong_ways_to_run_a_model_are_one_line(tuned: Path, how: dict[str, Any], said: str) -> None:
    with pytest.raises(slimpajama.UserError) as caught:
        slimpajama.load_model(tuned, **how).predict("a fine film")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_intervals_and_groups_are_told_and_go_into_the_card(
    tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from spcore.cli import main

    model = tmp_path / "model"
    slimpajama.load_model(tuned).save(model)
    rows = [{**row, "source": ["web", "print", None][n % 3]} for n, row in enumerate(rows_of(30, 2))]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def evaluated(*options: str, ends: int = 0) -> str:
        line = ["evaluate", str(model), "--data", str(tmp_path / "rows.jsonl"), *options]
        monkeypatch.setattr("sys.argv", ["slimpajama", *line])
        with pytest.raises(SystemExit) as ended:
            main()
        assert (ended.value.code or 0) == ends
        captured = capsys.readouterr()
        return captured.out if ends == 0 else captured.err

    options = ("--bootstrap", "50", "--group-by", "source", "--name", "spring")
    found = json.loads(evaluated(*options, "--json"))
    low, high = found["intervals"]["accuracy"]
    assert 0 <= low <= found["accuracy"] <= high <= 1
    assert "loss" not in found["intervals"], "rows do not tell it"
    assert {name: group["rows"] for name, group in found["groups"].items()} == {"": 10, "print": 10, "web": 10}
    whole = sum(group["rows"] * group["metrics"]["accuracy"] for group in found["groups"].values()) / 30
    assert whole == pytest.approx(found["accuracy"])
    kept = json.loads((model / "evaluations" / "spring" / "metrics.json").read_text())
    assert kept == found
    printed = evaluated(*options)
    assert printed.split("\n")[0].split() == ["metric", "all", "(missing)", "print", "web"]
    card = (model / "README.md").read_text()
    assert card.count("## Evaluation spring") == 1, "in place of the one before"
    assert f"| accuracy | {found['accuracy']:.4g} ({low:.4g} to {high:.4g}) |" in card
    assert card.startswith((tuned / "README.md").read_text().rstrip())
    with_log = evaluated("--group-by", "sauce", ends=2)
    assert "unknown column 'sauce'; did you mean 'source'?" in with_log
    assert "that changes no answer" not in with_log, "the card is as slimpajama.json has it"
