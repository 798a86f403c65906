"""What strategy `megatron` costs beside a bare megatron-core loop of the same model, processes and batch.

    torchrun --nproc-per-node 2 tests/bench/megatron_loop.py DATA [--tensor 2] [--pipeline 2] [--steps 44] [--device cuda --peak 990] [--json]

DATA: text of any amount, as `corpus` reads it. The bare loop is what megatron-core's own examples are: its GPTModel (with our layers, so that
kernels are the same), its DistributedDataParallel, optimizer and schedule, its vocabulary-parallel loss, tensors ready. On the same processes
both work on the same rows of a Llama of MiniLM's size and take turns step by step: after each step of the trainer every process makes one of the
loop's. A pair is two steps on the same rows; the trainer's time is everything between two of the loop's (loading, collating, the step,
events). Figures are of rank 0: medians, with the quartiles of the pairs, the first four left out; the losses of both say that they do the
same. `--peak`: what a device can do in TFLOP/s, for the share of it that is used (6 operations a parameter and token).
"""

from __future__ import annotations

import json
import logging
import os
import statistics
import threading
import time
import warnings
from collections.abc import Iterator
from typing import Annotated, Any

import torch
import torch.distributed as dist
import typer
from overhead import summary

from spcore.components import Registry
from spcore.loading import Cut, TrainLoader
from spcore.recipe import load_recipe
from spcore.session import assemble
from spcore.trainer import Trainer

LENGTH, ROWS, MICRO = 128, 32, 16
SIZES = {"hidden_size": 384, "layers": 6, "heads": 12, "intermediate_size": 1536, "positions": LENGTH}


def recipe_of(data: str, tensor: int, pipeline: int, steps: int, device: str, size: int) -> dict[str, Any]:
    """A run over these processes; no dropout, as Llamas have none."""
    return {
        "model": {"use": "transformers", "architecture": "llama", "tokenizer": "bytes", "tie_embeddings": False, **SIZES},
        "task": {"use": "causal-lm", "min_tail": LENGTH},
        "data": {"use": "corpus", "source": data, "max_length": LENGTH},
        "optimizer": {"use": "adamw", "lr": 1e-4, "weight_decay": 0.0}, "schedule": {"use": "constant"},
        "strategy": {"use": "megatron", "tensor_parallel": tensor, "pipeline_parallel": pipeline},
        "launch": {"use": "local", "processes": size}, "precision": "fp32" if device == "cpu" else "bf16", "device": device, "loggers": [],
        "train": {"epochs": None, "steps": steps, "global_batch_size": ROWS, "micro_batch_size": MICRO, "clip_norm": 1.0},
    }  # fmt: skip


