"""A plugin for tests: strategy `eight-bits` is `single`, with the operands of linear layers rounded to 8 bits as `Plan.precision.fp8` says: what
an engine for a GPU that has such products does by kernels."""

from __future__ import annotations

from typing import Any

import torch

from spcore.components import Component
from spcore.hooks import hookimpl
from spcore.interfaces.precision import Fp8Recipe
from spcore.interfaces.strategy import Engine, Place, Plan, Refusal
from spcore_torch.kernels import Product
from spcore_torch.single import Single, SingleEngine

SPCORE_API = "1.0"


class EightBits(Single):
    def check(self, plan: Plan) -> list[Refusal]:
        fp8 = plan.precision.fp8
        if fp8 is None or fp8.scaling != "tensor":
            return [Refusal(f"precision {plan.precision.name!r}", "only 8 bits with a scale a tensor are made here")]
        return [refusal for refusal in super().check(plan) if "8-bit" not in refusal.reason]

    def engine(self, plan: Plan, place: Place) -> Engine:
        return EightBitsEngine(plan, place, self.options)


class EightBitsEngine(SingleEngine):
    def _build(self, plan: Plan, device: torch.device, alone: bool) -> None:
        super()._build(plan, device, alone)
        assert plan.precision.fp8 is not None
        for forward in self.products:
            forward.product = rounded(forward.product, plan.precision.fp8)


def rounded(product: Product, recipe: Fp8Recipe) -> Product:
    """Of a linear layer's three products the first has a weight as it lies in memory; the others have gradients for the first operand."""
    wide = torch.float8_e5m2 if recipe.format == "hybrid" else torch.float8_e4m3fn

    def narrow(x: torch.Tensor, kind: torch.dtype) -> torch.Tensor:
        scale = torch.finfo(kind).max / x.abs().amax().clamp_min(1e-12).float()
        return ((x.float() * scale).to(kind).float() / scale).to(x.dtype)

    def eight(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        gradient = not weight.is_contiguous()
        return product(narrow(x, wide if gradient else torch.float8_e4m3fn), narrow(weight, torch.float8_e4m3fn), bias)

    return eight


@hookimpl
def spcore_components() -> list[Component]:
    options: Any = "spcore_torch.options:SingleOptions"
    return [Component("strategy", "eight-bits", "precision.eight_bits:EightBits", "8 bits", options=options)]
