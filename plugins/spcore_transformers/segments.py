"""Attention for packs on a CPU: each text attends to itself, and nothing is spent on pairs that may not.

Linear layers see one long row of real tokens; only attention is cut. Texts are laid into rows as long as the longest by first
fit, the rows run as one batch of small products with a block mask, and the result goes back to the long row. The layout is
computed once a forward pass from `segment_ids` and shared by all layers. Registered with transformers' AttentionInterface, so a
family's own modules run unchanged. Exact: softmax over the same keys as in a padded row.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

NAME = "spcore_segments"


class Layout:
    """Where each token of flat sequences is attended. Built from segment_ids [S, L] (0 = padding), contiguous segments.

    first: int64 [N], flat position of each segment's first token. take: int64 [P * W], flat position of each place of the P rows
    of width W (0 where there is none). back: int64 [S * L], place of each flat token; padding goes to a row of zeros at the end.
    """

    def __init__(self, segment_ids: torch.Tensor) -> None:
        ids = segment_ids.cpu().numpy()
        self.shape = ids.shape
        flat = (ids + np.arange(len(ids))[:, None] * (int(ids.max(initial=0)) + 1) * (ids > 0)).ravel()
        border = np.flatnonzero(np.diff(flat, prepend=-1))
        real = ids.ravel()[border] > 0
        starts, lengths = border[real], np.diff(border, append=flat.size)[real]
        self.first = torch.from_numpy(starts)
        self._lay(starts, lengths, flat.size)
        self._starts, self._lengths, self._total = starts, lengths, flat.size
        self.sequence = torch.from_numpy(starts // ids.shape[1])
        self.start = torch.from_numpy(starts % ids.shape[1])

    def _lay(self, starts: np.ndarray, lengths: np.ndarray, total: int) -> None:
        self.width = int(lengths.max(initial=1))
        rows: list[list[int]] = []
        room: list[int] = []
        for n in np.argsort(-lengths, kind="stable").tolist():
            at = next((i for i, free in enumerate(room) if free >= lengths[n]), len(rows))
            if at == len(rows):
                rows.append([])
                room.append(self.width)
            rows[at].append(n)
            room[at] -= int(lengths[n])
        take = np.zeros((len(rows), self.width), np.int64)
        owner = np.full((len(rows), self.width), -1, np.int64)
        back = np.full(total, len(rows) * self.width, np.int64)
        for p, row in enumerate(rows):
            column = 0
            for n in row:
                span = np.arange(lengths[n])
                take[p, column + span] = starts[n] + span
                owner[p, column + span] = n
                back[starts[n] + span] = p * self.width + column + span
                column += int(lengths[n])
        self.rows, self.padded = len(rows), bool((back == len(rows) * self.width).any())
        self.take, self.back = torch.from_numpy(take.ravel()), torch.from_numpy(back)
        self._owner = torch.from_numpy(owner)
        self._masks: dict[tuple[int | None, int, torch.dtype], torch.Tensor | None] = {}

    def mask(self, window: int | None, heads: int, dtype: torch.dtype) -> torch.Tensor | None:
        """Additive mask [P * heads, W, W], or None where all pairs of a row may attend. window: |i - j| < window."""
        window = None if window is None or window >= self.width else window
        key = (window, heads, dtype)
        if key not in self._masks:
            allowed = self._owner[:, :, None] == self._owner[:, None, :]
            if window is not None:
                place = torch.arange(self.width)
                allowed = allowed & ((place[:, None] - place[None, :]).abs() < window)
            if bool(allowed.all()):
                self._masks[key] = None
            else:
                # Empty places see each other only, so no row is without a key, and what they compute (gradients too: theirs
                # reach no real key) goes nowhere.
                allowed = allowed | torch.eye(self.width, dtype=torch.bool)
                additive = torch.zeros(allowed.shape, dtype=dtype).masked_fill_(~allowed, -math.inf)
                self._masks[key] = additive[:, None].expand(-1, heads, -1, -1).reshape(-1, self.width, self.width)
        return self._masks[key]

    def owners(self) -> np.ndarray:
        """int64 [S * L]: the segment of each flat token, N for padding."""
        owner = np.full(self._total, len(self._starts), np.int64)
        for n, (start, length) in enumerate(zip(self._starts, self._lengths, strict=True)):
            owner[start : start + length] = n
        return owner

    def gather(self, x: torch.Tensor, heads: int) -> torch.Tensor:
        """[T, heads * D] -> [P * heads, W, D]."""
        return x.index_select(0, self.take).view(self.rows, self.width, heads, -1).transpose(1, 2).reshape(self.rows * heads, self.width, -1)

    def scatter(self, x: torch.Tensor, heads: int) -> torch.Tensor:
        """[P * heads, W, D] -> [T, heads * D]; padding gets zeros."""
        flat = x.view(self.rows, heads, self.width, -1).transpose(1, 2).reshape(self.rows * self.width, -1)
        if self.padded:
            flat = torch.cat([flat, flat.new_zeros(1, flat.shape[1])])
        return flat.index_select(0, self.back)


class _Attention(torch.autograd.Function):
    """softmax(q k' * scale + mask) v by segment. Gathers in both directions, so neither accumulates nor makes a dense mask."""

    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: Layout, heads: int, scale: float, window: int | None, dropout: float) -> torch.Tensor:
        q, k, v = (layout.gather(x, heads) for x in (q, k, v))
        mask = layout.mask(window, heads, q.dtype)
        scores = torch.bmm(q, k.transpose(1, 2)).mul_(scale) if mask is None else torch.baddbmm(mask, q, k.transpose(1, 2), alpha=scale)
        wide = torch.promote_types(q.dtype, torch.float32)
        weights = torch.softmax(scores, -1, dtype=wide).to(q.dtype)
        kept = torch.empty_like(weights).bernoulli_(1 - dropout).div_(1 - dropout) if dropout else None
        ctx.save_for_backward(q, k, v, weights, kept)
        ctx.rest = (layout, heads, scale)
        return layout.scatter(torch.bmm(weights if kept is None else weights * kept, v), heads)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        q, k, v, weights, kept = ctx.saved_tensors
        layout, heads, scale = ctx.rest
        out = layout.gather(grads[0].contiguous(), heads)
        of_v = torch.bmm((weights if kept is None else weights * kept).transpose(1, 2), out)
        of_weights = torch.bmm(out, v.transpose(1, 2))
        if kept is not None:
            of_weights.mul_(kept)
        of_scores = torch._softmax_backward_data(of_weights, weights, -1, weights.dtype)
        of_q = torch.bmm(of_scores, k).mul_(scale)
        of_k = torch.bmm(of_scores.transpose(1, 2), q).mul_(scale)
        return *(layout.scatter(x, heads) for x in (of_q, of_k, of_v)), None, None, None, None, None


def segment_attention(
    module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: torch.Tensor | None = None,
    dropout: float = 0.0, scaling: float | None = None, segment_layout: Layout | None = None, **kwargs: Any,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """transformers' attention interface: query, key, value [S, heads, L, D] -> [S, L, heads, D]. Without a layout it is sdpa."""
    if segment_layout is None:
        result: tuple[torch.Tensor, None] = ALL_ATTENTION_FUNCTIONS["sdpa"](
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return result
    sequences, heads, length, depth = query.shape
    if key.shape[1] != heads:
        key, value = (x.repeat_interleave(heads // x.shape[1], 1) for x in (key, value))
    flat = [x.transpose(1, 2).reshape(sequences * length, heads * depth) for x in (query, key, value)]
    window = kwargs.get("sliding_window")
    scale = depth**-0.5 if scaling is None else scaling
    out = _Attention.apply(*flat, segment_layout, heads, scale, window, float(dropout))
    return out.view(sequences, length, heads, depth), None


def register() -> None:
    """Make the attention known to transformers, under NAME; again does nothing. Padded rows get sdpa's masks."""
    ALL_ATTENTION_FUNCTIONS.register(NAME, segment_attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, sdpa_mask)
