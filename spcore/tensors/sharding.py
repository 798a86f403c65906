"""Tensors of which a rank holds a part: a DTensor or a `Piece` knows which. Everything else is whole, and these functions say so of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.distributed.tensor import DTensor, Replicate

from spcore.tensors.pieces import Piece


def is_part(tensor: torch.Tensor) -> bool:
    """Whether it knows of which whole it is a part."""
    return isinstance(tensor, DTensor | Piece)


def shape(tensor: torch.Tensor) -> tuple[int, ...]:
    """Of the whole."""
    if isinstance(tensor, Piece):
        return tensor.cutting.shape
    return tuple(tensor.shape)


def part(tensor: torch.Tensor) -> torch.Tensor:
    """This rank's part, without its history, in the same memory."""
    if isinstance(tensor, Piece):
        return tensor.plain()
    with torch.no_grad():
        return tensor.to_local().detach() if isinstance(tensor, DTensor) else tensor.detach()


def blocks(tensor: torch.Tensor) -> list[tuple[torch.Tensor, tuple[int, ...]]]:
    """This rank's part as it lies in the whole: (a view of it, where that begins), several where it is of several places."""
    return tensor.blocks() if isinstance(tensor, Piece) else [(part(tensor), offsets(tensor))]


def offsets(tensor: torch.Tensor) -> tuple[int, ...]:
    """Where this rank's part begins in the whole tensor, by dimension."""
    if not isinstance(tensor, DTensor):
        return tuple(0 for _ in tensor.shape)
    begins: tuple[int, ...] = tuple(tensor.__create_chunk_list__()[0].offsets)
    return begins


def speaks_for(tensor: torch.Tensor) -> bool:
    """Of ranks that hold the same part, one: of a DTensor the first along every axis over which it is not cut."""
    if isinstance(tensor, Piece):
        return tensor.speaks
    assert isinstance(tensor, DTensor), "who speaks for what is whole, the engine knows"
    at = tensor.device_mesh.get_coordinate()
    assert at is not None, "a rank that holds a part is in its mesh"
    return all(n == 0 for n, how in zip(at, tensor.placements, strict=True) if isinstance(how, Replicate))


def put(mine: torch.Tensor, value: torch.Tensor) -> None:
    """Copy this rank's part of a whole tensor into `mine`, under no_grad."""
    if not isinstance(mine, DTensor):
        mine.copy_(value)
        return
    own = part(mine)
    own.copy_(within(value, offsets(mine), own.shape))


def within(value: torch.Tensor, begins: Sequence[int], sizes: Sequence[int]) -> torch.Tensor:
    """The part of a whole tensor that begins there and has these sizes, in the same memory."""
    part: torch.Tensor = value[tuple(slice(at, at + n) for at, n in zip(begins, sizes, strict=True))]
    return part


def alike(tensor: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """`own`, this rank's part of something of `tensor`'s shape (a gradient, a moment), laid out as `tensor` is."""
    if isinstance(tensor, Piece):
        return Piece.of(own, tensor.cutting, tensor.rank, speaks=tensor.speaks)
    if not isinstance(tensor, DTensor):
        return own
    return DTensor.from_local(
        own, tensor.device_mesh, tensor.placements, run_check=False, shape=tensor.shape, stride=tensor.stride()
    )


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The whole tensor on every rank of its mesh, which call this together; on the mesh's device."""
    if not isinstance(tensor, DTensor):
        return tensor.detach()
    kind = tensor.device_mesh.device_type
    with torch.no_grad():
        own = part(tensor)
        if own.device.type != kind:  # offloaded, and groups of a GPU take nothing of the CPU's
            tensor = alike(tensor, own.to(kind))
        return tensor.full_tensor().detach()
