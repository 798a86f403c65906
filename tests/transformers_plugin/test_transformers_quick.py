"""Modules with shorter code give what transformers' own give, forward and backward."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers.activations import NewGELUActivation
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from spcore_transformers.quick import quicken


def both(module: nn.Module, x: torch.Tensor, grad: torch.Tensor) -> list[list[torch.Tensor]]:
    """Output, gradient of the input and of the parameters: transformers' code, ours, and ours of a copy."""
    quick = copy.deepcopy(module)
    quicken(quick)
    found = []
    for one in (module, quick, copy.deepcopy(quick)):
        given = x.clone().requires_grad_()
        out = one(given)
        out.backward(grad.to(out.dtype))
        assert given.grad is not None
        found.append([out.detach(), given.grad, *(p.grad for p in one.parameters() if p.grad is not None)])
    return found


@pytest.mark.parametrize("module", [LlamaRMSNorm(48), Qwen3RMSNorm(48, eps=1e-5), NewGELUActivation()])
@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 2e-6), (torch.bfloat16, 8e-3), (torch.float64, 2e-6)])
def test_same_numbers(module: nn.Module, dtype: torch.dtype, most: float) -> None:
    """most: of float32, whose root a norm takes in float64 too, and of what 8 bits of a mantissa round away twice."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.uniform_(parameter, 0.5, 2)
    module.zero_grad()
    x, grad = torch.randn(2, 5, 48, dtype=dtype), torch.randn(2, 5, 48, dtype=dtype)
    plain, quick, copied = both(module, x, grad)
    assert len(plain) == len(quick) == 2 + len(list(module.parameters()))
    for wanted, found, again in zip(plain, quick, copied, strict=True):
        assert found.dtype == wanted.dtype
        assert (found - wanted).norm() <= most * wanted.norm()
        assert torch.equal(found, again)


def test_without_gradients_nothing_changes() -> None:
    """Evaluation and export run the modules' own code."""
    module = LlamaRMSNorm(8)
    quicken(module)
    x = torch.randn(3, 8)
    with torch.no_grad():
        assert torch.equal(module(x), LlamaRMSNorm.forward(module, x))
