"""What `fp8` says to an engine is enough to make it, and engines without it refuse it by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import precision.eight_bits
from exact.processes import registry_of
from spcore.comparing import tolerances
from spcore.components import Registry
from spcore.errors import UserError
from spcore.interfaces.strategy import Engine, Place
from spcore.recipe import load_recipe
from spcore.session import assemble
from spcore.trainer import Trainer

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
