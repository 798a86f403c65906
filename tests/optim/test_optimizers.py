"""The optimizers against torch's plain loops, and Lion against its formula in numpy."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor, Shard, distribute_tensor, init_device_mesh

from spcore.interfaces.optimizer import Optimizer
from spcore_optim.lion import LionOptimizer
from spcore_optim.optimizers import Adafactor, AdamW, Lion, Muon, Sgd, kernel
from spcore_optim.options import AdafactorOptions, AdamWOptions, LionOptions, MuonOptions, SgdOptions

SHAPES = {"a.weight": (6, 4), "b.weight": (3, 5), "b.bias": (3,), "norm.weight": (4,)}
RATES = [0.0, 0.01, 0.02, *[0.02 * (1 - n / 20) for n in range(20)]]


def parameters(seed: int = 0, **kind: Any) -> dict[str, torch.nn.Parameter]:
    random = torch.Generator().manual_seed(seed)
    return {n: torch.nn.Parameter(torch.randn(s, generator=random).to(**kind)) for n, s in SHAPES.items()}


def groups(part: Optimizer, held: dict[str, torch.nn.Parameter]) -> list[dict[str, Any]]:
    """As an engine makes them."""
    keyed: dict[Any, list[torch.nn.Parameter]] = {}
    for name, parameter in held.items():
        keyed.setdefault(part.groups(name, tuple(parameter.shape)), []).append(parameter)
    return [key.group(params, part.lr) for key, params in keyed.items()]


def gradients(step: int, held: dict[str, torch.nn.Parameter]) -> None:
    random = torch.Generator().manual_seed(1000 + step)
    for parameter in held.values():
        parameter.grad = torch.randn(parameter.shape, generator=random).to(parameter.dtype)


def run(optimizer: torch.optim.Optimizer, held: dict[str, torch.nn.Parameter], rates: list[float] = RATES) -> None:
    for step, rate in enumerate(rates):
        gradients(step, held)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()


CASES: dict[str, tuple[Optimizer, Any]] = {
    "adamw": (
        AdamW(AdamWOptions(weight_decay=0.1, betas=(0.8, 0.95), eps=1e-6)),
        lambda g: torch.optim.AdamW(g, betas=(0.8, 0.95), eps=1e-6, fused=False, foreach=False),
    ),
    "sgd": (Sgd(SgdOptions(weight_decay=0.1)), lambda g: torch.optim.SGD(g, lr=1, momentum=0.9, foreach=False)),
    "nesterov": (
        Sgd(SgdOptions(momentum=0.5, nesterov=True)),
        lambda g: torch.optim.SGD(g, lr=1, momentum=0.5, nesterov=True, fused=False, foreach=False),
    ),
    "plain": (Sgd(SgdOptions(momentum=0)), lambda g: torch.optim.SGD(g, lr=1, fused=False, foreach=False)),
    "adafactor": (
        Adafactor(AdafactorOptions(weight_decay=0.1, beta2_decay=-0.7, eps=2.0, clip_threshold=2.0)),
        lambda g: torch.optim.Adafactor(g, beta2_decay=-0.7, eps=(None, 2.0), d=2.0, foreach=False),
    ),
}


@pytest.mark.parametrize("case", sorted(CASES))
def test_the_trajectory_is_that_of_torch_s_plain_loop(case: str) -> None:
    part, oracle = CASES[case]
    own, plain = parameters(), parameters()
    run(part.build(groups(part, own)), own)
    run(oracle(groups(part, plain)), plain)
    for name in SHAPES:
        torch.testing.assert_close(own[name], plain[name], rtol=0, atol=1e-6)
        assert not torch.equal(own[name], parameters()[name])


def numpy_lion(
    start: np.ndarray, grads: list[np.ndarray], rates: list[float], betas: tuple[float, float], decay: float
) -> np.ndarray:
    """Algorithm 2 of Chen et al., line by line."""
    w, m = start.copy(), np.zeros_like(start)
    for g, lr in zip(grads, rates, strict=True):
        c = betas[0] * m + (1 - betas[0]) * g
        w = w - lr * (np.sign(c) + decay * w)
        m = betas[1] * m + (1 - betas[1]) * g
    return w


def test_lion_is_its_formula() -> None:
    part = Lion(LionOptions(betas=(0.85, 0.97), weight_decay=0.3))
    held = parameters(dtype=torch.float64)
    start = {name: p.detach().numpy().copy() for name, p in held.items()}
    optimizer = part.build(groups(part, held))
    grads: dict[str, list[np.ndarray]] = {name: [] for name in held}
    for step in range(len(RATES)):
        gradients(step, held)
        for name, parameter in held.items():
            grads[name].append(parameter.grad.numpy().copy())
    run(optimizer, held)
    for name, parameter in held.items():
        decay = part.groups(name, tuple(parameter.shape)).weight_decay
        expected = numpy_lion(start[name], grads[name], RATES, (0.85, 0.97), decay)
        np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=0, atol=1e-12)


def test_lion_leaves_alone_what_has_no_gradient_or_a_zero_one() -> None:
    held = [torch.nn.Parameter(torch.ones(3)) for _ in range(3)]
    held[1].grad, held[2].grad = torch.zeros(3), torch.tensor([0.0, 2.0, -1e-9])
    optimizer = LionOptimizer(held, lr=0.5, betas=(0.9, 0.99))
    optimizer.step()
    assert held[0].tolist() == held[1].tolist() == [1, 1, 1]
    assert held[2].tolist() == [1, 0.5, 1.5]
    assert held[0] not in optimizer.state


def test_lion_returns_the_closure_s_loss() -> None:
    weight = torch.nn.Parameter(torch.tensor([2.0]))
    optimizer = LionOptimizer([weight], lr=0.5, betas=(0.9, 0.99))

    def closure() -> float:
        loss = (weight**2).sum()
        loss.backward()
        return float(loss.detach())

    assert optimizer.step(closure) == 4.0
    assert weight.item() == 1.5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_lion_keeps_its_moments_in_the_parameters_format(dtype: torch.dtype) -> None:
    held = parameters(dtype=dtype)
    optimizer = LionOptimizer(held.values(), lr=0.1, betas=(0.9, 0.99))
    run(optimizer, held, [0.1])
    assert {state["exp_avg"].dtype for state in optimizer.state.values()} == {dtype}


@pytest.fixture
def mesh() -> Iterator[Any]:
    """One process that is a group by itself."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


