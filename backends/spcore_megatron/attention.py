"""Attention and norms for the layers of every family, where Transformer Engine is not, or does not honour what is asked.

Which positions a rank holds and which attend to which is decided here once, from the batch alone, so that every stage of a pipeline and
every rank of a context group comes to the same masks.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core import parallel_state as ps
from megatron.core import tensor_parallel
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.module import MegatronModule


def held(length: int, rank: int, ranks: int) -> torch.Tensor:
    """int64: the positions of a text that a rank of a context group holds: of 2 * ranks equal parts the one of its number and, from the
    end, the other, so that under a causal mask all have as much to do; as Transformer Engine lays them."""
    if ranks == 1:
        return torch.arange(length)
    assert length % (2 * ranks) == 0, (
        f"{length} positions are no multiple of {2 * ranks}: see `BatchRule.length_multiple`"
    )
    parts = torch.arange(length).view(2 * ranks, -1)
    return torch.cat([parts[rank], parts[2 * ranks - 1 - rank]])


def masked(
    inputs: Mapping[str, torch.Tensor], *, causal: bool, window: int | None, rank: int = 0, ranks: int = 1
) -> torch.Tensor | None:
    """Bool, True where a query must not see a key (Megatron's sense): [B, 1, queries or 1, keys], queries those that `rank` holds, keys of
    all ranks in the order in which they are gathered. None where a causal mask, or none at all, says the same.

    inputs: input_ids [B, T], segment_ids [B, T] of packs, else attention_mask [B, T] or nothing. window: each position sees so many,
    itself included; None: all. Texts are padded at the end, so that causal attention needs no mask for padding.
    """
    ids, segments, padding = inputs["input_ids"], inputs.get("segment_ids"), inputs.get("attention_mask")
    length, device = ids.shape[1], ids.device
    near = length if window is None else window
    if causal and segments is None and ranks == 1 and near >= length:
        return None
    keys = torch.cat([held(length, n, ranks) for n in range(ranks)]).to(device)
    queries = held(length, rank, ranks).to(device)
    seen = []
    if segments is not None:
        seen.append(segments[:, queries, None] == segments[:, None, keys])
    elif padding is not None and not causal:
        seen.append((padding[:, keys] != 0)[:, None])
    if causal or near < length:
        back = (queries[:, None] - keys)[None]
        seen.append((back >= 0) & (back < near) if causal else back.abs() < near)
    return ~functools.reduce(torch.logical_and, seen)[:, None] if seen else None


class Attention(MegatronModule):  # type: ignore[misc]
    """Core attention on torch's fused kernels: [T, B, heads, width] -> [T, B, heads * width]. Keys and values may have fewer heads. Under
    context parallelism they are gathered over its group, gradients summed on the way back. A mask says what may not attend; without one
    the layer's kind of mask decides."""

    def __init__(
        self,
        config: Any,
        layer_number: int,
        attn_mask_type: AttnMaskType,
        attention_type: str,
        attention_dropout: float | None = None,
        softmax_scale: float | None = None,
        cp_comm_type: str | None = None,
        pg_collection: Any = None,
    ) -> None:
        super().__init__(config)
        self.causal = attn_mask_type == AttnMaskType.causal
        self.self_attention = attention_type == "self"
        self.scale = softmax_scale
        self.dropout = config.attention_dropout if attention_dropout is None else attention_dropout

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        attn_mask_type: AttnMaskType | None = None,
        attention_bias: torch.Tensor | None = None,
        packed_seq_params: Any = None,
    ) -> torch.Tensor:
        """See the class. attention_bias: added to the scores, [1, heads, queries, keys]."""
        assert packed_seq_params is None, "packs come as a mask"
        if self.self_attention and self.config.context_parallel_size > 1:
            group = ps.get_context_parallel_group()
            key, value = (
                tensor_parallel.gather_from_sequence_parallel_region(x.contiguous(), group=group) for x in (key, value)
            )
        q, k, v = (x.permute(1, 2, 0, 3) for x in (query, key, value))
        mask: torch.Tensor | None = None if attention_mask is None else ~attention_mask
        causal = self.causal and mask is None
        if attention_bias is not None:
            mask, causal = _biased(attention_bias, mask, causal, q.shape[2]), False
        dropout = self.dropout if self.training else 0.0
        # Under sequence parallelism the whole block draws from the tracker; a fork in a fork would draw the same for every layer.
        apart = dropout and not self.config.sequence_parallel
        drawing = tensor_parallel.get_cuda_rng_tracker().fork() if apart else contextlib.nullcontext()
        with drawing:
            found = F.scaled_dot_product_attention(
                q,
                k,
                v,
                attn_mask=mask,
                dropout_p=dropout,
                is_causal=causal,
                scale=self.scale,
                enable_gqa=k.shape[1] != q.shape[1],
            )
        return found.permute(2, 0, 1, 3).reshape(query.shape[0], query.shape[1], -1)


def _biased(bias: torch.Tensor, seen: torch.Tensor | None, causal: bool, length: int) -> torch.Tensor:
    """One additive mask from a bias and what may be seen."""
    if causal:
        seen = torch.ones(length, length, dtype=torch.bool, device=bias.device).tril()
    return bias if seen is None else bias.masked_fill(~seen, torch.finfo(bias.dtype).min)


class Norm:
    """Makes torch's own norm. Megatron's wrapper refuses sequence parallelism, which needs nothing but the mark by which gradients are
    summed over the ranks that have parts of the positions."""

    def __new__(cls, config: Any, hidden_size: int, eps: float = 1e-5, **_: Any) -> torch.nn.Module:
        """[..., hidden_size] -> the same."""
        kind = torch.nn.LayerNorm
        if config.normalization == "RMSNorm":
            kind = _CentredNorm if config.layernorm_zero_centered_gamma else torch.nn.RMSNorm
        norm = kind(hidden_size, eps=eps, dtype=config.params_dtype)
        for parameter in norm.parameters():
            parameter.sequence_parallel = config.sequence_parallel
        return norm


class _CentredNorm(torch.nn.RMSNorm):  # type: ignore[misc]
    """Weights are stored as their difference from one (Gemma)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., hidden_size] -> the same."""
        return F.rms_norm(x.float(), self.normalized_shape, 1.0 + self.weight.float(), self.eps).to(x.dtype)
