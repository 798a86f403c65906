"""The head of a sentence's embedding: its tokens' last hidden states made one vector. Has no parameters."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

Pooling = Literal["mean", "cls", "last"]


class Pooled(nn.Module):  # type: ignore[misc]
    """how: "mean" of the tokens, the first ("cls"), or the last one. unit: divide by its length."""

    def __init__(self, how: Pooling, *, unit: bool) -> None:
        super().__init__()
        self.how, self.unit = how, unit

    def forward(
        self, hidden: torch.Tensor, mask: torch.Tensor, segments: torch.Tensor | None
    ) -> dict[str, torch.Tensor]:
        """hidden [S, L, H], mask [S, L] bool, segments [N, 2] (sequence, start) or None -> {"embedding": [S or N, H]} float32."""
        hidden = hidden.float()
        found = self._rows(hidden, mask) if segments is None else self._segments(hidden, mask, segments)
        return {"embedding": nn.functional.normalize(found, dim=-1) if self.unit else found}

    def _rows(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        if self.how == "cls":
            return hidden[:, 0]
        counts = mask.sum(1, keepdim=True).clamp(min=1)
        if self.how == "mean":
            return (hidden * mask[..., None]).sum(1) / counts
        last = torch.arange(hidden.shape[1], device=hidden.device) == counts - 1
        return (hidden * last[..., None]).sum(1)

    def _segments(self, hidden: torch.Tensor, mask: torch.Tensor, segments: torch.Tensor) -> torch.Tensor:
        rows, starts = segments[:, 0], segments[:, 1]
        if self.how == "cls":
            return hidden[rows, starts]
        first = torch.zeros_like(mask, dtype=torch.int64)
        first[rows, starts] = 1
        owner = (first.flatten().cumsum(0) - 1).clamp(min=0)
        counts = hidden.new_zeros(len(segments)).index_add(0, owner, mask.flatten().to(hidden.dtype)).clamp(min=1)
        if self.how == "last":
            return hidden[rows, starts + counts.long() - 1]
        kept = (hidden * mask[..., None]).flatten(0, 1)
        return hidden.new_zeros(len(segments), hidden.shape[-1]).index_add(0, owner, kept) / counts[:, None]
