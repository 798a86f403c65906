from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from spcore.errors import RunError
from spcore.interfaces.precision import LossScaling
from spcore.tensors.stepping import Scaler, scaled_step


def test_the_scale_grows_and_backs_off() -> None:
    scaler = Scaler.of(LossScaling(initial=8.0, growth=2.0, backoff=0.25, interval=3))
    seen = []
    for finite in (True, True, True, True, False, True, True, True):
        scaler.update(finite)
        seen.append((scaler.scale, scaler.good))
    assert seen == [(8, 1), (8, 2), (16, 0), (16, 1), (4, 0), (4, 1), (4, 2), (8, 0)]


def test_without_a_rule_nothing_changes() -> None:
    scaler = Scaler.of(None)
    scaler.update(False)
    assert scaler == Scaler(None, 1.0, 0)


def test_a_scale_that_helps_nothing_ends_the_run() -> None:
    scaler = Scaler.of(LossScaling(initial=2.0**-13))
    scaler.update(False)
    with pytest.raises(RunError, match=r"loss scale fell to .*gradients are not finite at any scale.*precision=bf16"):
        scaler.update(False)


@pytest.mark.parametrize("kernel", [{"fused": True}, {"foreach": True}, {}])
@pytest.mark.parametrize("factor", [1.0, 0.3, 7.0])
def test_a_scaled_step_is_one_on_scaled_gradients(kernel: dict[str, Any], factor: float) -> None:
    torch.manual_seed(0)
    mine = torch.nn.Linear(6, 4)
    theirs = copy.deepcopy(mine)
    ours = torch.optim.AdamW(mine.parameters(), lr=0.1, **kernel)
    plain = torch.optim.AdamW(theirs.parameters(), lr=0.1)
    for step in range(3):
        for p, q in zip(mine.parameters(), theirs.parameters(), strict=True):
            p.grad = torch.randn_like(p) * (step + 1)
            q.grad = p.grad * factor
        scaled_step(ours, factor)
        plain.step()
    for p, q in zip(mine.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
    assert not hasattr(ours, "grad_scale")
    assert not hasattr(ours, "found_inf")


def test_a_step_without_gradients_does_nothing() -> None:
    layer = torch.nn.Linear(2, 2)
    before = layer.weight.clone()
    scaled_step(torch.optim.AdamW(layer.parameters(), fused=True), 0.5)
    assert layer.weight.equal(before)
