"""Run by test_two_ranks: two gloo processes compare `VocabularyOps` with `WholeOps`, and engines that share a step with one that
has it whole."""

from __future__ import annotations

import math
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from tensor_fakes import Pairs, Weighted, cut, plan_of, rows_of

from spcore.interfaces.strategy import Place, Plan, StepReport
from spcore.tensors.engine import TorchEngine
from spcore.tensors.materialise import materialise
from spcore.tensors.ops import VocabularyOps, WholeOps

SIZE, SPLIT, PADDING = 11, 7, 2


def losses(labels: torch.Tensor) -> list[Callable[[WholeOps, dict[str, torch.Tensor]], torch.Tensor]]:
    """What tasks make of outputs."""
    return [
        lambda ops, out: ops.token_logprobs(out, labels),
        lambda ops, out: ops.logprob_mean(out) * torch.linspace(0.5, 2.0, 5),
        lambda ops, out: ops.full(out, "logits").softmax(-1)[..., ::3],
        lambda ops, out: ops.token_logprobs(out, labels, "whole") + ops.logprob_mean(out, "whole"),
    ]


def compare(rank: int, group: object) -> None:
    generator = torch.Generator().manual_seed(0)
    whole = (torch.randn(4, 5, SIZE, generator=generator) * 5).requires_grad_()
    labels = torch.randint(SIZE, (4, 5), generator=generator)
    labels[1, 2:], labels[3] = -100, -1
    first, last = (0, SPLIT) if rank == 0 else (SPLIT, SIZE)
    own = whole.detach()[..., first:last]
    if rank == 1:
        own = torch.cat([own, torch.full((4, 5, PADDING), 99.0)], -1)
    own = own.clone().requires_grad_()
    sharded, plain = VocabularyOps(group, first, SIZE, {"logits"}), WholeOps()
    for fn in losses(labels):
        other = whole.detach().clone().requires_grad_()
        expected = fn(plain, {"logits": whole, "whole": other})
        mirrored = other.detach().clone().requires_grad_()
        found = fn(sharded, {"logits": own, "whole": mirrored})
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        inputs, mine = (t for t in ((whole, other), (own, mirrored)))
        grads = torch.autograd.grad(expected.sum(), inputs, allow_unused=True)
        ours = torch.autograd.grad(found.sum(), mine, allow_unused=True)
        if grads[0] is not None:
            torch.testing.assert_close(ours[0][..., : last - first], grads[0][..., first:last], rtol=1e-5, atol=1e-6)
            assert not ours[0][..., last - first :].any(), "padding columns have a gradient"
    assert sharded.argmax({"logits": own}).equal(whole.argmax(-1))
    level = torch.zeros(2, own.shape[-1])
    assert sharded.argmax({"logits": level}).tolist() == [0, 0], "of equal logits the first"


def compare_data(rank: int, group: object) -> None:
    """The mean over ranks, and the gradient of the sum of losses that differ."""
    x = torch.tensor([1.0, 2.0]) + rank
    x.requires_grad_()
    mean = WholeOps(group).mean_over_data(x)
    torch.testing.assert_close(mean.detach(), torch.tensor([1.5, 2.5]))
    ((rank + 1) * mean.sum()).backward()
    torch.testing.assert_close(x.grad, torch.tensor([1.5, 1.5]))  # (1 + 2) / 2


class Ranked(TorchEngine):
    """The base with data-parallel ranks: a sum of gradients is all it needs."""

    def __init__(self, plan: Plan, rank: int, size: int) -> None:
        module = plan.model.build(plan.head)
        materialise(module, plan.model, plan.head, plan.seed)
        place = Place(rank=rank, world_size=size, data_rank=rank, data_size=size, is_writer=rank == 0)
        super().__init__(plan, place, module, data_group=dist.group.WORLD if size > 1 else None)

    def reduce_gradients(self) -> None:
        for p in self.own_parameters().values() if self.together else ():
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
            dist.all_reduce(p.grad)

    def facts(self) -> Mapping[str, str]:
        return {}


def near(found: StepReport, expected: StepReport) -> bool:
    figures = [(found.loss, expected.loss), (found.grad_norm, expected.grad_norm)]
    figures += [(found.terms[t], expected.terms[t]) for t in expected.terms]
    figures += [(found.totals[t], expected.totals[t]) for t in expected.totals]
    return all(math.isclose(a, b, rel_tol=1e-5) for a, b in figures)


def compare_engines(rank: int, task: Weighted) -> None:
    """One rank has five rows in two microbatches, the other three rows and filler."""
    rows, plan = rows_of(), plan_of(task)
    parts = [cut(rows[:5], 3, task.terms), cut(rows[5:], 2, task.terms, fill=1)]
    if task.terms == Pairs.terms:
        parts = [[replace(b, weights={"contrast": float((b.feature_ids >= 0).sum())}) for b in part] for part in parts]
    shared, whole = Ranked(plan, rank, 2), Ranked(plan, 0, 1)
    for step in range(3):
        found = shared.train_step(parts[rank], 1e-2, step)
        assert near(found, whole.train_step([*parts[0], *parts[1]], 1e-2, step)), step
        every = shared.collect(found, everywhere=True)
        assert every == [found, found], "the same report on every rank"
    assert all(
        torch.allclose(p, q, rtol=1e-4, atol=1e-6)
        for p, q in zip(shared.module.parameters(), whole.module.parameters(), strict=True)
    )
    assert bool(dict(shared.weights())) == (rank == 0), "only the writer receives weights"
    assert shared.agree(rank) == 1
    assert shared.collect(rank) == ([0, 1] if rank == 0 else None)


def compare_nonfinite(rank: int) -> None:
    """What is not finite on one rank is left out on both, under the same names."""
    task = Weighted(blow_up=math.inf if rank == 1 else 0.0)
    engine = Ranked(plan_of(task), rank, 2)
    report = engine.train_step(cut(rows_of()[:4], 2), 1e-2, 0)
    assert not report.applied
    assert "loss 'classes'" in report.nonfinite
    assert engine.collect(report.nonfinite, everywhere=True) == [report.nonfinite] * 2


def worker(rank: int, meeting: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    compare(rank, dist.group.WORLD)
    compare_data(rank, dist.group.WORLD)
    for task in (Weighted(), Pairs()):
        compare_engines(rank, task)
    compare_nonfinite(rank)
    dist.barrier()
    print("alike", flush=True)
    os._exit(0)  # taking gloo's threads down in order aborts now and then


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(worker, (str(Path(folder) / "meeting"),), nprocs=2)
    sys.exit(0)
