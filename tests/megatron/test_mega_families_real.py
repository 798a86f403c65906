"""Real weights through the maps: MiniLM at two by two, SmolLM2 (nine heads) at three."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.megatron import mega_worlds


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("name", "layout", "world"), [("minilm", "tp2pp2", 4), ("smollm2", "tp3", 3)])
def test_real_weights_go_there_and_back(tmp_path: Path, name: str, layout: str, world: int) -> None:
    found = mega_worlds.run([(name, layout)], tmp_path, world, limit=600)[name, layout]
    assert (found["lacking"], found["strange"], found["twice"], found["differ"]) == ([], [], 0, [])
    # float32 sums of up to 1,536 products in thirty layers, in another order
    assert found["largest"] <= 5e-6 * max(1.0, found["scale"]), found
