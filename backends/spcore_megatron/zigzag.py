"""Positions of a text that a context-parallel group shares, in Megatron's order (`spcore_megatron.attention.held`)."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.distributed as dist

from spcore_megatron.attention import held


class Zigzag:
    """One rank's part: `spcore.interfaces.model.Positions`. group: the process group of the axis "context"."""

    def __init__(self, group: Any) -> None:
        self.group, self.rank, self.size = group, dist.get_rank(group), dist.get_world_size(group)

    def own(self, x: torch.Tensor, axis: int) -> torch.Tensor:
        """See `Positions.own`."""
        return x.index_select(axis, held(x.shape[axis], self.rank, self.size).to(x.device))

    def gather(self, x: torch.Tensor, axis: int) -> torch.Tensor:
        """See `Positions.gather`."""
        whole: torch.Tensor = _Gather.apply(x, self, axis)
        return whole

    def apart(self) -> AbstractContextManager[None]:
        """See `Positions.apart`: Megatron's layers draw from generators of their own."""
        return contextlib.nullcontext()


class _Gather(torch.autograd.Function):  # type: ignore[misc]
    """All positions, in order; backward the ranks' gradients summed, each its own part of them."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, shared: Zigzag, axis: int) -> torch.Tensor:
        ctx.rest = (shared, axis)
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(shared.size)]
        dist.all_gather(parts, x.contiguous(), group=shared.group)
        length = x.shape[axis] * shared.size
        order = torch.cat([held(length, rank, shared.size) for rank in range(shared.size)]).argsort()
        return torch.cat(parts, axis).index_select(axis, order.to(x.device))

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        shared, axis = ctx.rest
        total = grads[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=shared.group)
        return shared.own(total, axis), None, None
