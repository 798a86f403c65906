"""What a strategy over several processes costs beside a bare PyTorch loop that does the same: torch's DDP, its `fully_shard`,
its `parallelize_module` for tensor parallelism, or its 1F1B pipelining (on two processes, texts cut to 16 tokens).

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
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.pipelining import PipelineStage, Schedule1F1B
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
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
    TENSOR = "tensor"
    PIPELINE = "pipeline"


LENGTH, MICRO = 16, 8
"""Of a pipeline's microbatches: torch's stages take one shape."""


CUTS = {
    **{f"attention.self.{name}": ColwiseParallel for name in ("query", "key", "value")},
    "attention.output.dense": RowwiseParallel, "intermediate.dense": ColwiseParallel, "output.dense": RowwiseParallel,
}  # fmt: skip
"""How BERT's layers are cut."""


def clipped(parameters: list[torch.Tensor]) -> None:
    """To a norm of 1; torch's own function takes no mixture of DTensors and others."""
    kinds = [[p for p in parameters if isinstance(p, DTensor) == cut] for cut in (True, False)]
    norms = [torch.nn.utils.get_total_norm([p.grad for p in kind if p.grad is not None]) for kind in kinds if kind]
    whole = [norm.full_tensor() if isinstance(norm, DTensor) else norm for norm in norms]
    for kind in kinds:
        torch.nn.utils.clip_grads_with_norm_(kind, 1.0, torch.stack(whole).norm())


class Bare:
    """The loop that a person writes: the same module and products, loss and optimizer, tensors ready."""

    def __init__(self, strategy: Strategy, session: Any, engine: Any, steps: int) -> None:
        plan, settings = session.plan, session.recipe.optimizer.options
        module = plan.model.build(plan.head)
        materialise(module, plan.model, plan.head, plan.seed)
        if strategy != Strategy.TENSOR:
            kernels.install(module, None, torch.device("cpu"), keeps=strategy == Strategy.DDP)
        anatomy = plan.model.anatomy(plan.head)
        layers = module.get_submodule(f"{anatomy.base}.{anatomy.layers}")
        self.module = module
        if strategy == Strategy.FSDP:
            for layer in layers:
                fully_shard(layer)
            fully_shard(module)
        elif strategy == Strategy.TENSOR:
            mesh = init_device_mesh("cpu", (dist.get_world_size(),))
            for layer in layers:
                parallelize_module(layer, mesh, {path: kind() for path, kind in CUTS.items()})
        else:
            self.module = DistributedDataParallel(module)
        # A fused optimizer takes no mixture of DTensors and others in one group.
        groups = [[p for p in module.parameters() if isinstance(p, DTensor) == cut] for cut in (True, False)]
        self.optimizer = torch.optim.AdamW([{"params": g} for g in groups if g], lr=settings["lr"], fused=True)
        self.share = dist.get_world_size() if strategy != Strategy.TENSOR else 1
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
        """Seconds of one step. DDP and FSDP take means over processes, so a loss there is of this process's share of the batch."""
        began = time.perf_counter()
        self.optimizer.zero_grad()
        for inputs, labels in self.batches[n]:
            logits = self.module(**inputs)["logits"]
            loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
            (loss * self.share / BATCH).backward()
        clipped(list(self.module.parameters()))
        self.optimizer.step()
        return time.perf_counter() - began


class Stage(torch.nn.Module):  # type: ignore[misc]
    """The first or the second half of a BERT that classifies."""

    def __init__(self, whole: Any, first: bool) -> None:
        super().__init__()
        layers = whole.bert.encoder.layer
        half = len(layers) // 2
        self.layers = torch.nn.ModuleList(layers[:half] if first else layers[half:])
        self.enter = whole.bert.embeddings if first else None
        self.leave = None if first else torch.nn.Sequential(whole.bert.pooler, whole.dropout, whole.classifier)

    def forward(self, x: torch.Tensor, *, attention_mask: torch.Tensor) -> torch.Tensor:
        """Ids or hidden states -> hidden states or logits."""
        hidden = x if self.enter is None else self.enter(input_ids=x)
        seen = attention_mask[:, None, None, :].bool()
        for layer in self.layers:
            hidden = layer(hidden, attention_mask=seen)
        return hidden if self.leave is None else self.leave(hidden)


