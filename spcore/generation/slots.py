"""The slots of a decoder: who has which, and what lies in them, so that what prompts have in common is computed once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from spcore.interfaces.runtime import Crops, Decodes

SHARED_TOKENS = 32
"""The shortest beginning that is worth a copy."""


class Slots:
    """Lends out the slots of `decoder`, and feeds it.

    share: whether prompts lie in the decoder's slots, so that one can begin with a copy of what another holds. What a slot holds when it is
    given back goes, unless it is to be kept: then it stays until somebody needs the slot, and serves those alone who ask for what was kept,
    as else a result would depend, in its last digits, on what ran before.
    """

    def __init__(self, decoder: Decodes, *, share: bool) -> None:
        self._decoder, self._share = decoder, share
        self._crops = decoder if isinstance(decoder, Crops) else None
        self._held: dict[int, list[int]] = {}
        # Empty slots in their order, then those that hold something, the longest unused first.
        self._free = list(range(decoder.capacity[0]))

    @property
    def free(self) -> int:
        """How many there are to lend."""
        return len(self._free)

    def lend(self, count: int, ids: Sequence[int], *, kept: bool) -> list[int]:
        """`count` slots for a prompt; `begin` then says what the first holds of it. kept: of the free slots the one that holds most of its
        beginning comes first where that is at least half of what it holds (a chat goes on), else last (another chat of the same system
        prompt)."""
        donor, common = self._donor(ids, kept)
        if donor in self._free:
            self._free.remove(donor)
            self._free.insert(0 if 2 * common >= len(self._held[donor]) else len(self._free), donor)
        lent, self._free = self._free[:count], self._free[count:]
        if not kept:
            self._empty(lent)
        return lent

    def give_back(self, slots: Sequence[int], *, keep: bool = False) -> None:
        """Take slots back."""
        if not (keep and self._share):
            self._empty(slots)
        empty = sorted(slot for slot in (*self._free, *slots) if slot not in self._held)
        kept = [slot for slot in (*self._free, *slots) if slot in self._held]
        self._free = [*empty, *kept]

    def begin(self, slot: int, ids: Sequence[int], *, kept: bool) -> int:
        """Make a slot ready for a prompt: it holds the prompt's first tokens as far as another does, and nothing else. How many."""
        donor, common = self._donor(ids, kept)
        if donor != slot:
            self._empty([slot])
        if donor is None:
            return 0
        if donor != slot:
            self.copy([donor], [slot])
        if common < len(self._held[slot]):
            assert self._crops is not None, "a donor that holds more was taken without the ability to crop"
            self._crops.crop([slot], [common])
            del self._held[slot][common:]
        return common

    def worth_waiting(self, ids: Sequence[int], others: Sequence[Sequence[int]], *, kept: bool) -> bool:
        """Whether one of the prompts that are being fed will hold more of this one's beginning than any slot does now."""
        if self._crops is None or not self._share:
            return False
        _, common = self._donor(ids, kept)
        return any(_common(other, ids[:-1]) > common for other in others)

    def prefill(self, rows: Sequence[Mapping[str, np.ndarray]], slots: Sequence[int]) -> np.ndarray:
        """See `Decodes.prefill`."""
        for row, slot in zip(rows, slots, strict=True):
            self._held.setdefault(slot, []).extend(row["input_ids"].tolist() if self._share else ())
        return self._decoder.prefill(rows, slots)

    def decode(self, ids: Sequence[int], slots: Sequence[int]) -> np.ndarray:
        """See `Decodes.decode`."""
        for token, slot in zip(ids, slots, strict=True):
            self._held[slot].append(token)
        return self._decoder.decode(ids, slots)

    def copy(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """See `Decodes.copy`."""
        if targets:
            read = [list(self._held[slot]) for slot in sources]
            self._held.update(zip(targets, read, strict=True))
            self._decoder.copy(sources, targets)

    def close(self) -> None:
        """Empty all of them; none is lent any more."""
        self._free = list(range(self._decoder.capacity[0]))
        self._empty(self._free)

    def _empty(self, slots: Sequence[int]) -> None:
        full = [slot for slot in slots if slot in self._held]
        for slot in full:
            del self._held[slot]
        if full:
            self._decoder.free(full)

    def _donor(self, ids: Sequence[int], kept: bool) -> tuple[int | None, int]:
        """The slot that holds most of a prompt's beginning, and how many tokens; of equal ones the smallest. kept: free ones too. The
        prompt's last token is left to be fed, as its logits are wanted."""
        found: tuple[int | None, int] = (None, 0)
        if not self._share:
            return found
        for slot, held in sorted(self._held.items()):
            if slot in self._free and not kept:
                continue
            common = _common(held, ids[:-1])
            usable = common == len(held) or self._crops is not None
            if usable and common > max(found[1], SHARED_TOKENS - 1):
                found = slot, common
        return found


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Tokens that two begin with alike; 0 where they are fewer than are worth a copy."""
    if tuple(a[:SHARED_TOKENS]) != tuple(b[:SHARED_TOKENS]):
        return 0
    shorter = min(len(a), len(b))
    differ = np.flatnonzero(np.array(a[:shorter]) != np.array(b[:shorter]))
    return int(differ[0]) if len(differ) else shorter
