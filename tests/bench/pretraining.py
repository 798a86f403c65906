"""Tokens a second and losses of a decoder trained from scratch, beside Hugging Face's `Trainer`: same weights, windows, batches, optimizer,
schedule; dropout off.

    python tests/bench/pretraining.py DATA [--preset nano-gpt] [--steps 10] [--pairs 10] [--same 50] [--json]

DATA: text, as data set `corpus` takes it, cut into full windows of bytes. Pairs as in `against_trainer.py`.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from pathlib import Path
from typing import Annotated, Any

import transformers
import typer
from against_trainer import Ours, Theirs, compared, difference, show

from spcore.components import Registry
from spcore.interfaces.task import Feature
from spcore.recipe import Recipe, load_recipe


def main(
    data: Annotated[str, typer.Argument(help="Text, as under `data.source` of a corpus.")],
    preset: Annotated[str, typer.Option(help="The model.")] = "nano-gpt",
    length: Annotated[int, typer.Option(help="Tokens of a window.")] = 256,
    batch: Annotated[int, typer.Option(help="Windows of a step.")] = 16,
    steps: Annotated[int, typer.Option(help="Steps of a run.")] = 10,
    pairs: Annotated[int, typer.Option(help="Alternated pairs; the first is not counted.")] = 10,
    same: Annotated[int, typer.Option(help="Steps whose losses are compared.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="Print as one JSON object.")] = False,
) -> None:
    """Compare losses over some steps, then speed over alternated pairs."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    registry = Registry()

    def recipe_of(precision: str, count: int) -> Recipe:
        tree = {
            "model": {"preset": preset, "tokenizer": "bytes", "dropout": 0.0},
            "task": {"use": "causal-lm", "look_ahead": False, "min_tail": length - 1},  # Trainer's windows, all of them full
            "data": {"use": "corpus", "source": data, "max_length": length},
            "precision": precision, "optimizer": {"use": "adamw", "lr": 1e-3}, "schedule": {"use": "linear", "warmup": 0},
            "train": {"steps": count, "global_batch_size": batch, "seed": 0}, "loggers": [],
        }  # fmt: skip
        return load_recipe(tree, registry=registry)

    def row_of(feature: Feature) -> dict[str, Any]:
        ids = feature.arrays["input_ids"].tolist()
        # The first is nobody's target, and Trainer would count it among what it divides by.
        return {"input_ids": ids, "labels": [-100, *ids[1:]]}

    def both(count: int, folder: str) -> tuple[Theirs, Ours]:
        auto = transformers.AutoModelForCausalLM
        theirs = Theirs(recipe_of("fp32", count), registry, Path(folder), auto, row_of)
        return theirs, Ours(lambda precision: recipe_of(precision, count), registry)

    with tempfile.TemporaryDirectory() as folder:
        compared_steps, worst = difference(*both(same, folder))
        report = {
            "steps_compared": compared_steps, "largest_loss_difference": worst, **compared(*both(steps, folder), pairs),
        }  # fmt: skip
    show(report, as_json=as_json, what="tokens")


if __name__ == "__main__":
    typer.run(main)
