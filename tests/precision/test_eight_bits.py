"""Products in 8 bits: what they are made of, what a model is trained by them, and who refuses them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import precision.eight_bits
from exact.processes import registry_of
from spcore.comparing import tolerances
from spcore.components import Registry
from spcore.errors import UserError
from spcore.interfaces.precision import Fp8Recipe
from spcore.interfaces.strategy import Engine, Place
from spcore.recipe import load_recipe
from spcore.session import assemble
from spcore.trainer import Trainer
from spcore_torch import eight_bits, kernels

BERT = Path(__file__).resolve().parents[2] / "docs" / "recipes" / "parity" / "bert.yaml"


def session(registry: Registry, *overrides: str) -> Any:
    return assemble(load_recipe(BERT, ["model.dropout=0", *overrides], registry=registry), registry, world_size=1)


@pytest.fixture
def registry() -> Any:
    found = registry_of()
    found.register(precision.eight_bits, name="eight-bits")
    return found


@pytest.mark.parametrize("strategy", ["{use: single}", "{use: parallel, tensor_parallel: 2}", "{use: fsdp}"])
def test_a_cpu_refuses_it_in_one_line(strategy: str, registry: Registry) -> None:
    launch = [] if "single" in strategy else ["launch={use: local, processes: 2}"]
    size = 2 if launch else 1
    recipe = load_recipe(BERT, ["precision=fp8", f"strategy={strategy}", *launch], registry=registry)
    with pytest.raises(UserError) as caught:
        assemble(recipe, registry, world_size=size)
    assert "precision 'fp8': device 'cpu' has no 8-bit products; use precision=bf16" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def rounded(x: torch.Tensor, kind: torch.dtype) -> torch.Tensor:
    """By the definition: float64 numbers that the format has, at the scale of the largest."""
    scale = x.abs().max().double() / torch.finfo(kind).max
    return (x.double() / scale).float().to(kind).double() * scale


@pytest.mark.parametrize("rows", [1, 16, 37])
@pytest.mark.parametrize("form", ["hybrid", "e4m3"])
def test_three_products_of_a_layer(rows: int, form: Any) -> None:
    generator = torch.Generator().manual_seed(rows)
    linear = torch.nn.Linear(48, 32)
    x = torch.randn(rows, 48, generator=generator).mul(30).bfloat16().requires_grad_()
    grad = torch.randn(rows, 32, generator=generator).mul(1e-6).bfloat16()
    said = kernels.install(linear, torch.bfloat16, torch.device("cpu"), fp8=Fp8Recipe(form))
    assert said == "8 bits in 1 of 1 linear layers"
    y = linear(x)
    y.backward(grad)
    narrow, wide = torch.float8_e4m3fn, torch.float8_e5m2 if form == "hybrid" else torch.float8_e4m3fn
    weight = linear.weight.detach().bfloat16()
    wanted = {
        "output": (
            y.detach(),
            rounded(x.detach(), narrow) @ rounded(weight, narrow).t() + linear.bias.detach().bfloat16().double(),
        ),
        "of the input": (x.grad, rounded(grad, wide) @ rounded(weight, narrow)),
        "of the weight": (linear.weight.grad, rounded(grad, wide).t() @ rounded(x.detach(), narrow)),
    }
    for name, (found, exact) in wanted.items():
        assert found is not None
        off = float((found.double() - exact).norm() / exact.norm())
        assert off < 4e-3, (name, off)  # bfloat16 rounds the result


@pytest.mark.parametrize("odd", [float("nan"), float("inf")])
def test_what_is_not_finite_is_seen(odd: float) -> None:
    linear = torch.nn.Linear(16, 16)
    kernels.install(linear, torch.bfloat16, torch.device("cpu"), fp8=Fp8Recipe())
    x = torch.zeros(16, 16).index_fill_(0, torch.tensor([3]), odd)
    assert not linear(x).isfinite().all()
    assert linear(torch.zeros(16, 16)).allclose(linear.bias.bfloat16().expand(16, 16))


def test_sizes_that_devices_cannot_multiply_stay_in_16_bits() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(32, 48), torch.nn.Linear(48, 3))
    assert kernels.install(model, torch.bfloat16, torch.device("cpu"), fp8=Fp8Recipe()).startswith("8 bits in 1 of 2")
    assert [eight_bits.fits(linear) for linear in model] == [True, False]  # type: ignore[arg-type]


def test_an_engine_makes_it_of_the_policy(registry: Registry) -> None:
    losses = {}
    for strategy, name in (("eight-bits", "fp8"), ("single", "fp32"), ("single", "bf16")):
        found = session(registry, f"strategy={strategy}", f"precision={name}")
        engine: Engine = found.strategy.engine(found.plan, Place())
        assert {p.dtype.itemsize for p in engine.module.parameters()} == {4}, "what the optimizer updates"  # type: ignore[attr-defined]
        steps = list(Trainer(found, engine, found.training(), None, lambda event: None, None).loader.steps(0, 5))  # type: ignore[arg-type]
        losses[name] = [engine.train_step(step.microbatches, 1e-3, n).loss for n, step in enumerate(steps)]
        engine.close()
    apart = {name: max(abs(a / b - 1) for a, b in zip(losses[name], losses["fp32"], strict=True)) for name in losses}
    # e4m3 has 4 bits, bfloat16 8.
    assert apart["bf16"] < apart["fp8"] < 0.02


def test_parity_allows_what_its_bits_ask_for(registry: Registry) -> None:
    found = tolerances(session(registry, "strategy=eight-bits", "precision=fp8").plan, 100)
    assert found["loss"].reason.startswith("float8 rounds by 6e-02")
