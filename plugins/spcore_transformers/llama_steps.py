"""The layers of Llama and its kin in few operations, for steps of one token or a few.

Such a step reads all weights once, and beside it calls hundreds of small operations, which take as long on a CPU: in a small model
transformers' modules spend half of a step on them. Here rows lie end to end without padding, positions are rotated in three operations,
and attention reads the cache where it is. Linear layers are called as modules, so that what stands in their place (another kernel, an
adapter) is used.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from spcore.tensors.joined import joined
from spcore_transformers.decoding import SlotDecoder, rotary_kinds
from spcore_transformers.slots import SlotLayer, reserve

FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3"})
_FIXED = frozenset({"default", "linear", "llama3", "yarn"})
"""Kinds of rotary positions whose frequencies are the same for texts of any length."""


def fits(config: Any) -> bool:
    """Whether a model is one of those written here. Eager attention, where it is asked for, is the family's own."""
    return config.model_type in FAMILIES and rotary_kinds(config) <= _FIXED and config._attn_implementation != "eager"


class _Rows:
    """What one pass feeds: `counts` tokens to each of `slots`, which have `past`, end to end: N tokens.

    ends: columns of each afterwards; room: slots and columns that a cache needs for all. slot, position: int64 [N]. spans: of each row its tokens, (first, last + 1).
    """

    def __init__(self, slots: Sequence[int], past: Sequence[int], counts: Sequence[int], device: torch.device) -> None:
        self.slots, self.past, self.counts, self.device = list(slots), list(past), list(counts), device
        self.ends = [have + new for have, new in zip(past, counts, strict=True)]
        borders = [0, *itertools.accumulate(counts)]
        self.spans = list(itertools.pairwise(borders))
        self.one, self.room = max(counts) == 1, (max(slots) + 1, max(self.ends))
        self.slot = torch.tensor(np.repeat(self.slots, counts), device=device)
        places = [np.arange(have, end) for have, end in zip(past, self.ends, strict=True)]
        self.position = torch.from_numpy(np.concatenate(places)).to(device)
        first = self.slots[0]
        self.near = slice(first, first + len(slots)) if self.slots == list(range(first, first + len(slots))) else None
        self.last = None if self.one else torch.tensor(borders[1:], device=device) - 1
        self._masks: dict[Any, torch.Tensor | None] = {}

    def mask(self, window: int | None, dtype: torch.dtype) -> torch.Tensor | None:
        """[rows, 1, 1, columns] of 0 and -inf, of one new token a row; None: all columns of all rows are seen."""
        key = (window, dtype)
        if key not in self._masks:
            column = torch.arange(max(self.ends), device=self.device)
            ends = torch.tensor(self.ends, device=self.device)[:, None]
            hidden = column >= ends
            if window is not None:
                hidden |= column < ends - window
            made = torch.zeros(hidden.shape, dtype=dtype, device=self.device).masked_fill_(hidden, -torch.inf)
            self._masks[key] = made[:, None, None] if bool(hidden.any()) else None
        return self._masks[key]

    def triangle(self, row: int, window: int | None) -> torch.Tensor | None:
        """bool [new, columns] of a row, whom its new tokens see; None where torch's own causal mask says so."""
        past, end = self.past[row], self.ends[row]
        if past == 0 and (window is None or window >= end):
            return None
        key = (row, window)
        if key not in self._masks:
            ago = torch.arange(past, end, device=self.device)[:, None] - torch.arange(end, device=self.device)
            self._masks[key] = (ago >= 0) if window is None else (ago >= 0) & (ago < window)
        return self._masks[key]


class _Beside:
    """Linear layers of the same input, which are one where their weights let them."""

    def __init__(self, *linears: Any) -> None:
        one = joined(linears)
        self.joined = one is not None
        self._calls = [_call(linear) for linear in (linears if one is None else [one])]
        self._sizes = None if one is None else [len(linear.weight) for linear in linears]

    def __call__(self, x: torch.Tensor) -> tuple[torch.Tensor, Sequence[int]]:
        """x: [N, inputs] -> [N, outputs of all], and how many are of each."""
        found = [call(x) for call in self._calls]
        if self._sizes is not None:
            return found[0], self._sizes
        return torch.cat(found, -1), [part.shape[-1] for part in found]


