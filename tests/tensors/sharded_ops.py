"""Run by test_ops: two gloo processes compare `VocabularyOps` with `WholeOps`, values and gradients."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

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


def worker(rank: int, meeting: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    compare(rank, dist.group.WORLD)
    compare_data(rank, dist.group.WORLD)
    print("alike", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(worker, (str(Path(folder) / "meeting"),), nprocs=2)
    sys.exit(0)
