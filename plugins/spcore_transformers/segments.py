"""Attention for packs: each text attends to itself, and nothing is spent on pairs that may not.

Linear layers see long rows of real tokens; only attention is cut. Texts are laid by first fit into rows as long as the longest,
the rows run as one batch of small products with a block mask, and the result goes back to the long rows. The layout is computed
once a forward pass from `segment_ids`, passed through the family's own modules as a keyword, and shared by all layers. Exact:
softmax over the same keys as in a padded row. Registered with transformers under NAME; without a layout it is sdpa.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from spcore.tensors.dropout import keep_mask

NAME = "spcore_segments"


class Layout:
    """Where each token of flat sequences is attended. Built from segment_ids [S, L] (0 = padding), segments contiguous.

    count: N segments, sequence by sequence. first: int64 [N], flat position of each segment's first token. owner: int64 [S * L],
    the segment of each flat token, N for padding. segments: int64 [N, 2], (sequence, start). All on the device of segment_ids.
    """

    def __init__(self, segment_ids: torch.Tensor) -> None:
        ids, self.device = segment_ids.cpu().numpy(), segment_ids.device
        flat = (ids + np.arange(len(ids))[:, None] * (int(ids.max(initial=0)) + 1) * (ids > 0)).ravel()
        # A border is where the segment changes or a row begins.
        border = np.flatnonzero((np.diff(flat, prepend=-1) != 0) | (np.arange(flat.size) % ids.shape[1] == 0))
        real = ids.ravel()[border] > 0
        starts, lengths = border[real], np.diff(border, append=flat.size)[real]
        self.count, self.width = len(starts), int(lengths.max(initial=1))
        owner = np.full(flat.size, self.count, np.int64)
        owner[ids.ravel() > 0] = np.repeat(np.arange(self.count), lengths)
        self.first, self.owner = self._put(starts), self._put(owner)
        self.segments = self._put(np.stack([starts // ids.shape[1], starts % ids.shape[1]], 1))
        self._lay(starts, lengths, flat.size)

    def _put(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, np.int64)).to(self.device)

    def _lay(self, starts: np.ndarray, lengths: np.ndarray, total: int) -> None:
        """First fit, longest first. take: flat position of each place of P rows; back: place of each flat token, padding's is
        one past the end."""
        rows = _first_fit(lengths, self.width)
        self.rows = len(rows)
        take, owner = np.zeros((self.rows, self.width), np.int64), np.full((self.rows, self.width), -1, np.int64)
        back = np.full(total, take.size, np.int64)
        for p, row in enumerate(rows):
            column = 0
            for n in row:
                span = np.arange(lengths[n])
                take[p, column + span], owner[p, column + span] = starts[n] + span, n
                back[starts[n] + span] = p * self.width + column + span
                column += int(lengths[n])
        self.padded = bool((back == take.size).any())
        self._take, self._back, self._place = self._put(take), self._put(back), self._put(owner)
        self._masks: dict[Any, torch.Tensor | None] = {}
        self._slices: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def allowed(self, window: int | None) -> torch.Tensor | None:
        """bool [P, W, W], which pairs of places may attend; None: all. window: |i - j| < window."""
        window = None if window is None or window >= self.width else window
        if window not in self._masks:
            allowed = self._place[:, :, None] == self._place[:, None, :]
            if window is not None:
                place = torch.arange(self.width, device=self.device)
                allowed = allowed & ((place[:, None] - place[None, :]).abs() < window)
            # Empty places see each other only: no row is without a key, and what they compute, gradients too, reaches no token.
            self._masks[window] = None if bool(allowed.all()) else allowed
        return self._masks[window]

    def additive(self, window: int | None, heads: int, dtype: torch.dtype) -> torch.Tensor | None:
        """`allowed` as 0 and -inf, [P * heads, W, W]."""
        allowed = self.allowed(window)
        if allowed is None:
            return None
        key = (window, heads, dtype)
        if key not in self._masks:
            mask = torch.zeros(allowed.shape, dtype=dtype, device=self.device).masked_fill_(~allowed, -math.inf)
            self._masks[key] = mask[:, None].expand(-1, heads, -1, -1).reshape(-1, self.width, self.width)
        return self._masks[key]

    def slices(self, heads: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(take [P * heads * W], back [S * L * heads]) for rows of one head each: flat token t, head h is row t * heads + h; place
        w of row p, head h is (p * heads + h) * W + w. So one gather also brings heads before places."""
        if heads not in self._slices:
            head = torch.arange(heads, device=self.device)
            take = self._take[:, None, :] * heads + head[None, :, None]
            row, place = self._back // self.width, self._back % self.width
            back = (row[:, None] * heads + head) * self.width + place[:, None]
            if self.padded:
                back[self._back == self.rows * self.width] = take.numel()
            self._slices[heads] = (take.reshape(-1), back.reshape(-1))
        return self._slices[heads]

    def gather(self, x: torch.Tensor, heads: int) -> torch.Tensor:
        """[S * L, heads * D] -> [P * heads, W, D]."""
        depth = x.shape[1] // heads
        return x.reshape(-1, depth).index_select(0, self.slices(heads)[0]).view(-1, self.width, depth)

    def scatter(self, x: torch.Tensor, heads: int) -> torch.Tensor:
        """[P * heads, W, D] -> [S * L, heads * D]; padding gets zeros."""
        depth = x.shape[2]
        rows = x.reshape(-1, depth)
        if self.padded:
            rows = torch.cat([rows, rows.new_zeros(1, depth)])
        return rows.index_select(0, self.slices(heads)[1]).view(-1, heads * depth)