class _Layer:
    """A layer's parts, found once: looking them up in a module takes as long as a small operation does. How many heads there are, what its
    linear layers give says: under tensor parallelism some of them."""

    def __init__(self, layer: Any, size: int) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.size, self.scale = size, attention.scaling
        self.before, self.between = _norm(layer.input_layernorm), _norm(layer.post_attention_layernorm)
        self.qkv = _Beside(attention.q_proj, attention.k_proj, attention.v_proj)
        self.q_norm = _norm(attention.q_norm) if hasattr(attention, "q_norm") else None
        self.k_norm = _norm(attention.k_norm) if hasattr(attention, "k_norm") else None
        self.o, self.down = _call(attention.o_proj), _call(mlp.down_proj)
        self.gate_up = _Beside(mlp.gate_proj, mlp.up_proj)
        self.act = F.silu if isinstance(mlp.act_fn, nn.SiLU) else mlp.act_fn

    def __call__(
        self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, now: _Rows, kept: SlotLayer
    ) -> torch.Tensor:
        """x: [N, hidden] -> the same."""
        x = x + self._attention(self.before(x), cos, sin, now, kept)
        y, sizes = self.gate_up(self.between(x))
        gate, up = y.split(sizes, -1)
        # Row by row, as the next product reads it, whatever way the last one wrote.
        return x + self.down(torch.mul(self.act(gate), up, out=y.new_empty(gate.shape)))

    def _attention(
        self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, now: _Rows, kept: SlotLayer
    ) -> torch.Tensor:
        y, sizes = self.qkv(x)
        y = y.contiguous().view(len(x), -1, self.size)  # attention is slow over heads whose numbers lie apart
        heads = [size // self.size for size in sizes]
        qk, v = y[:, : -heads[2]], y[:, -heads[2] :]
        if self.q_norm is not None and self.k_norm is not None:
            q, k = qk.split(heads[:2], 1)
            qk = torch.cat((self.q_norm(q), self.k_norm(k)), 1)
        q, k = _rotated(qk, cos, sin).split(heads[:2], 1)
        kept.put(k, v, now.slot, now.position, now.room)
        q = q.to(v.dtype).contiguous()
        return self.o(self._one(q, now, kept) if now.one else self._several(q, now, kept))

    def _one(self, q: torch.Tensor, now: _Rows, kept: SlotLayer) -> torch.Tensor:
        """One new token a row: q [rows, heads, size] -> [rows, heads * size]. The heads that share keys are rows of one product."""
        first, end = 0, now.room[1]
        if len(q) == 1 and kept.window is not None:
            first = max(0, end - kept.window)
        mask = None if len(q) == 1 else now.mask(kept.window, q.dtype)
        rows = now.slot if now.near is None else now.near
        k, v = kept.keys[rows, first:end].transpose(1, 2), kept.values[rows, first:end].transpose(1, 2)
        q = q.view(len(q), k.shape[1], -1, self.size)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=self.scale).view(len(q), -1)

    def _several(self, q: torch.Tensor, now: _Rows, kept: SlotLayer) -> torch.Tensor:
        """As `_one`, of rows with several new tokens: row by row."""
        found = []
        for row, (first, last) in enumerate(now.spans):
            mask = now.triangle(row, kept.window)
            k, v = (t[now.slots[row], None, : now.ends[row]].transpose(1, 2) for t in (kept.keys, kept.values))
            out = F.scaled_dot_product_attention(
                q[None, first:last].transpose(1, 2), k, v, attn_mask=mask, is_causal=mask is None, scale=self.scale,
                enable_gqa=q.shape[1] != k.shape[1],
            )  # fmt: skip
            found.append(out[0].transpose(0, 1).flatten(1))
        return found[0] if len(found) == 1 else torch.cat(found)


class LlamaDecoder(SlotDecoder):
    """`Decodes` for models that `fits`. whole: as of `SlotDecoder`."""

    def __init__(self, whole: Any, capacity: tuple[int, int, int]) -> None:
        super().__init__(whole, capacity)
        self._base, self._size = whole.model, int(whole.model.layers[0].self_attn.head_dim)
        self._parts = [_Layer(layer, self._size) for layer in self._base.layers]
        self._last, self._head = _norm(self._base.norm), _call(whole.lm_head)

    def prefill(self, rows: Sequence[Mapping[str, np.ndarray]], slots: Sequence[int]) -> np.ndarray:
        """See `Decodes.prefill`."""
        ids = [row["input_ids"] for row in rows]
        return self._fed(np.concatenate(ids) if ids else [], [len(chunk) for chunk in ids], slots)

    def decode(self, ids: Sequence[int], slots: Sequence[int]) -> np.ndarray:
        """See `Decodes.decode`."""
        return self._fed(ids, [1] * len(slots), slots)

    def _fed(self, ids: np.ndarray | Sequence[int], counts: Sequence[int], slots: Sequence[int]) -> np.ndarray:
        if not slots:
            return np.zeros((0, self.vocabulary), np.float32)
        assert not self.whole.training, "a module that decodes is in eval mode"
        with torch.inference_mode():
            now = _Rows(slots, [self.lengths[slot] for slot in slots], counts, self.device)
            reserve(self.layers, *now.room)
            logits = self._logits(torch.as_tensor(ids, device=self.device), now)
            for slot, end in zip(slots, now.ends, strict=True):
                self.lengths[slot] = end
            found: np.ndarray = logits.float().cpu().numpy()
        return found

    def _logits(self, ids: torch.Tensor, now: _Rows) -> torch.Tensor:
        """[rows, vocabulary] after the last token of each."""
        x = self._base.embed_tokens(ids)
        cos, sin = self._base.rotary_emb(x, position_ids=now.position[None])
        cos, sin = cos[0, :, None], sin[0, :, None]
        half = self._size // 2
        # Rotated halves are (-second, first): the sign is put into the sines.
        sin = torch.cat((-sin[..., :half], sin[..., half:]), -1)
        for part, kept in zip(self._parts, self.layers, strict=True):
            x = part(x, cos, sin, now, kept)
        if now.last is not None:
            x = x.index_select(0, now.last)
        logits: torch.Tensor = self._head(self._last(x))
        return logits.contiguous()


def _rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary positions (Su et al. 2021, https://arxiv.org/abs/2104.09864) of [N, heads, size]."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)


def _call(module: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """How to call a module: without what `nn.Module` does round a forward pass, where there are no hooks."""
    hooked = module._forward_hooks or module._forward_pre_hooks
    found: Callable[[torch.Tensor], torch.Tensor] = module if hooked else module.forward
    return found


def _norm(module: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """A root mean square norm (Zhang and Sennrich 2019, https://arxiv.org/abs/1910.07467), in float32 in few operations; the module's own
    code decides where narrower formats are rounded."""
    weight, own, width = module.weight, _call(module), module.weight.shape[-1]
    eps = torch.full((1, 1), module.variance_epsilon, device=weight.device)

    def norm(x: torch.Tensor) -> torch.Tensor:
        if x.dtype != torch.float32:
            return own(x)
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return x * weight * torch.addcmul(eps, length, length, value=1 / width).rsqrt_()

    return norm
