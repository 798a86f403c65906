"""What reading costs: making a step's batches from the memory-mapped token cache, beside the step of a small GPT on them.

    python tests/bench/reading.py DATA TOKENIZER [--layers 6] [--width 384] [--context 256] [--batch 12] [--steps 20] [--pack] [--json]

DATA: text, as data set `corpus` takes it. TOKENIZER: a folder or a name. Each pair is one step: the time until the loader gives its
batches (order, cache, packs, collating, in this thread: train.workers=0), and the time of forward, backward and update. The figure is the
median share of the first in both, with the quartiles of the pairs.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

import spcore.featurizing as featurizing
from spcore.components import Registry
from spcore.interfaces.strategy import Place
from spcore.loading import Cut, TrainLoader
from spcore.recipe import load_recipe
from spcore.session import Session, assemble
from spcore.shards import whole_shards


def session_of(data: str, tokenizer: str, layers: int, width: int, context: int, batch: int, pack: bool) -> Session:
    """A decoder from scratch on a corpus."""
    registry = Registry()
    model = {"hidden_size": width, "layers": layers, "heads": max(1, width // 64), "tokenizer": tokenizer}
    tree = {
        "model": {"use": "transformers", "architecture": "llama", **model}, "task": "causal-lm",
        "data": {"use": "corpus", "source": data, "max_length": context, "pack": context if pack else None},
        "train": {"epochs": None, "steps": 10**6, "global_batch_size": batch}, "loggers": [],
    }  # fmt: skip
    return assemble(load_recipe(tree, registry=registry), registry)


def measured(session: Session, steps: int) -> list[tuple[float, float]]:
    """(seconds until the batches are there, seconds of the step) of each step but the first three, which warm up."""
    plan, engine = session.plan, session.strategy.engine(session.plan, Place())
    featurizing.CACHE_FROM_ROWS = 1  # from the disk, however small the data
    store = session.features(session.train)
    assert list(whole_shards(next((featurizing.cache_folder() / "features").iterdir()))), "the cache is on disk"
    how = Cut(plan.micro_batch_size, plan.micro_batch_tokens, 1, session.strategy.batch_rule(plan))
    loader = TrainLoader(
        store, plan.task, place=Place(), how=how, global_batch_size=plan.global_batch_size, seed=0, pack=plan.pack
    )
    print(f"{len(store):,} features, {int(np.sum(store.lengths, dtype=np.int64)):,} tokens")
    pairs, data = [], iter(loader.steps(0, steps + 3))
    for step in range(steps + 3):
        began = time.perf_counter()
        made = next(data)
        read = time.perf_counter()
        engine.train_step(made.microbatches, 1e-3, step)
        pairs.append((read - began, time.perf_counter() - read))
    engine.close()
    return pairs[3:]


def main(
    data: Annotated[str, typer.Argument(help="Text, as data set `corpus` takes it.")],
    tokenizer: Annotated[str, typer.Argument(help="A folder or a name.")],
    layers: int = 6,
    width: int = 384,
    context: int = 256,
    batch: int = 12,
    steps: int = 20,
    pack: bool = False,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Print the share."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ["SLIMPAJAMA_CACHE"] = str(Path(cache))
        pairs = measured(session_of(data, tokenizer, layers, width, context, batch, pack), steps)
    shares = [read / (read + step) for read, step in pairs]
    low, middle, high = statistics.quantiles(shares, n=4)
    found: dict[str, Any] = {
        "reading_ms": 1e3 * statistics.median(read for read, _ in pairs), "step_ms": 1e3 * statistics.median(s for _, s in pairs),
        "share": middle, "share_quartiles": [low, high],
    }  # fmt: skip
    if as_json:
        print(json.dumps(found))
        return
    print(f"batches {found['reading_ms']:.2f} ms, step {found['step_ms']:.1f} ms")
    print(f"share of reading: {middle:.2%} (quartiles {low:.2%} to {high:.2%})")


if __name__ == "__main__":
    typer.run(main)
