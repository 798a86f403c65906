"""Dropout on a CPU, several times faster than torch's: the same distribution, drawn in bulk.

Every mask is seeded by one draw of torch's generator, so it is replayed where that is, and a resumed run draws what an undisturbed
one would.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import nn


def keep_mask(shape: torch.Size, dropout: float, dtype: torch.dtype) -> torch.Tensor:
    """0 with probability `dropout` (to 1e-9), else 1 / (1 - dropout). The bits are SFC64's."""
    size = math.prod(shape)
    seed = int(torch.randint(2**62, ()))
    bits = torch.from_numpy(np.random.SFC64(seed).random_raw((size + 1) // 2).view(np.int32)[:size])
    return (bits >= round(dropout * 2**32) - 2**31).to(dtype).mul_(1 / (1 - dropout)).view(shape)


class _Dropout(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, dropout: float) -> torch.Tensor:
        kept = keep_mask(x.shape, dropout, x.dtype)
        ctx.save_for_backward(kept)
        return x * kept

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grads[0] * ctx.saved_tensors[0], None


class _Forward:
    """Stands as a dropout layer's `forward`."""

    def __init__(self, layer: nn.Dropout) -> None:
        self.layer = layer

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """As `nn.Dropout.forward`."""
        if not self.layer.training or not self.layer.p:
            return x
        result: torch.Tensor = _Dropout.apply(x, self.layer.p)
        return result


def install(module: nn.Module) -> None:
    """Give the dropout layers of a module on a CPU the quick mask."""
    for layer in module.modules():
        if type(layer) is nn.Dropout and not layer.inplace and 0 <= layer.p < 1:
            layer.forward = _Forward(layer)


def uninstall(module: nn.Module) -> None:
    """Take back what `install` gave."""
    for layer in module.modules():
        if isinstance(layer.__dict__.get("forward"), _Forward):
            del layer.forward
