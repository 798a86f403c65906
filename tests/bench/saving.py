"""How long training waits for a checkpoint, beside a save that it waits for to the end.

    python tests/bench/saving.py DATA [--saves 20] [--device cpu] [--json]

DATA: labelled text, as under `data.source` of a recipe. MiniLM with AdamW's state (270 MB) in one process. A save is made as the trainer makes
it, between steps; training waits until `Engine.save` is back and the rest has gone to its thread. The whole save lasts until the checkpoint is
flushed, checksummed and in its place. Figures are medians with quartiles; the first save, which takes memory for the first time, is left out.
"""

from __future__ import annotations

import itertools
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

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
    """Seconds that training waits, and seconds of whole saves."""
    registry = Registry()
    recipe = load_recipe(recipe_of(data, registry, steps=saves + 1).to_json(), {"device": device}, registry=registry)
    session = assemble(recipe, registry)
    engine = session.strategy.engine(session.plan, Place())
    trainer = Trainer(session, engine, session.training(), None, lambda event: None, _Never())
    assert isinstance(trainer.loader, TrainLoader)
    waited, whole = [], []
    with tempfile.TemporaryDirectory() as folder:
        store = CheckpointStore(Path(folder), 2)
        for step, fed in enumerate(itertools.islice(trainer.loader.steps(0, trainer.total), saves + 1)):
            engine.train_step(fed.microbatches, 1e-5, step)
            began = time.monotonic()
            later: list[Callable[[], None]] = []
            with store.writing(step + 1, True, later=later) as place:
                later.append(engine.save(place).wait)
            waited.append(time.monotonic() - began)
            store.settled()
            whole.append(time.monotonic() - began)
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
    share = [part / all_ for part, all_ in zip(waited, whole, strict=True)]
    found = {"training_waits_s": summary(waited), "whole_save_s": summary(whole), "share": summary(share)}
    print(json.dumps(found) if as_json else "\n".join(f"{name:<18} {value}" for name, value in found.items()))


if __name__ == "__main__":
    typer.run(main)
