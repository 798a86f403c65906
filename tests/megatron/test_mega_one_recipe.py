"""One recipe, its strategy changed by one word: docs/recipes/token-classification.yaml on a real encoder and a small file of its shape. Losses, F1 and
answers are those of one process under every strategy, and what each saves is exported to ONNX and answers alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import slimpajama
from tests.megatron.mega_recipes import registry

RECIPE = Path(__file__).resolve().parents[2] / "docs" / "recipes" / "token-classification.yaml"
WORDS: dict[str, tuple[dict[str, Any], int]] = {
    "ddp": ({"use": "ddp"}, 2),
    "fsdp": ({"use": "fsdp"}, 2),
    "parallel tp=2": ({"use": "parallel", "tensor_parallel": 2}, 2),
    "parallel pp=2": ({"use": "parallel", "pipeline_parallel": 2}, 2),
    "megatron tp=2,pp=2": ({"use": "megatron", "tensor_parallel": 2, "pipeline_parallel": 2}, 4),
}
ASKED = ["Cy flew from Bern to New York .", "nobody came"]
PLACES, PEOPLE = ("Rome", "New York", "Bern"), ("Ann", "Bo Lee", "Cy")


def tagged(words: str, kind: str) -> list[str]:
    """The words of an entity, a line each."""
    return [f"{word}\t{'I' if n else 'B'}-{kind}" for n, word in enumerate(words.split())]


def conll(path: Path) -> Path:
    """Sentences of WNUT17's form, two entities in each."""
    rng, lines = np.random.default_rng(0), []
    for _ in range(60):
        lines += [
            *tagged(rng.choice(PEOPLE), "person"),
            "went\tO",
            "to\tO",
            *tagged(rng.choice(PLACES), "location"),
            ".\tO",
            "",
        ]
    path.write_text("\n".join(lines))
    return path


class Done:
    """A finished run: its losses, the F1 of its evaluations, and what its model answers by a runtime."""

    def __init__(self, folder: Path, data: Path, model: str, strategy: dict[str, Any], processes: int) -> None:
        changes = {
            "model": {"use": "transformers", "source": model, "dropout": 0.0}, "data.source": str(data), "data.max_length": 32, "strategy": strategy, "output": str(folder),
            "launch": {"use": "warm", "processes": processes}, "train.epochs": None, "train.steps": 12, "train.global_batch_size": 8,
            "train.micro_batch_size": 2, "eval.every": 6, "optimizer.lr": 1e-3, "optimizer.eps": 1e-5, "device": "cpu", "loggers": ["jsonl"],
        }  # fmt: skip
        slimpajama.run(RECIPE, changes, registry=registry())
        told = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        self.losses = [line["loss"] for line in told if line["event"] == "step"]
        self.f1 = [line["metrics"]["f1"] for line in told if line["event"] == "evaluated"]
        self.folder = folder

    def answers(self, runtime: str) -> list[dict[str, Any]]:
        return slimpajama.load_model(self.folder, runtime=runtime, device="cpu").predict(ASKED)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return conll(tmp_path_factory.mktemp("data") / "made.conll")


@pytest.fixture(scope="module")
def single(file: Path, tmp_path_factory: pytest.TempPathFactory, minilm: str) -> Done:
    return Done(tmp_path_factory.mktemp("single") / "run", file, minilm, {"use": "single"}, 1)


@pytest.mark.slow
def test_one_process_learns(single: Done) -> None:
    """Else the others would agree on nothing."""
    assert len(single.losses) == 12
    assert single.losses[-1] < single.losses[0] / 2
    assert single.f1[-1] > 0.5
    assert single.answers("torch")[0]["entities"]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("word", WORDS)
def test_another_strategy_by_one_word(
    word: str, single: Done, file: Path, minilm: str, tmp_path: Path, two: int, four: int
) -> None:
    strategy, processes = WORDS[word]
    done = Done(tmp_path / "run", file, minilm, strategy, processes)
    # As in `slimpajama parity`: sums in another order, and each step starts from what rounding made of the weights.
    assert done.losses == pytest.approx(single.losses, rel=5e-5)
    assert done.f1 == single.f1
    assert slimpajama.load_model(done.folder, device="cpu").export("onnx").refusal is None
    for runtime in ("torch", "onnx"):
        for mine, theirs in zip(done.answers(runtime), single.answers("torch"), strict=True):
            assert mine["tags"] == theirs["tags"]
            scores = [[entity["score"] for entity in answer["entities"]] for answer in (mine, theirs)]
            assert scores[0] == pytest.approx(scores[1], abs=1e-3)
