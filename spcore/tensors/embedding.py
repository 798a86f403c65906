"""Embedding tables on a CPU whose gradient costs what a step's tokens cost, not what the table does: one buffer is kept, and before
it is used again only the rows that were written are cleared. torch's own fills a new table with zeros each time.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


class _Lookup(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, ids: torch.Tensor, kept: _Forward) -> torch.Tensor:
        ctx.save_for_backward(ids)
        ctx.kept = kept
        return F.embedding(ids, weight)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[None, None, None]:
        ctx.kept.add(ctx.saved_tensors[0].reshape(-1), grads[0].reshape(-1, grads[0].shape[-1]))
        return None, None, None


class _Forward:
    """Stands as an embedding's `forward`. written: ids of the rows that are not zero in the buffer."""

    def __init__(self, table: nn.Embedding) -> None:
        self.table, self.buffer = table, torch.zeros_like(table.weight)
        self.written: list[torch.Tensor] = []

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        """As `nn.Embedding.forward`."""
        result: torch.Tensor = _Lookup.apply(self.table.weight, ids, self)
        return result

    def add(self, ids: torch.Tensor, grad: torch.Tensor) -> None:
        """Accumulate into the weight's gradient."""
        weight = self.table.weight
        if weight.grad is not self.buffer:
            assert weight.grad is None, "a table whose gradient comes from here alone"
            for rows in self.written:
                self.buffer.index_fill_(0, rows, 0)
            self.written, weight.grad = [], self.buffer
        self.buffer.index_add_(0, ids, grad.to(self.buffer.dtype))
        if self.table.padding_idx is not None:
            self.buffer[self.table.padding_idx] = 0
        self.written.append(ids)


def install(module: nn.Module) -> None:
    """Give a module's tables on a CPU the quick gradient, as far as they serve nothing else: not where an output layer is tied."""
    uses: dict[torch.Tensor, int] = {}
    for part in module.modules():
        for weight in part._parameters.values():
            if weight is not None:
                uses[weight] = uses.get(weight, 0) + 1
    for table in module.modules():
        if type(table) is nn.Embedding and uses[table.weight] == 1 and table.weight.requires_grad and _plain(table):
            table.forward = _Forward(table)


def _plain(table: nn.Embedding) -> bool:
    return table.max_norm is None and not table.scale_grad_by_freq and not table.sparse


def uninstall(module: nn.Module) -> None:
    """Take back what `install` gave."""
    for table in module.modules():
        if isinstance(table.__dict__.get("forward"), _Forward):
            del table.forward
