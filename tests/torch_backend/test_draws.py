from __future__ import annotations

import torch

from spcore_torch.shards import Draws

CPU = torch.device("cpu")


def layer(draws: Draws) -> list[torch.Tensor]:
    """Draws of one rank: before a region, in it, after it."""
    found = [torch.rand(4)]
    draws.apart()
    draws.apart()  # a second column layer of the same region
    found.append(torch.rand(4))
    draws.together()
    return [*found, torch.rand(4)]


def of(rank: int, *, on: bool = True) -> list[torch.Tensor]:
    draws = Draws(rank, CPU)
    draws.on = on
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return [*layer(draws), *layer(draws)]


def test_ranks_draw_alike_outside_of_regions_alone() -> None:
    equal = [torch.equal(a, b) for a, b in zip(of(0), of(1), strict=True)]
    assert equal == [True, False, True, True, False, True]


def test_what_is_replayed_is_replayed_whole() -> None:
    assert all(torch.equal(a, b) for a, b in zip(of(1), of(1), strict=True))


def test_two_regions_draw_otherwise() -> None:
    found = of(0)
    assert not torch.equal(found[1], found[4])


def test_where_nothing_is_dropped_nothing_is_drawn() -> None:
    assert all(torch.equal(a, b) for a, b in zip(of(0, on=False), of(1, on=False), strict=True))
