"""How a whole tensor is dealt to the ranks of a group: in blocks along one axis, which need be neither equal nor one for each rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex


@dataclass(frozen=True)
class Cutting:
    """shape: of the whole. axis: the one that is cut, from 0. ranks: in the group. unit: entries of the axis that stay together.
    parts: equal blocks of the axis that are each cut (fused query, key and value).

    Units are dealt as torch.chunk deals them: each rank as many as the first, the last may have fewer. Where there are fewer units than
    ranks, and their number divides that of the ranks, neighbours hold copies of one.
    """

    shape: tuple[int, ...]
    axis: int
    ranks: int
    unit: int = 1
    parts: int = 1

    def __post_init__(self) -> None:
        assert self.shape[self.axis] % (self.unit * self.parts) == 0, f"{self}: units do not fill the axis"

    @property
    def units(self) -> int:
        """In each part."""
        return self.shape[self.axis] // (self.unit * self.parts)

    @property
    def copies(self) -> int:
        """Ranks that hold the same."""
        return self.ranks // self.units if self.units < self.ranks and self.ranks % self.units == 0 else 1

    def span(self, rank: int) -> tuple[int, int]:
        """The entries of a rank, (first, last + 1), within each part."""
        if self.copies > 1:
            at = rank // self.copies
            return at * self.unit, (at + 1) * self.unit
        each = -(-self.units // self.ranks)
        return min(rank * each, self.units) * self.unit, min((rank + 1) * each, self.units) * self.unit

    def local(self, rank: int) -> tuple[int, ...]:
        """The shape of a rank's piece."""
        first, end = self.span(rank)
        return (*self.shape[: self.axis], (end - first) * self.parts, *self.shape[self.axis + 1 :])

    def blocks(self, rank: int) -> list[tuple[tuple[int, int], int]]:
        """A rank's piece as it lies in the whole: ((first, last + 1) in the piece, where that begins in the whole), along the axis."""
        (first, end), size = self.span(rank), self.shape[self.axis] // self.parts
        return [((n * (end - first), (n + 1) * (end - first)), n * size + first) for n in range(self.parts)]

    def located(self, local: torch.Tensor, rank: int) -> list[tuple[torch.Tensor, tuple[int, ...]]]:
        """See `Located`."""
        return [
            (
                local.narrow(self.axis, first, end - first),
                tuple(at if n == self.axis else 0 for n in range(local.dim())),
            )
            for (first, end), at in self.blocks(rank)
        ]

    def counts(self, rank: int) -> bool:
        """Whether a rank's piece is not a lower rank's copy."""
        return rank % self.copies == 0

    def take(self, whole: torch.Tensor, rank: int) -> torch.Tensor:
        """A rank's piece of the whole."""
        blocks = [whole.narrow(self.axis, at, end - first) for (first, end), at in self.blocks(rank)]
        return blocks[0] if self.parts == 1 else torch.cat(blocks, self.axis)

    def join(self, pieces: Sequence[torch.Tensor]) -> torch.Tensor:
        """The whole from all ranks' pieces, in order."""
        kept = [piece.chunk(self.parts, self.axis) for rank, piece in enumerate(pieces) if self.counts(rank)]
        return torch.cat([blocks[part] for part in range(self.parts) for blocks in kept], self.axis)


class Located(Protocol):
    """Where ranks' pieces lie in a whole of a shape; `Cutting` is the usual one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole."""

    def located(self, local: torch.Tensor, rank: int) -> list[tuple[torch.Tensor, tuple[int, ...]]]:
        """A rank's piece in blocks, at least one: (a view of the piece, where it begins in the whole)."""


class Piece(torch.Tensor):  # type: ignore[misc]
    """A rank's piece that knows its place in the whole: what `torch.distributed.checkpoint` asks of a tensor that is a part of one.

    cutting, rank: see `Located`, `Cutting`. speaks: whether this rank stores it, of those that hold the same.
    """

    cutting: Located
    rank: int
    speaks: bool

    @classmethod
    def of(cls, local: torch.Tensor, cutting: Located, rank: int, *, speaks: bool) -> Piece:
        """In the same memory."""
        piece: Piece = local.detach().as_subclass(cls)
        piece.cutting, piece.rank, piece.speaks = cutting, rank, speaks
        return piece

    def plain(self) -> torch.Tensor:
        """In the same memory, without its place."""
        with torch._C.DisableTorchFunctionSubclass():
            plain: torch.Tensor = self.as_subclass(torch.Tensor)
        return plain

    def blocks(self) -> list[tuple[torch.Tensor, tuple[int, ...]]]:
        """(a view of this piece, where it begins in the whole)."""
        return self.cutting.located(self.plain(), self.rank)

    def size(self, dim: int | None = None) -> Any:
        """Of the whole."""
        return torch.Size(self.cutting.shape) if dim is None else self.cutting.shape[dim]

    def __create_chunk_list__(self) -> list[ChunkStorageMetadata]:
        return [ChunkStorageMetadata(torch.Size(at), block.size()) for block, at in self.blocks() if block.numel()]

    def __get_tensor_shard__(self, index: MetadataIndex) -> torch.Tensor:
        return next(block for block, at in self.blocks() if torch.Size(at) == index.offset)
