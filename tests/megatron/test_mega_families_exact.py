"""Every family's stages against transformers' own model, and every round trip to the bit, at several layouts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch.multiprocessing as mp

from tests.megatron import mega_worlds
from tests.megatron.mega_models import CASES

CHOSEN = [
    *((name, layout) for name in CASES for layout in ("tp1", "tp2")),
    *(("llama", layout) for layout in ("tp2sp", "pp2", "tp2pp2", "cp2", "tp4")),
    *(("llama-tied", layout) for layout in ("tp2pp2", "tp4")),
    ("qwen3", "tp2pp2"), ("mistral", "cp2"), ("llama-hidden", "tp2sp"), ("mistral-packed", "cp2"),
]  # fmt: skip


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Any]:
    folder = tmp_path_factory.mktemp("figures")
    mp.start_processes(mega_worlds.work, (str(folder / "meeting"), CHOSEN, str(folder)), nprocs=mega_worlds.WORLD, start_method="spawn")
    return {pair: json.loads((folder / f"{pair[0]}-{pair[1]}.json").read_text()) for pair in CHOSEN}


@pytest.mark.parametrize(("name", "layout"), CHOSEN)
def test_outputs_are_transformers_own(figures: Any, name: str, layout: str) -> None:
    found = figures[name, layout]
    # float32 sums of a few hundred products, in another order under every layout
    assert found["largest"] <= 2e-6 * max(1.0, found["scale"]), found


@pytest.mark.parametrize(("name", "layout"), CHOSEN)
def test_the_way_there_and_back_changes_no_bit(figures: Any, name: str, layout: str) -> None:
    found = figures[name, layout]
    assert not found["lacking"] and not found["strange"] and not found["twice"] and not found["differ"], found
