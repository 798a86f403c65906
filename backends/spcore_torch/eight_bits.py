"""Products of linear layers in 8 bits on devices that multiply them, as training in FP8 is done (Micikevicius et al. 2022, arXiv:2209.05433): both operands
scaled to their format's range by their largest entry as it is now, e4m3 for weights and activations, e5m2 for gradients where the recipe says "hybrid", sums
in float32, results in bfloat16. What is no linear layer, or one of which a size is no multiple of 16, is computed in bfloat16.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.functional import ScalingType, scaled_mm

from spcore.interfaces.precision import Fp8Recipe
from spcore.interfaces.strategy import Plan, Refusal

MULTIPLE = 16
"""What sizes of a product must be multiples of. Numbers of rows are filled up."""
CAPABILITY = (8, 9)
"""Of CUDA devices from which on they multiply 8 bits."""


def refusals(plan: Plan, device: str) -> list[Refusal]:
    """Whether a policy's 8 bits can be honoured."""
    recipe, subject, hint = plan.precision.fp8, f"precision {plan.precision.name!r}", "use precision=bf16"
    if recipe is None:
        return []
    if not device.startswith("cuda") or torch.cuda.get_device_capability(device) < CAPABILITY:
        return [Refusal(subject, f"device {device!r} has no 8-bit products", hint)]
    if recipe.scaling != "tensor" or plan.precision.compute != "bfloat16":
        why = f"a scale a {recipe.scaling}, results in {plan.precision.compute}: made here are a scale a tensor, results in bfloat16"
        return [Refusal(subject, why, hint)]
    return []


def fits(linear: nn.Linear) -> bool:
    """Whether a layer's products can be made in 8 bits."""
    return bool(linear.in_features % MULTIPLE == 0 and linear.out_features % MULTIPLE == 0)


def products(recipe: Fp8Recipe) -> tuple[Callable[..., torch.Tensor], Callable[..., torch.Tensor]]:
    """A `Product` for the forward pass, and one whose first operand is a gradient."""
    wide = torch.float8_e5m2 if recipe.format == "hybrid" else torch.float8_e4m3fn
    return functools.partial(_product, torch.float8_e4m3fn), functools.partial(_product, wide)


def _product(kind: torch.dtype, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """[n, i] by [o, i] -> [n, o], x in `kind`."""
    left, left_scale = _narrow(x, kind, filled=True)
    right, right_scale = _narrow(weight, torch.float8_e4m3fn, filled=False)
    by = ScalingType.TensorWise
    y = scaled_mm(left, right.t(), left_scale, by, right_scale, by, bias=bias, output_dtype=x.dtype)
    return y[: x.shape[0]]


def _narrow(x: torch.Tensor, kind: torch.dtype, *, filled: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Row-major in 8 bits, columns, and rows if `filled`, filled up with zeros; and what it must be multiplied by, float32 []. What is not finite stays so."""
    top = torch.finfo(kind).max
    low, high = torch.aminmax(x)
    scale = torch.maximum(-low, high).float().clamp_min(torch.finfo(torch.float32).tiny * top) / top
    narrow = x / scale[None, None]  # of two dimensions, so that it is made in float32
    rows, columns = -x.shape[0] % MULTIPLE if filled else 0, -x.shape[1] % MULTIPLE
    if rows or columns:
        narrow = F.pad(narrow, (0, columns, 0, rows))
    return narrow.to(kind, memory_format=torch.contiguous_format), scale
