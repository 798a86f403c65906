"""Runs under Megatron beside one process: answers that are generated in mid-training, steps that are not finite, steps without anything to
learn, losses over a whole batch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from exact.processes import measure
from exact.recipes import classification, laid, seq2seq
from parity.warm import READY


def megatron(**options: Any) -> dict[str, Any]:
    return {"use": "megatron", **options}


def answers(found: dict[str, Any]) -> dict[int, tuple[str, str]]:
    return {row["row_id"]: (row["text"], row["finish"]) for row in found["predictions"] if "text" in row}


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("llama", {"pipeline_parallel": 2}),
        pytest.param("llama", {"tensor_parallel": 2}, marks=pytest.mark.slow),
        pytest.param("t5", {"tensor_parallel": 2}, marks=pytest.mark.slow),
    ],
)
def test_answers_are_those_of_one_process(kind: str, options: dict[str, Any], tmp_path: Path, two: int) -> None:
    tree = seq2seq(kind, tmp_path)
    one = measure(laid(tree, "single", 1, steps=2))
    both = READY[two].measure(laid(tree, megatron(**options), 2, steps=2))
    assert answers(both) == answers(one)
    assert answers(one)
    assert both["metrics"] == pytest.approx(one["metrics"], rel=1e-5)


def unlearnable(folder: Path) -> dict[str, Any]:
    return {**classification(folder), "optimizer": {"use": "adamw", "lr": 1e30}, "eval": {}}


def test_steps_that_are_not_finite_are_left_out(tmp_path: Path, two: int) -> None:
    tree, settings = unlearnable(tmp_path), {"nonfinite": "skip", "global_batch_size": 16}
    one = measure(laid(tree, "single", 1, **settings))
    both = READY[two].measure(laid(tree, megatron(tensor_parallel=2), 2, **settings))
    told = [[line.split("; its rows")[0] for line in run["warned"] if "is left out" in line] for run in (one, both)]
    assert len(told[0]) == len(told[1]) == 2
    assert "gradient of " in told[1][0]


def test_a_class_of_weight_nothing_moves_nothing(tmp_path: Path, two: int) -> None:
    # Microbatches with nothing to learn keep a pipeline going all the same.
    tree = classification(tmp_path)
    tree["task"] = {"use": "text-classification", "class_weights": {"a": 0.0, "b": 0.0, "c": 1.0}}
    settings = {"micro_batch_size": 1, "global_batch_size": 8, "steps": 3}
    one = measure(laid(tree, "single", 1, **settings))
    options = megatron(pipeline_parallel=2, overlap_grad_reduce=True)
    both = READY[two].measure(laid(tree, options, 2, **settings))
    for mine, theirs in zip(both["steps"], one["steps"], strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=5e-5)
        assert mine["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-4)


def test_what_is_computed_again_drops_the_same(tmp_path: Path, two: int) -> None:
    tree = classification(tmp_path)
    tree["model"] = {**tree["model"], "dropout": 0.2}
    options = {"tensor_parallel": 2, "sequence_parallel": True}
    settings = {"global_batch_size": 8, "steps": 3}
    kept, again, none = (
        READY[two].measure(
            laid({**tree, "model": {**tree["model"], "dropout": p}}, megatron(**options, recompute=how), 2, **settings)
        )
        for how, p in (("none", 0.2), ("full", 0.2), ("full", 0.0))
    )
    losses, others = ([s["grad_norm"] for s in run["steps"]] for run in (kept, again))
    assert others == pytest.approx(losses, rel=1e-5)
    assert [s["grad_norm"] for s in none["steps"]] != pytest.approx(losses, rel=1e-2)


def test_a_loss_over_the_whole_batch(tmp_path: Path, two: int) -> None:
    tree = classification(tmp_path)
    file = tmp_path / "twos.jsonl"
    file.write_text(
        "".join(json.dumps({"text": f"w{n} w{n + 1}", "other": f"w{n + 2} w{n}"}) + "\n" for n in range(40))
    )
    tree |= {"task": "fake-contrast", "data": {"use": "files", "source": str(file)}, "eval": {}}
    settings = {"global_batch_size": 9, "micro_batch_size": 2}
    one = measure(laid(tree, "single", 1, **settings))
    both = READY[two].measure(laid(tree, megatron(pipeline_parallel=2), 2, **settings))
    assert [s["loss"] for s in both["steps"]] == pytest.approx([s["loss"] for s in one["steps"]], rel=5e-5)
    assert [s["grad_norm"] for s in both["steps"]] == pytest.approx([s["grad_norm"] for s in one["steps"]], rel=1e-4)


def test_figures_of_the_untrained_model(tmp_path: Path, two: int) -> None:
    tree = seq2seq("llama", tmp_path)
    file = tmp_path / "choices.jsonl"
    rows = [{"text": f"w{n}", "chosen": f"w{n + 1} w{n}", "rejected": f"w{n + 2}"} for n in range(40)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tree |= {"task": "fake-preference", "data": {"use": "files", "source": str(file)}, "eval": {}}
    settings = {"global_batch_size": 9, "micro_batch_size": 2}
    one = measure(laid(tree, "single", 1, **settings))
    both = READY[two].measure(laid(tree, megatron(tensor_parallel=2), 2, **settings))
    assert [s["loss"] for s in both["steps"]] == pytest.approx([s["loss"] for s in one["steps"]], rel=5e-5)