class Bare:
    """The loop that a person writes with megatron-core."""

    def __init__(self, session: Any, engine: Any, steps: int) -> None:
        from megatron.core import parallel_state as ps
        from megatron.core.distributed import DistributedDataParallel, finalize_model_grads
        from megatron.core.models.gpt import GPTModel
        from megatron.core.optimizer import get_megatron_optimizer

        from spcore_megatron import layers, settings

        plan, options = session.plan, engine.options
        self.config = engine.family.config(plan.model.config, **settings.transformer(plan, options, engine.device))
        spec = layers.block(self.config, causal=True, post_norm=False, masks=False, vp_stage=None)
        model = GPTModel(
            self.config, spec, plan.model.config.vocab_size, LENGTH, pre_process=ps.is_pipeline_first_stage(),
            post_process=ps.is_pipeline_last_stage(), position_embedding_type="rope", share_embeddings_and_output_weights=False,
        ).to(engine.device)  # fmt: skip
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(1.0) if parameter.dim() == 1 else parameter.normal_(0, 0.02)
        self.module = DistributedDataParallel(self.config, settings.reduction(options), model)
        self.module.broadcast_params()
        given = settings.optimizer(plan, options)
        given.clip_grad, given.lr = plan.clip_norm, plan.optimizer.lr
        self.optimizer = get_megatron_optimizer(given, [self.module])
        self.config.finalize_model_grads_func = finalize_model_grads
        self.config.no_sync_func = self.module.no_sync
        self.config.grad_scale_func = self.optimizer.scale_loss
        self.losses: list[float] = []
        how = Cut(plan.micro_batch_size, None, engine.place.data_size)
        loader = TrainLoader(
            session.features(session.train), session.bound, place=engine.place, how=how, global_batch_size=ROWS, seed=0, pack=None
        )  # fmt: skip
        self.batches = [list(map(engine.prepared, step.microbatches)) for step in loader.steps(0, steps)]
        self.module.train()

    def step(self, n: int) -> float:
        """Seconds of one step. Losses are sums, which megatron-core divides by the tokens of all processes."""
        from megatron.core.pipeline_parallel import get_forward_backward_func

        def forward(batches: Iterator[Any], model: Any) -> Any:
            batch = next(batches)
            ids, labels = batch.inputs["input_ids"], batch.targets["labels"]
            places = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
            found = model(ids, places, None, labels=labels.clamp(min=0))

            def judged(losses: torch.Tensor) -> Any:
                kept = labels >= 0
                total = (losses * kept).sum()
                return total, kept.sum().int(), total.detach().clone()

            return found, judged

        began, batches = time.perf_counter(), self.batches[n]
        self.module.zero_grad_buffer()
        self.optimizer.zero_grad()
        totals = get_forward_backward_func()(
            forward_step_func=forward, data_iterator=iter(batches), model=self.module, num_microbatches=len(batches), seq_length=LENGTH,
            micro_batch_size=len(batches[0].inputs["input_ids"]), forward_only=False,
        )  # fmt: skip
        self.optimizer.step()
        if totals:
            self.losses.append(float(sum(totals)))
        return time.perf_counter() - began


def paired(tree: dict[str, Any]) -> tuple[list[tuple[float, float]], dict[str, float]]:
    """(trainer, loop) seconds of each step, and what they made: parameters, tokens of a step, how far the loops' losses fell."""
    registry, rank, size = Registry(), dist.get_rank(), dist.get_world_size()
    session = assemble(load_recipe(tree, {}, registry=registry), registry, world_size=size)
    engine: Any = session.strategy.engine(session.plan, session.plan.layout.place(rank, rank))
    steps = tree["train"]["steps"]
    bare, pairs, plain = Bare(session, engine, steps), list[tuple[float, float]](), engine.train_step
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
    made = {"parameters": float(engine.parameters()[0]), "tokens": float(ROWS * LENGTH)}
    made["bare_losses"] = bare.losses[-1] / bare.losses[0] if bare.losses else 0.0
    engine.close()
    return pairs, made


def main(
    data: Annotated[str, typer.Argument(help="Text of any amount, as under `data.source` of data set `corpus`.")],
    tensor: Annotated[int, typer.Option(help="Processes that share matrices.")] = 1,
    pipeline: Annotated[int, typer.Option(help="Processes that share layers.")] = 1,
    steps: Annotated[int, typer.Option(help="Steps that the two take in turns.")] = 44,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    peak: Annotated[float | None, typer.Option(help="TFLOP/s of a device, for the share that is used.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as one JSON object.")] = False,
) -> None:
    """Compare."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    dist.init_process_group("gloo" if device == "cpu" else "nccl")
    pairs, made = paired(recipe_of(data, tensor, pipeline, steps, device, dist.get_world_size()))
    if dist.get_rank() == 0:
        kept = pairs[4:]
        each = {"trainer": statistics.median(a for a, _ in kept), "bare": statistics.median(b for _, b in kept)}
        report: dict[str, Any] = {
            "processes": dist.get_world_size(), "tensor": tensor, "pipeline": pipeline, "over_bare": summary([a / b for a, b in kept]),
            "milliseconds": {name: s * 1e3 for name, s in each.items()}, "tokens_per_second": made["tokens"] / each["trainer"],
            "loss_of_the_bare_loop": made["bare_losses"],
        }  # fmt: skip
        if peak is not None:
            work = 6 * made["parameters"] * report["tokens_per_second"]
            report["share_of_peak"] = work / (peak * 1e12 * dist.get_world_size())
        print(json.dumps(report, indent=None if as_json else 1), flush=True)
    os._exit(0)  # taking gloo's threads down in order aborts now and then


if __name__ == "__main__":
    typer.run(main)