@pytest.mark.parametrize("part", [AdamW(AdamWOptions()), Lion(LionOptions()), Sgd(SgdOptions()), Muon(MuonOptions())])
def test_shards_are_updated_as_whole_parameters_are(part: Optimizer, mesh: Any) -> None:
    whole, shards = parameters(), {}
    for name, p in whole.items():
        shards[name] = torch.nn.Parameter(distribute_tensor(p.detach().clone(), mesh, [Shard(0)]))
    optimizers = [part.build(groups(part, whole)), part.build(groups(part, shards))]
    for step in range(3):
        gradients(step, whole)
        for name, shard in shards.items():
            shard.grad = distribute_tensor(whole[name].grad.clone(), mesh, [Shard(0)])
        for optimizer in optimizers:
            optimizer.step()
    for name, shard in shards.items():
        assert isinstance(shard, DTensor)
        torch.testing.assert_close(shard.full_tensor(), whole[name], rtol=0, atol=1e-7)


@pytest.mark.parametrize("case", [*sorted(CASES), "lion"])
def test_it_goes_on_from_its_state(case: str) -> None:
    part = CASES[case][0] if case != "lion" else Lion(LionOptions())
    own = parameters()
    first = part.build(groups(part, own))
    run(first, own, RATES[:5])
    other = {name: torch.nn.Parameter(p.detach().clone()) for name, p in own.items()}
    second = part.build(groups(part, other))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for optimizer, held in ((first, own), (second, other)):
        run(optimizer, held, RATES[5:10])
    assert all(torch.equal(own[name], other[name]) for name in SHAPES)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ({"device": "cpu"}, "fused"),
        ({"dtype": torch.bfloat16}, "fused"),
        ({"device": "meta"}, "foreach"),
        ({"dtype": torch.complex64}, "foreach"),
    ],
)
@pytest.mark.parametrize("part", [AdamW(AdamWOptions()), Sgd(SgdOptions())])
def test_the_kernel_is_the_fastest_that_there_is(part: Optimizer, kind: dict[str, Any], expected: str) -> None:
    held = parameters(**kind)
    made = groups(part, held)
    assert kernel(made, shards=False) == {expected: True}
    optimizer = part.build(made)
    assert {bool(group[expected]) for group in optimizer.param_groups} == {True}
    assert getattr(optimizer, "_step_supports_amp_scaling", False) == (expected == "fused")
    for p in held.values():
        p.grad = torch.ones_like(p)
    optimizer.step()


def test_families_and_figures() -> None:
    """What engines with optimizers of their own read."""
    parts = [
        AdamW(AdamWOptions()),
        Sgd(SgdOptions()),
        Adafactor(AdafactorOptions()),
        Lion(LionOptions()),
        Muon(MuonOptions()),
    ]
    assert [part.family for part in parts] == ["adam", "sgd", None, None, None]
    assert [part.lr for part in parts] == [5e-5, 1e-2, 1e-3, 1e-5, 1e-3]
    assert parts[0].hyper == {"betas": (0.9, 0.999), "eps": 1e-8}
    assert parts[1].hyper == {"momentum": 0.9, "nesterov": False}
    for part in parts:
        defaults = part.build([{"params": [torch.nn.Parameter(torch.ones(1))]}]).defaults
        assert {name: defaults[name] for name in part.hyper} == part.hyper
