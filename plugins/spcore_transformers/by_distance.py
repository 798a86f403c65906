"""T5 on one rank's part of the positions: of the encoder's and of the decoder's texts alike.

Its attention adds a bias by the distance between positions, which the first layer of a stack computes for all: here for the rank's own
queries and everybody's keys. Keys and values are gathered where all families' are, in `segments.segment_attention`.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.models.t5.modeling_t5 import T5Attention, T5Stack

from spcore.interfaces.model import Positions
from spcore_transformers import segments


class _Bias:
    """Stands as the `compute_bias` of an attention."""

    def __init__(self, attention: T5Attention, positions: Positions) -> None:
        self.attention, self.positions = attention, positions

    def __call__(self, query_length: int, key_length: int, device: torch.device, past_seen_tokens: int) -> torch.Tensor:
        """[1, heads, own, all], for equal parts of queries and keys."""
        # Of all positions, as nothing of a part says where it begins; the rows of others are not kept.
        size = self.positions.gather(torch.zeros(1, query_length, device=device), 1).shape[1]
        whole = T5Attention.compute_bias(self.attention, size, size, device=device, past_seen_tokens=past_seen_tokens)
        return self.positions.own(whole, 2)


def share(whole: Any, positions: Positions) -> None:
    """Have a T5 work on parts."""
    segments.register()
    for part in whole.modules():
        if isinstance(part, T5Stack):  # whose layers have the same configuration
            part.config._attn_implementation = segments.NAME
        if isinstance(part, T5Attention) and part.has_relative_attention_bias:
            part.compute_bias = _Bias(part, positions)


def shared(inputs: dict[str, torch.Tensor], positions: Positions) -> dict[str, Any]:
    """What such a model is called with, of whole inputs whose lengths divide."""
    seen = inputs["attention_mask"].bool()[:, None, None, :]  # by the encoder, and by the decoder across
    before = inputs["decoder_attention_mask"].bool()[:, None, None, :]
    length = before.shape[-1]
    earlier = torch.ones(length, length, dtype=torch.bool, device=before.device).tril()
    return {
        "input_ids": positions.own(inputs["input_ids"], 1), "attention_mask": seen,
        "decoder_input_ids": positions.own(inputs["decoder_input_ids"], 1),
        "decoder_attention_mask": positions.own(before & earlier, 2), "shared_positions": positions,
    }  # fmt: skip
