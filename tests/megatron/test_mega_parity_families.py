"""Families beside those that all layouts are compared on: each at the layouts that ask something of it alone, against one process."""

from __future__ import annotations

import pytest

from tests.megatron.mega_recipes import MEGATRON
from tests.megatron.test_mega_parity import compared

SEQUENCE = (MEGATRON, "strategy.sequence_parallel=true")
CASES = [
    ("t5", "tp=2", (), True),
    ("t5", "dp=2", (MEGATRON, "strategy.distributed_optimizer=true"), False),
    ("causal-lm on mixtral", "ep=2", (), True),
    ("causal-lm on mixtral", "ep=2,tp=2", SEQUENCE, False),
    ("causal-lm on qwen2_moe", "pp=2", (), False),
    ("causal-lm on qwen3_moe", "ep=2", (), False),
    ("causal-lm on qwen3_moe", "pp=2,ep=2", (), False),
    ("causal-lm on qwen3", "tp=2", SEQUENCE, False),
    ("causal-lm on mistral", "cp=2", ("model.config={sliding_window: 5}",), False),
    ("masked-lm on roberta", "tp=2,pp=2", (), False),
]


@pytest.mark.parametrize(
    ("family", "layout", "settings"),
    [
        pytest.param(*case, id=f"{case[0]} {case[1]}", marks=[] if quick else [pytest.mark.slow])
        for *case, quick in CASES
    ],
)
def test_a_family_computes_what_one_process_does(
    family: str, layout: str, settings: tuple[str, ...], request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue("four" if "," in layout else "two")
    verdict = compared(family, layout, *settings)
    assert 0 < verdict.differences["gradient"].size < 5e-6
