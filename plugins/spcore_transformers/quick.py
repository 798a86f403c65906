"""Modules of transformers that are written as many small operations, computed in few: the same formulas, forward and backward.

On a CPU each operation is a pass over memory, and in a small decoder those take longer than its matrix products. Parameters, names and
hooks stay as they are; where no gradient is asked for (evaluation, export) the modules' own code runs.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers.activations import NewGELUActivation
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.mistral.modeling_mistral import MistralRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

_RMS = (LlamaRMSNorm, MistralRMSNorm, Qwen2RMSNorm, Qwen3RMSNorm)


class _Rms(torch.autograd.Function):  # type: ignore[misc]
    """weight * x / sqrt(mean(x^2) + eps) over the last axis (Zhang and Sennrich 2019), the root in float32 at least."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        squares = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide).square_()
        scale = squares.div_(x.shape[-1]).add_(eps).rsqrt_()
        normed = (x * scale).to(x.dtype)
        ctx.save_for_backward(normed, weight, scale)
        return normed * weight

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        normed, weight, scale = ctx.saved_tensors
        (grad,), of_weight = grads, None
        if ctx.needs_input_grad[1]:
            of_weight = (grad * normed).flatten(0, -2).sum(0, dtype=torch.float32).to(weight.dtype)
        of_normed = grad * weight
        share = torch.linalg.vecdot(of_normed, normed.to(of_normed.dtype))[..., None] / normed.shape[-1]
        return ((of_normed - normed * share) * scale).to(normed.dtype), of_weight, None


def _norm(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    if not torch.is_grad_enabled():
        plain: torch.Tensor = type(module).forward(module, x)
        return plain
    result: torch.Tensor = _Rms.apply(x, module.weight, module.variance_epsilon)
    return result


class _Forward:
    """Stands as a module's `forward`; copied with it."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """As the module's own."""
        return _norm(self.module, x)


def quicken(module: nn.Module) -> None:
    """Give the modules inside the shorter code, where they have one."""
    for part in module.modules():
        if type(part) is NewGELUActivation:
            part.forward = _gelu
        elif type(part) in _RMS:
            part.forward = _Forward(part)


def _gelu(x: torch.Tensor) -> torch.Tensor:
    """GELU's approximation by tanh, which torch has as one operation."""
    return F.gelu(x, approximate="tanh")
