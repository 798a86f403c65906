"""What a strategy over several processes costs beside a bare PyTorch loop that does the same: torch's DDP, or its `fully_shard`.

    torchrun --nproc-per-node 2 tests/bench/spread.py DATA --strategy fsdp [--steps 44] [--json]

DATA: labelled text, as under `data.source` of a recipe. On the same processes both work on the same rows of MiniLM, batch 32, with the same
products, and take turns step by step: after each step of the trainer every process makes one of the loop's. A pair is two steps on the same
rows; the trainer's time is everything between two of the loop's (loading, collating, the step, events), the loop's has its tensors ready.
Figures are of rank 0: medians, with the quartiles of the pairs, the first four left out. `overhead.py` is its like for one process.
"""

from __future__ import annotations

import json
import logging
import os
import statistics
import threading
import time
import warnings
from enum import StrEnum
from typing import Annotated, Any

import torch
import torch.distributed as dist
import typer
from overhead import BATCH, recipe_of, summary
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from spcore.components import Registry
from spcore.loading import Cut, TrainLoader
from spcore.recipe import load_recipe
from spcore.session import assemble
from spcore.tensors.materialise import materialise
from spcore.trainer import Trainer
from spcore_torch import kernels


class Strategy(StrEnum):
    """What is compared."""

    DDP = "ddp"
    FSDP = "fsdp"


class Bare:
    """The loop that a person writes: the same module and products, loss and optimizer, tensors ready."""

    def __init__(self, strategy: Strategy, session: Any, engine: Any, steps: int) -> None:
        plan, settings = session.plan, session.recipe.optimizer.options
        module = plan.model.build(plan.head)
        materialise(module, plan.model, plan.head, plan.seed)
        kernels.install(module, None, torch.device("cpu"), keeps=strategy == Strategy.DDP)
        anatomy = plan.model.anatomy(plan.head)
        if strategy == Strategy.FSDP:
            for layer in module.get_submodule(f"{anatomy.base}.{anatomy.layers}"):
                fully_shard(layer)
            fully_shard(module)
            self.module = module
        else:
            self.module = DistributedDataParallel(module)
        self.optimizer = torch.optim.AdamW(module.parameters(), lr=settings["lr"], fused=True)
        how = Cut(None, plan.micro_batch_tokens, engine.place.data_size)
        loader = TrainLoader(
            session.features(session.train), session.bound, place=engine.place, how=how, global_batch_size=BATCH, seed=0, pack=None
        )  # fmt: skip
        self.batches = [
            [(b.inputs, torch.as_tensor(b.targets["labels"])) for b in map(engine.prepared, step.microbatches)]
            for step in loader.steps(0, steps)
        ]
        self.module.train()

    def step(self, n: int) -> float:
        """Seconds of one step. Both take means over processes, so a loss is of this process's share of the batch."""
        began = time.perf_counter()
        self.optimizer.zero_grad()
        for inputs, labels in self.batches[n]:
            logits = self.module(**inputs)["logits"]
            loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
            (loss * dist.get_world_size() / BATCH).backward()
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        self.optimizer.step()
        return time.perf_counter() - began


def paired(data: str, strategy: Strategy, steps: int) -> list[tuple[float, float]]:
    """(trainer, loop) seconds of each step."""
    registry, rank, size = Registry(), dist.get_rank(), dist.get_world_size()
    tree = {**recipe_of(data, registry, steps=steps).to_json(), "strategy": strategy.value, "loggers": []}
    tree["launch"] = {"use": "local", "processes": size}
    session = assemble(load_recipe(tree, {}, registry=registry), registry, world_size=size)
    engine: Any = session.strategy.engine(session.plan, session.plan.layout.place(rank, rank))
    bare, pairs, plain = Bare(strategy, session, engine, steps), list[tuple[float, float]](), engine.train_step
    left = time.perf_counter()

    def train_step(*given: Any) -> Any:
        nonlocal left
        report = plain(*given)
        took = time.perf_counter() - left
        pairs.append((took, bare.step(len(pairs))))
        left = time.perf_counter()
        return report

    engine.train_step = train_step
    Trainer(session, engine, session.training(), None, lambda event: None, threading.Event()).fit()
    engine.close()
    return pairs


def main(
    data: Annotated[str, typer.Argument(help="Labelled text, as under a recipe's `data.source`.")],
    strategy: Annotated[Strategy, typer.Option(help="What is compared with its bare like.")] = Strategy.FSDP,
    steps: Annotated[int, typer.Option(help="Steps that the two take in turns.")] = 44,
    as_json: Annotated[bool, typer.Option("--json", help="Print as one JSON object.")] = False,
) -> None:
    """Compare."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    dist.init_process_group("gloo")
    pairs = paired(data, strategy, steps)[4:]
    if dist.get_rank() == 0:
        report = {
            "strategy": strategy.value, "processes": dist.get_world_size(), "over_bare": summary([a / b for a, b in pairs]),
            "milliseconds": {"trainer": statistics.median(a for a, _ in pairs) * 1e3, "bare": statistics.median(b for _, b in pairs) * 1e3},
        }  # fmt: skip
        print(json.dumps(report, indent=None if as_json else 1), flush=True)
    os._exit(0)  # taking gloo's threads down in order aborts now and then


if __name__ == "__main__":
    typer.run(main)
