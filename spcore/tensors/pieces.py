"""How a whole tensor is dealt to the ranks of a group: in blocks along one axis, which need be neither equal nor one for each rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


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

    def counts(self, rank: int) -> bool:
        """Whether a rank's piece is not a lower rank's copy."""
        return rank % self.copies == 0

    def take(self, whole: torch.Tensor, rank: int) -> torch.Tensor:
        """A rank's piece of the whole."""
        first, end = self.span(rank)
        size = self.shape[self.axis] // self.parts
        blocks = [whole.narrow(self.axis, part * size + first, end - first) for part in range(self.parts)]
        return blocks[0] if self.parts == 1 else torch.cat(blocks, self.axis)

    def join(self, pieces: Sequence[torch.Tensor]) -> torch.Tensor:
        """The whole from all ranks' pieces, in order."""
        kept = [piece.chunk(self.parts, self.axis) for rank, piece in enumerate(pieces) if self.counts(rank)]
        return torch.cat([blocks[part] for part in range(self.parts) for blocks in kept], self.axis)
