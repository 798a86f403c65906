"""Every family's stages against transformers' own model, and every round trip to the bit, at several layouts."""

from __future__ import annotations

from typing import Any

import pytest

from tests.megatron import mega_worlds
from tests.megatron.mega_models import CASES

CHOSEN = [
    *((name, "tp1") for name in ("llama", "gpt2", "bert", "t5", "qwen2_moe")),
    *((name, "tp2") for name, case in CASES.items() if "experts" not in " ".join(case.settings)),
    *((name, "pp2") for name in ("llama", "llama-tied", "llama-hidden", "bert", "qwen2_moe")),
    *((name, "tp2pp2") for name in ("llama", "gpt2", "bert", "roberta", "qwen3")),
    *((name, "cp2") for name in ("llama", "mistral", "mistral-packed", "gpt2", "bert")),
    *((name, "tp2sp") for name in ("llama-tied", "llama-hidden", "qwen3", "bert", "gpt2", "mixtral")),
    *((name, "ep2tp2sp") for name in ("mixtral", "qwen2_moe", "qwen3_moe")),
    *((name, "tp4") for name in ("llama", "llama-tied", "t5")),
]  # fmt: skip
"""Models with experts run where ranks share layers under sequence parallelism alone: see `spcore_megatron.checks`."""


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Any]:
    return mega_worlds.run(CHOSEN, tmp_path_factory.mktemp("figures"))


@pytest.mark.parametrize(("name", "layout"), CHOSEN)
def test_outputs_are_transformers_own(figures: Any, name: str, layout: str) -> None:
    found = figures[name, layout]
    # float32 sums of a few hundred products, in another order under every layout
    assert found["largest"] <= 2e-6 * max(1.0, found["scale"]), found


@pytest.mark.parametrize(("name", "layout"), CHOSEN)
def test_the_way_there_and_back_changes_no_bit(figures: Any, name: str, layout: str) -> None:
    found = figures[name, layout]
    assert (found["lacking"], found["strange"], found["twice"], found["differ"]) == ([], [], 0, [])
