"""Every family's stages against transformers' own model, and every round trip to the bit, at several layouts."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch.multiprocessing as mp

from tests.megatron import mega_worlds
from tests.megatron.mega_models import CASES

CHOSEN = [
    *((name, "tp1") for name in CASES),
    *((name, "tp2") for name, case in CASES.items() if "num_experts" not in case.settings and name != "mixtral"),
    *(("llama", layout) for layout in ("tp2sp", "pp2", "tp2pp2", "cp2", "tp4")),
    *((name, layout) for name in ("llama-tied", "bert", "gpt2") for layout in ("pp2", "tp2pp2", "tp2sp")),
    *((name, layout) for name in ("mixtral", "qwen2_moe") for layout in ("tp2sp", "ep2", "ep2tp2sp", "pp2")),
    ("llama-tied", "tp4"), ("llama-hidden", "tp2sp"), ("llama-hidden", "pp2"), ("qwen3", "tp2pp2"), ("qwen3", "tp2sp"),
    ("mistral", "cp2"), ("mistral-packed", "cp2"), ("bert", "cp2"), ("gpt2", "cp2"), ("roberta", "tp2pp2"), ("t5", "tp4"),
]  # fmt: skip
"""Experts are shared by ranks with sequence parallelism alone: see `spcore_megatron.checks`."""


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Any]:
    folder = tmp_path_factory.mktemp("figures")
    mp.start_processes(
        mega_worlds.work, (str(folder / "meeting"), CHOSEN, str(folder)), nprocs=mega_worlds.WORLD, start_method="spawn"
    )
    return {pair: json.loads((folder / f"{pair[0]}-{pair[1]}.json").read_text()) for pair in CHOSEN}


@pytest.mark.parametrize(("name", "layout"), CHOSEN)
def test_outputs_are_transformers_own(figures: Any, name: str, layout: str) -> None:
    found = figures[name, layout]
    # float32 sums of a few hundred products, in another order under every layout
    assert found["largest"] <= 2e-6 * max(1.0, found["scale"]), found


@pytest.mark.parametrize(("name", "layout"), CHOSEN)
def test_the_way_there_and_back_changes_no_bit(figures: Any, name: str, layout: str) -> None:
    found = figures[name, layout]
    assert (found["lacking"], found["strange"], found["twice"], found["differ"]) == ([], [], 0, [])
