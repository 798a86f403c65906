"""The gradient of an embedding table that is kept between steps is the one that torch makes anew."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from spcore.tensors import embedding

STEPS = [[[1, 2, 2, 0], [5, 1, 0, 0]], [[7, 7, 3, 0]], [[0, 0, 0, 0]], [[2, 9, 9, 9], [1, 0, 0, 0]]]


def gradients(module: nn.Module) -> list[dict[str, torch.Tensor]]:
    """Of each step's microbatches together, gradients dropped between steps as engines do."""
    found = []
    for step in STEPS:
        module.zero_grad(set_to_none=True)
        for ids in step:
            module(torch.tensor([ids])).square().sum().backward()
        found.append({n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None})
    return found


@pytest.mark.parametrize("padding", [None, 0])
def test_equals_torchs_own(padding: int | None) -> None:
    plain = nn.Sequential(nn.Embedding(10, 4, padding_idx=padding), nn.Linear(4, 3))
    quick = copy.deepcopy(plain)
    embedding.install(quick)
    for found, expected in zip(gradients(quick), gradients(plain), strict=True):
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient)
    assert "forward" in quick[0].__dict__
    embedding.uninstall(quick)
    assert "forward" not in quick[0].__dict__


def test_tables_that_serve_more_are_left_alone() -> None:
    tied = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 10))
    tied[1].weight = tied[0].weight
    frozen = nn.Embedding(10, 4).requires_grad_(False)
    others = [tied, frozen, nn.Embedding(10, 4, max_norm=1.0), nn.Embedding(10, 4, scale_grad_by_freq=True)]
    for module in others:
        embedding.install(module)
        assert not any("forward" in part.__dict__ for part in module.modules())
