"""Keys and values of what was fed, by slot, behind transformers' own `Cache`, so that every family's own code runs over them.

A slot's tokens lie from column 0 on. What a forward pass sees of the slots that it concerns is right-aligned, as in a batch padded on
the left: one number of past columns then serves all rows, whatever positions are (rotary, learnt, relative) and whatever a layer's window.
Memory is taken when it is needed, in doubling steps, and never for more than the capacity.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import CacheLayerMixin

from spcore.tensors.pages import lay_out

_FIRST = 64
"""Columns that a cache has at least, once it grows."""
_ALONE = 2**25
"""Bytes of a layer's keys and values from which on they grow by themselves: there is no need of neighbours to fill large pages, and what all
of them hold would be there twice while they grow."""


class Pass:
    """What one forward pass sees of the slots; its layers share it.

    rows: int64 [B], the slots. past: columns that each has. total: columns of the widest once `new` tokens more are in each.
    index: int64 [B, total], the slot's column that is seen in each place, 0 for the padding on the left; mask: bool [B, total], which
    are real, None where all are. write: int64 [B, new], the columns that the new tokens take, and their positions. near: the slots
    where they are neighbours of equal length: what is seen is then a view of the cache.
    """

    def __init__(self, slots: Sequence[int], past: Sequence[int], new: int, device: torch.device) -> None:
        self.slots, self.new, self.total = list(slots), new, max(past) + new
        self.rows = torch.tensor(self.slots, device=device)
        lengths = torch.tensor(past, device=device)
        self.write = lengths[:, None] + torch.arange(new, device=device)
        first, even = self.slots[0], len(set(past)) == 1
        neighbours = self.slots == list(range(first, first + len(self.slots)))
        self.near = slice(first, first + len(self.slots)) if even and neighbours else None
        self.mask: torch.Tensor | None = None
        if self.near is None:
            seen = torch.arange(self.total, device=device) - (self.total - new - lengths)[:, None]
            self.mask = None if even else seen >= 0
            self.index = seen.clamp_(min=0)


class SlotLayer(CacheLayerMixin):  # type: ignore[misc]
    """One layer's keys and values [slots, columns, heads, size]. slots, length: the most there may be of the first two. window: tokens that
    a query sees, itself included; None: all."""

    is_croppable = False

    def __init__(self, slots: int, length: int, window: int | None) -> None:
        super().__init__()
        self.most, self.window, self.is_sliding = (slots, length), window, window is not None
        self.now: Pass | None = None

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Begin, empty, for [..., heads, size]."""
        # Scores are products: where those are 16-bit, rotary positions that widened the keys are rounded there anyway.
        dtype = value_states.dtype
        self.keys = key_states.new_zeros((0, 0, *key_states.shape[-2:]), dtype=dtype)
        self.values = value_states.new_zeros((0, 0, *value_states.shape[-2:]))
        self.is_initialized = True

    def grown(self, slots: int, columns: int) -> tuple[int, int]:
        """Slots and columns to have where so many are needed."""
        had = self.keys.shape
        return _grown(had[0], slots, 1, self.most[0]), _grown(had[1], columns, _FIRST, self.most[1])

    def nbytes(self, slots: int, columns: int) -> int:
        """Of keys and values together, once they have grown for these."""
        size: int = self.keys.element_size()
        return 2 * size * math.prod((*self.grown(slots, columns), *self.keys.shape[2:]))

    def move(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Into memory that is larger."""
        slots, columns = self.keys.shape[:2]
        for new, old in ((keys, self.keys), (values, self.values)):
            # Zeros: a column that is masked still enters a sum, with weight 0, and 0 times what memory holds need not be 0.
            new.zero_()[:slots, :columns] = old
        self.keys, self.values = keys, values

    def put(
        self,
        keys: torch.Tensor,
        values: torch.Tensor,
        slots: torch.Tensor,
        columns: torch.Tensor,
        room: tuple[int, int],
    ) -> None:
        """Put [..., heads, size] into columns [...] of slots [...]. room: slots and columns that this needs."""
        if not self.is_initialized:
            self.lazy_initialization(keys, values)
        reserve([self], *room)
        self.keys.index_put_((slots, columns), keys.to(self.keys.dtype))
        self.values.index_put_((slots, columns), values)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add [B, heads, new, size] to the pass's slots; what their queries see, [B, heads, seen, size]."""
        now = self.now
        assert now is not None, "a cache is updated in a forward pass of its decoder"
        room = (max(now.slots) + 1, now.total)
        self.put(key_states.transpose(1, 2), value_states.transpose(1, 2), now.rows[:, None], now.write, room)
        first = now.total - self._seen(now.new)
        if now.near is not None:
            return tuple(t[now.near, first : now.total].transpose(1, 2) for t in (self.keys, self.values))
        at = now.rows[:, None], now.index[:, first:]
        return tuple(t[at].transpose(1, 2) for t in (self.keys, self.values))

    def _seen(self, new: int) -> int:
        assert self.now is not None
        return self.now.total if self.window is None else min(self.now.total, self.window - 1 + new)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """(columns seen, columns before those)."""
        assert self.now is not None
        seen = self._seen(query_length)
        return seen, self.now.total - seen

    def get_seq_length(self) -> int:
        """Past columns of the widest slot of the pass."""
        return self.now.total - self.now.new if self.now is not None else 0

    def get_max_length(self) -> int:
        """The most columns."""
        return self.most[1]

    def copy(self, sources: torch.Tensor, targets: torch.Tensor, columns: int) -> None:
        """Copy the first columns of slots, simultaneously. There is room for them (`reserve`)."""
        if self.is_initialized:
            for tensor in (self.keys, self.values):
                tensor[targets, :columns] = tensor[sources, :columns]

    def clear(self, slot: int, columns: int, first: int = 0) -> None:
        """Zero columns of a slot: what a request left there, were it not finite, would reach the next one through masked columns."""
        if self.is_initialized and slot < len(self.keys):
            self.keys[slot, first:columns] = 0
            self.values[slot, first:columns] = 0


class CrossLayer(CacheLayerMixin):  # type: ignore[misc]
    """One layer's keys and values of encoder outputs, by slot. They are written when a slot's text is encoded, and read as they are
    afterwards: `keys` and `values` are what the slots of the pass see, padded on the right to `width`."""

    is_sliding = False
    is_croppable = False

    def __init__(self, slots: int, length: int) -> None:
        self.store = SlotLayer(slots, length, None)
        self.now: Pass | None = None
        self.width = 0
        super().__init__()

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """See `SlotLayer`."""
        self.store.lazy_initialization(key_states, value_states)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keep [B, heads, width, size] for the pass's slots."""
        assert self.now is not None
        width = key_states.shape[2]
        columns = torch.arange(width, device=key_states.device).expand(len(self.now.slots), -1)
        room = (max(self.now.slots) + 1, width)
        self.store.put(key_states.transpose(1, 2), value_states.transpose(1, 2), self.now.rows[:, None], columns, room)
        return key_states, value_states

    def _seen(self, tensor: torch.Tensor | None) -> torch.Tensor | None:
        if tensor is None or self.now is None:
            return None
        slots = self.now.slots
        together = slots == list(range(slots[0], slots[0] + len(slots)))
        rows = tensor[slots[0] : slots[0] + len(slots)] if together else tensor[self.now.rows]
        return rows[:, : self.width].transpose(1, 2)

    @property
    def keys(self) -> torch.Tensor | None:
        """[B, heads, width, size]."""
        return self._seen(self.store.keys)

    @keys.setter
    def keys(self, value: torch.Tensor | None) -> None:
        assert value is None, "what an encoder gave is written by `update` alone"

    @property
    def values(self) -> torch.Tensor | None:
        """As `keys`."""
        return self._seen(self.store.values)

    @values.setter
    def values(self, value: torch.Tensor | None) -> None:
        assert value is None, "what an encoder gave is written by `update` alone"

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """(columns, 0)."""
        return self.width, 0

    def get_seq_length(self) -> int:
        """Columns."""
        return self.width

    def get_max_length(self) -> int:
        """The most columns."""
        return self.store.most[1]


def reserve(layers: Sequence[SlotLayer], slots: int, columns: int) -> None:
    """Have layers that were fed before hold so many slots and columns at least; what is there stays. Those of one model grow at once, and lie
    side by side. Called by decoders before a pass; in the first one, which shows what a layer holds, each takes what that needs."""
    lacking = [x for x in layers if x.is_initialized and (x.keys.shape[0] < slots or x.keys.shape[1] < columns)]
    large = [layer for layer in lacking if layer.nbytes(slots, columns) >= _ALONE]
    for group in ([layer for layer in lacking if layer not in large], *([layer] for layer in large)):
        made = [
            old.new_empty((*layer.grown(slots, columns), *old.shape[2:]))
            for layer in group
            for old in (layer.keys, layer.values)
        ]
        lay_out(made)
        for layer, keys, values in zip(group, made[::2], made[1::2], strict=True):
            layer.move(keys, values)


def _grown(had: int, wanted: int, first: int, most: int) -> int:
    """A size that holds `wanted`: what is wanted at first, then twice what was there, and `first` at least."""
    assert wanted <= most, f"{wanted} of at most {most}: a request that does not fit is refused before"
    return had if had >= wanted else min(most, max(2 * had, first if had else 0, wanted))
