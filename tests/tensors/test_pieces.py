from __future__ import annotations

import itertools

import pytest
import torch

from spcore.tensors import sharding
from spcore.tensors.pieces import Cutting, Piece

CUTTINGS = [
    Cutting((101, 3), 0, 2),  # 51 and 50
    Cutting((5, 101), 1, 4),
    Cutting((24, 4), 0, 2, unit=4),
    Cutting((3, 24), 1, 2, unit=4, parts=3),
    Cutting((8, 3), 0, 4, unit=4),  # two units for four ranks: copies
    Cutting((6,), 0, 3),
]


@pytest.mark.parametrize("cutting", CUTTINGS, ids=str)
def test_pieces_make_the_whole(cutting: Cutting) -> None:
    whole = torch.arange(float(torch.Size(cutting.shape).numel())).view(cutting.shape)
    pieces = [cutting.take(whole, rank) for rank in range(cutting.ranks)]
    assert [tuple(piece.shape) for piece in pieces] == [cutting.local(rank) for rank in range(cutting.ranks)]
    assert torch.equal(cutting.join(pieces), whole)
    counted = sum(piece.numel() for rank, piece in enumerate(pieces) if cutting.counts(rank))
    assert counted == whole.numel(), "each entry once"


def test_units_are_dealt_as_torch_deals_chunks() -> None:
    for size, ranks in itertools.product(range(4, 20), (2, 3, 4)):
        sizes = [len(chunk) for chunk in torch.arange(size).chunk(ranks)]
        found = [Cutting((size,), 0, ranks).local(rank)[0] for rank in range(ranks)]
        assert found == sizes + [0] * (ranks - len(sizes))


def test_neighbours_hold_copies_where_there_are_fewer_units_than_ranks() -> None:
    cutting = Cutting((8, 3), 0, 4, unit=4)
    assert [cutting.span(rank) for rank in range(4)] == [(0, 4), (0, 4), (4, 8), (4, 8)]
    assert [cutting.counts(rank) for rank in range(4)] == [True, False, True, False]


def test_a_unit_is_never_cut_through() -> None:
    with pytest.raises(AssertionError, match="units do not fill the axis"):
        Cutting((10, 4), 0, 2, unit=4)


@pytest.mark.parametrize("cutting", CUTTINGS, ids=str)
def test_a_piece_knows_where_it_lies(cutting: Cutting) -> None:
    whole = torch.randn(cutting.shape)
    for rank in range(cutting.ranks):
        local = cutting.take(whole, rank)
        piece = Piece.of(local, cutting, rank, speaks=cutting.counts(rank))
        assert (sharding.is_part(piece), sharding.shape(piece)) == (True, cutting.shape)
        assert sharding.part(piece).data_ptr() == local.data_ptr(), "the same memory"
        for block, begins in sharding.blocks(piece):
            place = tuple(slice(at, at + n) for at, n in zip(begins, block.shape, strict=True))
            assert torch.equal(block, whole[place])