def _first_fit(lengths: np.ndarray, width: int) -> list[list[int]]:
    """Segments of each row, longest first."""
    rows: list[list[int]] = []
    room: list[int] = []
    for n in np.argsort(-lengths, kind="stable").tolist():
        at = next((i for i, free in enumerate(room) if free >= lengths[n]), len(rows))
        if at == len(rows):
            rows.append([])
            room.append(width)
        rows[at].append(n)
        room[at] -= int(lengths[n])
    return rows


class _Gather(torch.autograd.Function):  # type: ignore[misc]
    """`Layout.gather`. Its gradient is a gather too: every real token is in exactly one place, so nothing accumulates."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layout: Layout, heads: int) -> torch.Tensor:
        ctx.rest = (layout, heads)
        return layout.gather(x, heads)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        layout, heads = ctx.rest
        return layout.scatter(grads[0], heads), None, None


class _Scatter(torch.autograd.Function):  # type: ignore[misc]
    """`Layout.scatter`."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layout: Layout, heads: int) -> torch.Tensor:
        ctx.rest = (layout, heads)
        return layout.scatter(x, heads)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        layout, heads = ctx.rest
        return layout.gather(grads[0], heads), None, None


class _Attention(torch.autograd.Function):  # type: ignore[misc]
    """softmax(q k' * scale + mask) v by segment, on a CPU: small products in one call each, softmax in float32 at least."""

    @staticmethod
    def forward(
        ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: Layout, heads: int, scale: float,
        window: int | None, dropout: float,
    ) -> torch.Tensor:  # fmt: skip
        q, k, v = (layout.gather(x, heads) for x in (q, k, v))
        mask = layout.additive(window, heads, q.dtype)
        scores = _scaled(q, k.transpose(1, 2), scale, mask)
        weights = torch.softmax(scores, -1, dtype=torch.promote_types(q.dtype, torch.float32)).to(q.dtype)
        kept = keep_mask(weights.shape, dropout, q.dtype) if dropout else None
        ctx.save_for_backward(q, k, v, weights, kept)
        ctx.rest = (layout, heads, scale)
        return layout.scatter(torch.bmm(weights if kept is None else weights * kept, v), heads)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        q, k, v, weights, kept = ctx.saved_tensors
        layout, heads, scale = ctx.rest
        out = layout.gather(grads[0], heads)
        of_v = torch.bmm((weights if kept is None else weights * kept).transpose(1, 2), out)
        of_weights = torch.bmm(out, v.transpose(1, 2))
        if kept is not None:
            of_weights.mul_(kept)
        of_scores = torch._softmax_backward_data(of_weights, weights, -1, weights.dtype)
        of_q = _scaled(of_scores, k, scale, None)
        of_k = _scaled(of_scores.transpose(1, 2), q, scale, None)
        return *(layout.scatter(x, heads) for x in (of_q, of_k, of_v)), None, None, None, None, None


