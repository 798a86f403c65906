"""Every strategy on a CUDA device, as its launcher starts it: one process, over NCCL. `single` in fp32 is the oracle."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import pytest

from exact.processes import registry_of
from spcore.interfaces.logger import Event, Step, Warned
from spcore.recipe import load_recipe
from spcore.running import execute

pytestmark = pytest.mark.gpu
RECIPES = Path(__file__).resolve().parents[2] / "docs" / "recipes" / "parity"
STRATEGIES = ["{use: ddp}", "{use: fsdp}", "{use: fsdp, offload: true}", "{use: parallel}", "{use: megatron}"]
ROUNDING = {"fp32": 1e-4, "tf32": 5e-3, "bf16": 3e-2, "fp16": 5e-3, "fp8": 6e-2}
"""Of losses over five steps, to fp32's: products are summed in another order, or in the formats that are named."""


@dataclass(frozen=True)
class Run:
    losses: list[float]
    norms: list[float]
    facts: str
    warned: list[str]


@functools.cache
def run(model: str, *overrides: str) -> Run:
    """Five steps of a recipe, its dropout left out."""
    registry = registry_of()
    tree = ["device=cuda", "model.dropout=0", "launch={use: local, processes: 1}", "loggers=[]", *overrides]
    told: list[Event] = []
    execute(load_recipe(RECIPES / f"{model}.yaml", tree, registry=registry), registry, on_event=told.append)
    steps = [event for event in told if isinstance(event, Step)]
    return Run(
        [step.loss for step in steps], [step.grad_norm or 0.0 for step in steps], str(next(e for e in told if e.name == "run_started")),
        [e.message for e in told if isinstance(e, Warned)],
    )  # fmt: skip


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("model", ["bert", "gpt2", "llama", "t5"])
def test_strategies_find_what_one_process_finds(model: str, strategy: str) -> None:
    wanted, found = run(model, "strategy=single"), run(model, f"strategy={strategy}")
    assert found.losses[0] == pytest.approx(wanted.losses[0], rel=5e-6)
    assert found.norms[0] == pytest.approx(wanted.norms[0], rel=5e-5)
    assert found.losses == pytest.approx(wanted.losses, rel=ROUNDING["fp32"])


@pytest.mark.parametrize(
    ("strategy", "precision"),
    [
        (strategy, precision)
        for strategy in ["single", *STRATEGIES]
        for precision in ["tf32", "bf16", "fp16", "fp8"]
        if (strategy, precision) != ("{use: megatron}", "fp8")  # refused by name
    ],
)
def test_precisions_follow_fp32(strategy: str, precision: str) -> None:
    wanted, found = run("llama", "strategy=single"), run("llama", f"strategy={strategy}", f"precision={precision}")
    assert found.losses == pytest.approx(wanted.losses, rel=ROUNDING[precision])
    assert found.losses != wanted.losses
    if precision == "fp8":
        assert "8 bits in" in found.facts
        assert found.losses != run("llama", f"strategy={strategy}", "precision=bf16").losses


@pytest.mark.parametrize("option", ["activation_checkpointing: full", "activation_checkpointing: selective"])
def test_layers_that_are_computed_again(option: str) -> None:
    found = run("llama", f"strategy={{use: single, {option}}}")
    assert found.losses == pytest.approx(run("llama", "strategy=single").losses, rel=ROUNDING["fp32"])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_compiled_layers(precision: str) -> None:
    found = run("llama", "strategy={use: single, compile: true}", f"precision={precision}")
    assert found.losses == pytest.approx(run("llama", "strategy=single").losses, rel=ROUNDING[precision])
    assert not [line for line in found.warned if line.startswith("strategy.compile:")]
