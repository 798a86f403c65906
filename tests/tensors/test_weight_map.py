from __future__ import annotations

import pytest
import torch

from spcore.tensors.weights import WeightMap, WeightRule


@pytest.fixture
def weights() -> WeightMap:
    return WeightMap(
        {
            "qkv": WeightRule(("q", "k", "v"), join=0, axis=0),
            "norm": WeightRule(("layer.norm",)),
        }
    )


def test_joined_and_cut_again(weights: WeightMap) -> None:
    hub = {
        "q": torch.ones(4, 2),
        "k": torch.full((2, 2), 2.0),
        "v": torch.full((2, 2), 3.0),
        "layer.norm": torch.ones(2),
    }
    local = weights.to_local("qkv", hub)
    assert local[:, 0].tolist() == [1, 1, 1, 1, 2, 2, 3, 3]
    back = weights.to_hub("qkv", local, sizes=[4, 2, 2])
    assert all(back[name].equal(hub[name]) for name in ("q", "k", "v"))
    assert weights.to_local("norm", hub) is hub["layer.norm"]
    assert weights.to_hub("norm", hub["layer.norm"]) == {"layer.norm": hub["layer.norm"]}


def test_equal_parts_need_no_sizes(weights: WeightMap) -> None:
    assert {n: t.shape for n, t in weights.to_hub("qkv", torch.ones(9, 2)).items()} == dict.fromkeys("qkv", (3, 2))


def test_several_sources_say_how_they_are_joined() -> None:
    with pytest.raises(AssertionError, match="an axis to be joined on"):
        WeightRule(("gate", "up"))