def _scaled(a: torch.Tensor, b: torch.Tensor, scale: float, mask: torch.Tensor | None) -> torch.Tensor:
    """a @ b * scale + mask, the scale inside the product."""
    if mask is None:
        return torch.baddbmm(a.new_empty(1, 1, 1), a, b, beta=0, alpha=scale)
    return torch.baddbmm(mask, a, b, alpha=scale)


def segment_attention(
    module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: torch.Tensor | None = None,
    dropout: float = 0.0, scaling: float | None = None, segment_layout: Layout | None = None, **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:  # fmt: skip
    """transformers' attention interface: query, key, value [S, heads, L, D] -> ([S, L, heads, D], None)."""
    if segment_layout is None:
        plain: tuple[torch.Tensor, torch.Tensor | None] = ALL_ATTENTION_FUNCTIONS["sdpa"](
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return plain
    assert attention_mask is None, "by segment: the layout says what may attend, no mask beside it"
    assert not getattr(module, "is_causal", False), "by segment: no causal layers"
    sequences, heads, length, depth = query.shape
    assert key.shape == query.shape == value.shape, "by segment: one key and value head for each query head"
    flat = [x.transpose(1, 2).reshape(sequences * length, heads * depth) for x in (query, key, value)]
    window, scale = kwargs.get("sliding_window"), depth**-0.5 if scaling is None else scaling
    if query.device.type == "cpu":
        out = _Attention.apply(*flat, segment_layout, heads, scale, window, float(dropout))
    else:
        out = by_sdpa(flat, segment_layout, heads, scale, window, float(dropout))
    return out.view(sequences, length, heads, depth), None


def by_sdpa(
    flat: list[torch.Tensor], layout: Layout, heads: int, scale: float, window: int | None, dropout: float
) -> torch.Tensor:
    """The same by torch's fused attention on the rows of the layout, where it is fast; [S * L, heads * D]."""
    q, k, v = (_Gather.apply(x, layout, heads).unflatten(0, (layout.rows, heads)) for x in flat)
    allowed = layout.allowed(window)
    mask = None if allowed is None else allowed[:, None]
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, scale=scale)
    result: torch.Tensor = _Scatter.apply(out.flatten(0, 1), layout, heads)
    return result


def dense_masks(segment_ids: torch.Tensor, config: Any, dtype: torch.dtype) -> torch.Tensor | dict[str, torch.Tensor]:
    """Explicit masks [S, 1, L, L] for transformers' own attention: bool for sdpa, additive `dtype` for eager, under which a bool
    mask leaks; one for each kind of layer where the family has several."""
    same = segment_ids[:, None, :, None] == segment_ids[:, None, None, :]
    kinds = layer_kinds(config)
    masks = {"full_attention": same}
    if "sliding_attention" in kinds:
        place = torch.arange(segment_ids.shape[1], device=segment_ids.device)
        masks["sliding_attention"] = same & ((place[:, None] - place[None, :]).abs() <= config.sliding_window)
    if config._attn_implementation == "eager":
        low = torch.finfo(dtype).min
        masks = {
            kind: torch.zeros(m.shape, dtype=dtype, device=m.device).masked_fill_(~m, low) for kind, m in masks.items()
        }
    return masks if kinds else masks["full_attention"]


def layer_kinds(config: Any) -> tuple[str, ...]:
    """Kinds of attention that a family's layers have, where it has several: its masks then go by kind."""
    return tuple(sorted(set(getattr(config, "layer_types", None) or ())))


def register() -> None:
    """Make the attention known to transformers, under NAME; again does nothing. Padded rows get sdpa's masks."""
    AttentionInterface.register(NAME, segment_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
