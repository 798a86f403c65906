"""Attention for packs: each text attends to itself, and nothing is spent on pairs that may not.

Linear layers see long rows of real tokens; only attention is cut. The layout is computed once a forward pass from `segment_ids`,
passed through the family's own modules as a keyword, and shared by all layers. Exact: softmax over the same keys as in a padded row.
Registered with transformers under NAME; without a layout it is sdpa. Three ways, by what is quickest:

by_runs: neighbours of one length are a batch of torch's fused attention, a view of what came in. For causal models on a CPU, whose
    windows are long and mostly of one length: nothing is masked, copied or padded.
_Attention: texts are laid by first fit into rows as long as the longest, the rows run as one batch of small products with a block
    mask, and the result goes back to the long rows. For the many short texts of encoders on a CPU, and for attention dropout there,
    which the fused kernel lacks.
by_sdpa: the same rows by torch's fused attention, on GPUs: no loop over texts.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from spcore.interfaces.model import Positions
from spcore.tensors.dropout import keep_mask

NAME = "spcore_segments"


NO_MASK = torch.empty(0, 0, 0, 0)
"""Given to a family in place of a mask where the layout says what may attend: its mask code hands on what has four axes."""


class Reach(NamedTuple):
    """Whom a token of a text attends to, within its text: causal: itself and earlier ones. window: those nearer than this, None: all."""

    causal: bool = False
    window: int | None = None


class Layout:
    """Where each token of flat sequences is attended. Built from segment_ids [S, L] (0 = padding), segments contiguous.

    count: N segments, sequence by sequence. width: the longest's tokens. first: int64 [N], flat position of each segment's first token.
    owner: int64 [S * L], the segment of each flat token, N for padding. segments: int64 [N, 2], (sequence, start). All on the
    device of segment_ids. runs: (count, tokens) of neighbours of one length, in order, count 0 for padding: all flat tokens once.
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
        self.runs = _runs(np.where(real, 1, -1) * np.diff(border, append=flat.size))
        self._starts, self._lengths, self._total = starts, lengths, flat.size
        self._masks: dict[Any, torch.Tensor | None] = {}
        self._slices: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def _put(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, np.int64)).to(self.device)

    @property
    def even(self) -> bool:
        """Whether all segments have one length."""
        return bool((self._lengths == self.width).all())

    @property
    def rows(self) -> int:
        """P, rows of first fit, longest first."""
        return len(self._laid[0])

    @functools.cached_property
    def _laid(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, bool]:
        """take [P, W]: flat position of each place; back [S * L]: place of each flat token, padding's is one past the end; owner
        [P, W]: segment of each place, -1 for empty ones; whether there is padding."""
        starts, lengths = self._starts, self._lengths
        rows = _first_fit(lengths, self.width)
        take, owner = np.zeros((len(rows), self.width), np.int64), np.full((len(rows), self.width), -1, np.int64)
        back = np.full(self._total, take.size, np.int64)
        for p, row in enumerate(rows):
            column = 0
            for n in row:
                span = np.arange(lengths[n])
                take[p, column + span], owner[p, column + span] = starts[n] + span, n
                back[starts[n] + span] = p * self.width + column + span
                column += int(lengths[n])
        return self._put(take), self._put(back), self._put(owner), bool((back == take.size).any())

    def allowed(self, reach: Reach) -> torch.Tensor | None:
        """bool [P, W, W], which pairs of places may attend; None: all."""
        if reach not in self._masks:
            owner = self._laid[2]
            allowed = owner[:, :, None] == owner[:, None, :]
            inside = within(reach, self.width, self.device)
            allowed = allowed if inside is None else allowed & inside
            # Empty places see each other only: no row is without a key, and what they compute, gradients too, reaches no token.
            self._masks[reach] = None if bool(allowed.all()) else allowed
        return self._masks[reach]

    def additive(self, reach: Reach, heads: int, dtype: torch.dtype) -> torch.Tensor | None:
        """`allowed` as 0 and -inf, [P * heads, W, W]."""
        allowed = self.allowed(reach)
        if allowed is None:
            return None
        key = (reach, heads, dtype)
        if key not in self._masks:
            mask = torch.zeros(allowed.shape, dtype=dtype, device=self.device).masked_fill_(~allowed, -math.inf)
            self._masks[key] = mask[:, None].expand(-1, heads, -1, -1).reshape(-1, self.width, self.width)
        return self._masks[key]

    def slices(self, heads: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(take [P * heads * W], back [S * L * heads]) for rows of one head each: flat token t, head h is row t * heads + h; place
        w of row p, head h is (p * heads + h) * W + w. So one gather also brings heads before places."""
        if heads not in self._slices:
            take, flat, _, padded = self._laid
            head = torch.arange(heads, device=self.device)
            taken = take[:, None, :] * heads + head[None, :, None]
            row, place = flat // self.width, flat % self.width
            back = (row[:, None] * heads + head) * self.width + place[:, None]
            if padded:
                back[flat == self.rows * self.width] = taken.numel()
            self._slices[heads] = (taken.reshape(-1), back.reshape(-1))
        return self._slices[heads]

    def gather(self, x: torch.Tensor, heads: int) -> torch.Tensor:
        """[S * L, heads * D] -> [P * heads, W, D]."""
        depth = x.shape[1] // heads
        return x.reshape(-1, depth).index_select(0, self.slices(heads)[0]).view(-1, self.width, depth)

    def scatter(self, x: torch.Tensor, heads: int) -> torch.Tensor:
        """[P * heads, W, D] -> [S * L, heads * D]; padding gets zeros."""
        depth = x.shape[2]
        rows = x.reshape(-1, depth)
        if self._laid[3]:
            rows = torch.cat([rows, rows.new_zeros(1, depth)])
        return rows.index_select(0, self.slices(heads)[1]).view(-1, heads * depth)


def within(reach: Reach, length: int, device: torch.device) -> torch.Tensor | None:
    """bool [length, length]: who may attend to whom in one text; None: all."""
    window = None if reach.window is None or reach.window >= length else reach.window
    if not reach.causal and window is None:
        return None
    place = torch.arange(length, device=device)
    ago = place[:, None] - place[None, :]
    allowed = ago >= 0 if reach.causal else torch.ones_like(ago, dtype=torch.bool)
    return allowed if window is None else allowed & (ago.abs() < window)


def _runs(signed: np.ndarray) -> tuple[tuple[int, int], ...]:
    """Of lengths in order, padding's below 0: (how many, tokens of each); padding: (0, tokens)."""
    if not signed.size:
        return ()
    edges = np.flatnonzero(np.diff(signed, prepend=signed[0] - 1))
    counts = np.diff(edges, append=signed.size)
    return tuple((n, w) if w > 0 else (0, -n * w) for n, w in zip(counts.tolist(), signed[edges].tolist(), strict=True))


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
    """softmax(q k' * scale + mask) v by segment, on a CPU: small products in one call each, softmax in float32 at least.

    q [S * L, heads * D]; k, v [S * L, groups * D]: heads h * heads / groups and following share key and value head h, as rows of one
    product."""

    @staticmethod
    def forward(
        ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: Layout, heads: int, groups: int, scale: float,
        reach: Reach, dropout: float,
    ) -> torch.Tensor:  # fmt: skip
        share = heads // groups * layout.width
        q, k, v = layout.gather(q, heads), layout.gather(k, groups), layout.gather(v, groups)
        q, mask = q.view(len(k), share, -1), layout.additive(reach, heads, q.dtype)
        scores = _scaled(q, k.transpose(1, 2), scale, None if mask is None else mask.view(len(k), share, -1))
        weights = torch.softmax(scores, -1, dtype=torch.promote_types(q.dtype, torch.float32)).to(q.dtype)
        kept = keep_mask(weights.shape, dropout, q.dtype) if dropout else None
        ctx.save_for_backward(q, k, v, weights, kept)
        ctx.rest = (layout, heads, groups, scale)
        out = torch.bmm(weights if kept is None else weights * kept, v)
        return layout.scatter(out.view(-1, layout.width, out.shape[-1]), heads)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        q, k, v, weights, kept = ctx.saved_tensors
        layout, heads, groups, scale = ctx.rest
        out = layout.gather(grads[0], heads).view(len(v), -1, v.shape[-1])
        of_v = torch.bmm((weights if kept is None else weights * kept).transpose(1, 2), out)
        of_weights = torch.bmm(out, v.transpose(1, 2))
        if kept is not None:
            of_weights.mul_(kept)
        of_scores = torch._softmax_backward_data(of_weights, weights, -1, weights.dtype)
        of_q = _scaled(of_scores, k, scale, None).view(-1, layout.width, q.shape[-1])
        of_k = _scaled(of_scores.transpose(1, 2), q, scale, None)
        back = layout.scatter(of_q, heads), layout.scatter(of_k, groups), layout.scatter(of_v, groups)
        return *back, None, None, None, None, None, None


def _scaled(a: torch.Tensor, b: torch.Tensor, scale: float, mask: torch.Tensor | None) -> torch.Tensor:
    """a @ b * scale + mask, the scale inside the product."""
    if mask is None:
        return torch.baddbmm(a.new_empty(1, 1, 1), a, b, beta=0, alpha=scale)
    return torch.baddbmm(mask, a, b, alpha=scale)


def segment_attention(
    module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: torch.Tensor | None = None,
    dropout: float = 0.0, scaling: float | None = None, segment_layout: Layout | None = None,
    shared_positions: Positions | None = None, **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:  # fmt: skip
    """transformers' attention interface: query [S, heads, L, D], key and value [S, groups, L, D] -> ([S, L, heads, D], None).
    shared_positions: where these are one rank's part of the positions; the mask is its rows of the whole one."""
    if shared_positions is not None:
        query, key, value = _narrowed(query, key, value)
        key, value = shared_positions.gather(torch.stack((key, value)), 3).unbind()
        bias = kwargs.get("position_bias")
        if (
            bias is not None and bias.shape[-1] != key.shape[2]
        ):  # zeros for the keys before they were gathered: T5 across
            kwargs["position_bias"] = None
    if segment_layout is None:
        plain: tuple[torch.Tensor, torch.Tensor | None] = ALL_ATTENTION_FUNCTIONS["sdpa"](
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return plain
    assert attention_mask is None or not attention_mask.numel(), "by segment: the layout says what may attend"
    assert kwargs.get("softcap") is None, "by segment: scores are not bounded"
    sequences, heads, length, depth = query.shape
    groups = key.shape[1]
    assert key.shape == value.shape == (sequences, groups, length, depth), "by segment: each text attends to itself"
    query, key, value = _narrowed(query, key, value)
    flat = [x.transpose(1, 2).reshape(sequences * length, -1) for x in (query, key, value)]
    reach = Reach(bool(getattr(module, "is_causal", False)), kwargs.get("sliding_window"))
    scale = depth**-0.5 if scaling is None else scaling
    if query.device.type != "cpu":
        out = by_sdpa(flat, segment_layout, heads, groups, scale, reach, float(dropout))
    elif reach.causal and not dropout:
        out = by_runs(flat, segment_layout, heads, groups, scale, reach)
    else:
        out = _Attention.apply(*flat, segment_layout, heads, groups, scale, reach, float(dropout))
    return out.view(sequences, length, heads, depth), None


def _narrowed(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """In autocast's format: rotary positions widen queries and keys, not values."""
    if not torch.is_autocast_enabled(query.device.type):
        return query, key, value
    narrow = torch.get_autocast_dtype(query.device.type)
    return query.to(narrow), key.to(narrow), value.to(narrow)


def by_runs(
    flat: list[torch.Tensor], layout: Layout, heads: int, groups: int, scale: float, reach: Reach
) -> torch.Tensor:
    """[S * L, heads * D] of q [S * L, heads * D], k and v [S * L, groups * D]: one call for each run of texts of one length, by
    torch's fused attention; padding gets zeros."""
    sizes = [max(count, 1) * tokens for count, tokens in layout.runs]
    cut = zip(*(x.split(sizes) if len(sizes) > 1 else [x] for x in flat), strict=True)
    found = []
    for (count, tokens), parts in zip(layout.runs, cut, strict=True):
        if not count:
            found.append(torch.zeros_like(parts[0]))
            continue
        q, k, v = (
            x.view(count, tokens, h, -1).transpose(1, 2) for x, h in zip(parts, (heads, groups, groups), strict=True)
        )
        near = reach.window is not None and reach.window < tokens
        mask = within(reach, tokens, q.device) if near else None
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=reach.causal and not near, scale=scale, enable_gqa=heads != groups
        )
        found.append(out.transpose(1, 2).reshape(count * tokens, -1))
    return found[0] if len(found) == 1 else torch.cat(found)


def by_sdpa(
    flat: list[torch.Tensor], layout: Layout, heads: int, groups: int, scale: float, reach: Reach, dropout: float
) -> torch.Tensor:
    """As `by_runs`, on the rows of the layout."""
    q, k, v = (
        _Gather.apply(x, layout, h).unflatten(0, (layout.rows, h))
        for x, h in zip(flat, (heads, groups, groups), strict=True)
    )
    if heads != groups:  # under a mask, torch's kernels for shared heads are slow ones
        k, v = (x.repeat_interleave(heads // groups, 1) for x in (k, v))
    # Texts of one length need no mask: the quickest kernel.
    plain = reach.causal and layout.even and (reach.window is None or reach.window >= layout.width)
    allowed = None if plain else layout.allowed(reach)
    mask = None if allowed is None else allowed[:, None]
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=plain, dropout_p=dropout, scale=scale)
    result: torch.Tensor = _Scatter.apply(out.flatten(0, 1), layout, heads)
    return result


def dense_masks(
    segment_ids: torch.Tensor, config: Any, dtype: torch.dtype, causal: bool
) -> torch.Tensor | dict[str, torch.Tensor]:
    """Explicit masks [S, 1, L, L] for transformers' own attention: bool for sdpa, additive `dtype` for eager, under which a bool
    mask leaks; one for each kind of layer where the family has several."""
    same = segment_ids[:, None, :, None] == segment_ids[:, None, None, :]
    length, device, kinds = segment_ids.shape[1], segment_ids.device, layer_kinds(config)
    window = getattr(config, "sliding_window", None)
    # transformers' windows count the token itself in causal families, and not in ModernBERT.
    near = within(Reach(causal, window if causal or window is None else window + 1), length, device)
    far = within(Reach(causal), length, device)
    masks = {
        kind: same if seen is None else same & seen
        for kind, seen in (("full_attention", far), ("sliding_attention", near))
    }
    if config._attn_implementation == "eager":
        low = torch.finfo(dtype).min
        masks = {
            kind: torch.zeros(m.shape, dtype=dtype, device=m.device).masked_fill_(~m, low) for kind, m in masks.items()
        }
    # Without kinds, a window is that of all layers (Mistral).
    return {kind: masks[kind] for kind in kinds} if kinds else masks["sliding_attention"]


def layer_kinds(config: Any) -> tuple[str, ...]:
    """Kinds of attention that a family's layers have, where it has several: its masks then go by kind."""
    return tuple(sorted(set(getattr(config, "layer_types", None) or ())))


def register() -> None:
    """Make the attention known to transformers, under NAME; again does nothing. Padded rows get sdpa's masks."""
    AttentionInterface.register(NAME, segment_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