class BarePipeline:
    """`Bare` of torch's pipelining over two processes."""

    def __init__(self, session: Any, engine: Any, steps: int) -> None:
        plan, rank = session.plan, dist.get_rank()
        module = plan.model.build(plan.head)
        materialise(module, plan.model, plan.head, plan.seed)
        kernels.install(module, None, torch.device("cpu"))
        self.module, self.rank = Stage(module, rank == 0).train(), rank
        stage = PipelineStage(self.module, rank, 2, torch.device("cpu"))
        self.schedule = Schedule1F1B(stage, BATCH // MICRO, loss_fn=self._loss, scale_grads=False)
        self.optimizer = torch.optim.AdamW(
            self.module.parameters(), lr=session.recipe.optimizer.options["lr"], fused=True
        )
        loader = TrainLoader(
            session.features(session.train), session.bound, place=engine.place, how=Cut(MICRO, plan.micro_batch_tokens, 1), global_batch_size=BATCH, seed=0, pack=None
        )  # fmt: skip
        self.batches = [self._whole(step.microbatches) for step in loader.steps(0, steps)]

    @staticmethod
    def _whole(microbatches: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        rows = [
            [
                torch.nn.functional.pad(torch.as_tensor(b.inputs[key]), (0, LENGTH - b.inputs[key].shape[1]))
                for b in microbatches
            ]
            for key in ("input_ids", "attention_mask")
        ]
        labels = torch.cat([torch.as_tensor(b.targets["labels"]) for b in microbatches])
        return torch.cat(rows[0]), torch.cat(rows[1]), labels

    @staticmethod
    def _loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(logits, labels, reduction="sum") / BATCH

    def step(self, n: int) -> float:
        """Seconds of one step."""
        began = time.perf_counter()
        ids, mask, labels = self.batches[n]
        self.optimizer.zero_grad()
        if self.rank == 0:
            self.schedule.step(ids, attention_mask=mask)
        else:
            self.schedule.step(target=labels, attention_mask=mask)
        parameters = list(self.module.parameters())
        square = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]) ** 2
        dist.all_reduce(square)
        torch.nn.utils.clip_grads_with_norm_(parameters, 1.0, square.sqrt())
        self.optimizer.step()
        return time.perf_counter() - began


def paired(data: str, strategy: Strategy, steps: int) -> list[tuple[float, float]]:
    """(trainer, loop) seconds of each step."""
    registry, rank, size = Registry(), dist.get_rank(), dist.get_world_size()
    tree = {**recipe_of(data, registry, steps=steps).to_json(), "strategy": strategy.value, "loggers": []}
    if strategy == Strategy.TENSOR:
        tree["strategy"] = {"use": "parallel", "tensor_parallel": size}
    elif strategy == Strategy.PIPELINE:
        tree |= {
            "strategy": {"use": "parallel", "pipeline_parallel": size},
            "data": {"source": data, "max_length": LENGTH},
        }
        tree["train"] |= {"micro_batch_size": MICRO}
    tree["launch"] = {"use": "local", "processes": size}
    session = assemble(load_recipe(tree, {}, registry=registry), registry, world_size=size)
    engine: Any = session.strategy.engine(session.plan, session.plan.layout.place(rank, rank))
    pipeline = strategy == Strategy.PIPELINE
    bare: Any = BarePipeline(session, engine, steps) if pipeline else Bare(strategy, session, engine, steps)
    pairs, plain = list[tuple[float, float]](), engine.train_step
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
    if strategy == Strategy.PIPELINE and dist.get_world_size() != 2:
        raise typer.BadParameter("a pipeline is of two processes here: --nproc-per-node 2")
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
