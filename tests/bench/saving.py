"""How long training waits for a checkpoint, beside a save that it waits for to the end.

    python tests/bench/saving.py DATA [--saves 20] [--device cpu] [--json]

DATA: labelled text, as under `data.source` of a recipe. MiniLM with AdamW's state (270 MB) in one process, saved as the trainer saves, by turns in
two ways. In one a step is made while the save goes on: training waits until `Engine.save` is back, and in that step for what is still being
copied when its update is due. In the other nothing else is done until the checkpoint is flushed, checksummed and in its place. Figures are medians
with quartiles; the first of each, which take memory for the first time, are left out.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from overhead import recipe_of, summary

from spcore.checkpoint import CheckpointStore
from spcore.components import Registry
from spcore.interfaces.strategy import Place
from spcore.loading import TrainLoader
from spcore.recipe import load_recipe
from spcore.session import assemble
from spcore.trainer import Trainer


def measure(data: str, saves: int, device: str) -> tuple[list[float], list[float]]:
    """Seconds that training waits, and seconds of whole saves that it waits for."""
    registry = Registry()
    tree = recipe_of(data, registry, steps=2 * saves + 3).to_json()
    session = assemble(load_recipe(tree, {"device": device}, registry=registry), registry)
    engine: Any = session.strategy.engine(session.plan, Place())
    trainer = Trainer(session, engine, session.training(), None, lambda event: None, _Never())
    assert isinstance(trainer.loader, TrainLoader)
    waited: list[float] = []
    whole: list[float] = []
    left, plain = 0.0, engine.staging.settle

    def settle() -> None:
        began = time.monotonic()
        plain()
        settled.append(time.monotonic() - began)

    engine.staging.settle = settle
    with tempfile.TemporaryDirectory() as folder:
        store = CheckpointStore(Path(folder), 2)
        for step, fed in enumerate(trainer.loader.steps(0, trainer.total)):
            settled: list[float] = []
            engine.train_step(fed.microbatches, 1e-5, step)
            if step % 2:
                waited.append(left + settled[0])
                store.settled()
            began = time.monotonic()
            later: list[Callable[[], None]] = []
            with store.writing(step + 1, True, later=later) as place:
                later.append(engine.save(place).wait)
            left = time.monotonic() - began
            if step % 2:
                store.settled()
                whole.append(time.monotonic() - began)
        store.settled()
    engine.close()
    return waited[1:], whole[1:]


class _Never:
    def is_set(self) -> bool:
        return False


def main(
    data: str,
    saves: Annotated[int, typer.Option(min=4)] = 20,
    device: str = "cpu",
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Print the figures."""
    waited, whole = measure(data, saves, device)
    share = statistics.median(waited) / statistics.median(whole)
    found = {"training_waits_s": summary(waited), "whole_save_s": summary(whole), "share": share}
    print(json.dumps(found) if as_json else "\n".join(f"{name:<18} {value}" for name, value in found.items()))


if __name__ == "__main__":
    typer.run(main)
