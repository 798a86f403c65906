"""Megatron's layouts against one process of strategy `single`, which runs transformers' own model: initial weights to the bit, losses,
gradient norms, each parameter's gradient, weights after five steps, figures of an evaluation."""

from __future__ import annotations

from typing import Any

import pytest

from spcore.parity import parity as compare
from tests.megatron.mega_recipes import MEGATRON, recipe, registry

LAYOUTS: dict[str, tuple[str, ...]] = {
    "tp=2": (),
    "tp=2 sp": (MEGATRON, "strategy.sequence_parallel=true"),
    "pp=2": (),
    "pp=2 interleaved": (MEGATRON, "strategy.virtual_pipeline=2"),
    "dp=2": (),
    "dp=2 distributed": (MEGATRON, "strategy.distributed_optimizer=true"),
    "dp=2 overlapped": (
        MEGATRON, "strategy.distributed_optimizer=true", "strategy.overlap_grad_reduce=true",
        "strategy.overlap_param_gather=true", "strategy.bucket_size=2000",
    ),
    "cp=2": (),
    "tp=2,pp=2": (),
    "dp=2,tp=2": (),
    "dp=2,tp=2 sp distributed": (MEGATRON, "strategy.sequence_parallel=true", "strategy.distributed_optimizer=true"),
    "cp=2,tp=2 sp": (MEGATRON, "strategy.sequence_parallel=true"),
    "pp=2,cp=2": (),
}  # fmt: skip
"""The layout's axes first, then what its options are."""
FAMILIES = ("llama", "gpt2", "bert", "text-classification on bert")
QUICK = {
    *(("llama", layout) for layout in ("tp=2 sp", "pp=2 interleaved", "dp=2 overlapped", "cp=2", "dp=2,tp=2")),
    ("gpt2", "tp=2,pp=2"), ("bert", "cp=2"), ("text-classification on bert", "dp=2,tp=2 sp distributed"),
    ("text-classification on bert", "pp=2"),
}  # fmt: skip
"""Of layouts of which one does more than the other, the one that does more."""


STRANGERS = [
    pytest.param(axes, settings, marks=pytest.mark.slow)
    for axes, settings in (("tp=2", ()), ("cp=2", ()), ("dp=2", (MEGATRON, "strategy.distributed_optimizer=true")), ("tp=2,pp=2", ()))
]  # fmt: skip


def cases() -> list[Any]:
    every = [(family, layout) for family in FAMILIES for layout in LAYOUTS]
    return [pytest.param(*case, id=" ".join(case), marks=[] if case in QUICK else [pytest.mark.slow]) for case in every]


def compared(name: str, axes: str, *overrides: str, nothing: str = "") -> Any:
    """nothing: a parameter that no output depends on, whose gradient is rounding alone."""
    found = compare(recipe(name), [axes], registry(), overrides=["launch=warm", *overrides], strategy="megatron")
    (verdict,) = found.verdicts
    failed = [what for what in verdict.failed if what not in verdict.wrong or verdict.differences[what].at != nothing]
    assert not failed, found.to_json()
    assert verdict.strategy == "megatron"
    assert verdict.tokens[0] == verdict.tokens[1] > 0
    assert verdict.differences["initial"].size == 0
    return verdict


@pytest.mark.parametrize(("family", "layout"), cases())
def test_a_layout_computes_what_one_process_does(family: str, layout: str, two: int, four: int) -> None:
    verdict = compared(family, layout.partition(" ")[0], *LAYOUTS[layout])
    assert verdict.processes == (4 if "," in layout else 2)
    # A sharper look than the tolerances: another order of sums is all that may differ.
    assert 0 < verdict.differences["gradient"].size < 5e-6


@pytest.mark.parametrize(
    "recompute",
    [
        pytest.param("selective", marks=pytest.mark.slow),
        "full",
        pytest.param("full of one layer", marks=pytest.mark.slow),
    ],
)
def test_what_is_computed_again_is_the_same(recompute: str, two: int) -> None:
    more = ["strategy.recompute_layers=1"] if "one layer" in recompute else []
    settings = (f"strategy.recompute={recompute.partition(' ')[0]}", "strategy.sequence_parallel=true", *more)
    compared("llama", "tp=2", MEGATRON, *settings)


@pytest.mark.parametrize(
    ("precision", "axes", "settings"),
    [
        ("bf16", "dp=2", (MEGATRON, "strategy.distributed_optimizer=true")),
        pytest.param("bf16", "tp=2", (), marks=pytest.mark.slow),
        ("fp16", "pp=2", ()),
        pytest.param("fp16", "dp=2", (MEGATRON, "strategy.distributed_optimizer=true"), marks=pytest.mark.slow),
    ],
)
def test_formats_of_16_bits(precision: str, axes: str, settings: tuple[str, ...], two: int) -> None:
    compared("llama", axes, f"precision={precision}", *settings)


@pytest.mark.parametrize(
    ("name", "axes"),
    [
        ("gpt2", "pp=2"), ("llama", "cp=2"), pytest.param("text-classification on bert", "tp=2", marks=pytest.mark.slow),
        pytest.param("text-classification on llama", "cp=2", marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_packed_texts_are_kept_apart(name: str, axes: str, two: int) -> None:
    compared(name, axes, "data.pack=32")


@pytest.mark.parametrize(
    ("axes", "settings"),
    [("pp=2", ()), ("tp=2", (MEGATRON, "strategy.sequence_parallel=true")), *STRANGERS],
)
def test_a_strangers_head_lies_on_the_last_stage(axes: str, settings: tuple[str, ...], two: int, four: int) -> None:
    compared("weather on bert", axes, *settings)


def test_losses_are_summed_by_their_weights_however_a_step_is_cut(two: int) -> None:
    # A step of eleven rows in microbatches of three: filler, and ranks with unequal parts.
    compared("llama", "dp=2", "train.micro_batch_size=3", "train.global_batch_size=11")


def test_sgd_decays_and_moves_alike(two: int) -> None:
    compared("gpt2", "dp=2", "optimizer.use=sgd", "optimizer.lr=0.1", "optimizer.weight_decay=0.1")


@pytest.mark.parametrize("axes", ["dp=2", pytest.param("dp=2,tp=2", marks=pytest.mark.slow)])
def test_data_ranks_drop_different_things(axes: str, two: int, four: int) -> None:
    found = compare(recipe("bert"), [axes], registry(), overrides=["launch=warm"], strategy="megatron", dropout=0.1)
    assert found.same, found.to_json()
    assert found.verdicts[0].masks == "different"
