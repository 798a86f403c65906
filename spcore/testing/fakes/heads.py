"""Custom heads of the fake tasks."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from spcore.testing.fakes.language import first_tokens


class TwoTermsHead(nn.Module):  # type: ignore[misc]
    """logits of each sequence's (segment's) first token, tags of every position."""

    def __init__(self, config: Any, size: int) -> None:
        super().__init__()
        self.rows = nn.Linear(config.hidden_size, size)
        self.tokens = nn.Linear(config.hidden_size, size)

    def forward(
        self, hidden: torch.Tensor, mask: torch.Tensor, segments: torch.Tensor | None
    ) -> dict[str, torch.Tensor]:
        """hidden: [S, L, H]; mask: [S, L]; segments: [N, 2] or None."""
        return {"logits": self.rows(first_tokens(hidden, segments)), "tags": self.tokens(hidden) * mask[..., None]}


class EmbeddingHead(nn.Module):  # type: ignore[misc]
    """A unit vector of each sequence's (segment's) first token."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.project = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self, hidden: torch.Tensor, mask: torch.Tensor, segments: torch.Tensor | None
    ) -> dict[str, torch.Tensor]:
        """hidden: [S, L, H]; mask: [S, L]; segments: [N, 2] or None."""
        return {"embedding": nn.functional.normalize(self.project(first_tokens(hidden, segments)), dim=-1)}
