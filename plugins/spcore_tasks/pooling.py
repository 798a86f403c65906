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
        """hidden [S, L, H], mask [S, L] bool; segments None: packs are refused. -> {"embedding": [S, H]} float32."""
        hidden = hidden.float()
        if self.how == "mean":
            kept = hidden * mask[..., None]
            found = kept.sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
        elif self.how == "cls":
            found = hidden[:, 0]
        else:
            places = torch.arange(hidden.shape[1], device=hidden.device)
            found = (hidden * (places == mask.sum(1, keepdim=True) - 1)[..., None]).sum(1)
        return {"embedding": nn.functional.normalize(found, dim=-1) if self.unit else found}
