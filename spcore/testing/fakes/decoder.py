"""A decoder whose logits depend on everything a slot was fed and on nothing else."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


class FakeDecoder:
    """Implements `Decodes` and `Crops`. The logits of a slot are a pure function of its whole history, so a chunk fed twice, a copy of
    the wrong slot or a slot that was not freed shows in every token after it.

    calls: (method, slots), in order. prefilled: prompt tokens that were fed. held: slots that are not empty. encoder: whether rows carry "decoder_input_ids".
    """

    def __init__(self, slots: int = 4, length: int = 32, vocabulary: int = 64, *, encoder_length: int = 0) -> None:
        self.capacity = (slots, length, encoder_length)
        self.vocabulary = vocabulary
        self.calls: list[tuple[str, tuple[int, ...]]] = []
        self.prefilled = 0
        self._histories: dict[int, tuple[tuple[int, ...], tuple[int, ...]]] = {}

    @property
    def held(self) -> set[int]:
        """Slots that are not empty."""
        return set(self._histories)

    def history(self, slot: int) -> tuple[int, ...]:
        """Tokens that a slot was fed."""
        return self._histories[slot][1]

    def prefill(self, rows: Sequence[Mapping[str, np.ndarray]], slots: Sequence[int]) -> np.ndarray:
        """Feed rows; logits [slots, vocabulary]."""
        self._note("prefill", slots)
        assert len(rows) == len(slots), "a row for each slot"
        for row, slot in zip(rows, slots, strict=True):
            source, fed = self._histories.get(slot, ((), ()))
            ids = row["decoder_input_ids" if self.capacity[2] else "input_ids"]
            if self.capacity[2]:
                assert ("input_ids" in row) == (not fed), "an encoder's input goes with the first chunk alone"
                source = tuple(int(i) for i in row["input_ids"]) if "input_ids" in row else source
            assert len(ids), f"slot {slot}: an empty chunk"
            self.prefilled += len(ids)
            self._put(slot, source, (*fed, *(int(i) for i in ids)))
        return self._logits(slots)

    def decode(self, ids: Sequence[int], slots: Sequence[int]) -> np.ndarray:
        """Feed one token to each slot; logits [slots, vocabulary]."""
        self._note("decode", slots)
        for token, slot in zip(ids, slots, strict=True):
            source, fed = self._histories[slot]
            self._put(slot, source, (*fed, int(token)))
        return self._logits(slots)

    def copy(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Copy histories, all read before any is written."""
        self._note("copy", (*sources, *targets))
        read = [self._histories[slot] for slot in sources]
        self._histories.update(zip(targets, read, strict=True))

    def crop(self, slots: Sequence[int], lengths: Sequence[int]) -> None:
        """Forget the ends of histories."""
        self._note("crop", slots)
        for slot, length in zip(slots, lengths, strict=True):
            source, fed = self._histories[slot]
            assert 0 < length <= len(fed), f"slot {slot}: {length} of {len(fed)} tokens"
            self._put(slot, source, fed[:length])

    def free(self, slots: Sequence[int]) -> None:
        """Forget histories."""
        self._note("free", slots)
        for slot in slots:
            self._histories.pop(slot, None)

    def _note(self, method: str, slots: Sequence[int]) -> None:
        self.calls.append((method, tuple(slots)))
        assert all(0 <= slot < self.capacity[0] for slot in slots), f"{method}: no such slot among {list(slots)}"
        assert method == "copy" or len(set(slots)) == len(slots), f"{method}: a slot twice in {list(slots)}"

    def _put(self, slot: int, source: tuple[int, ...], fed: tuple[int, ...]) -> None:
        assert len(fed) <= self.capacity[1], f"slot {slot}: {len(fed)} tokens, it has {self.capacity[1]} positions"
        assert len(source) <= self.capacity[2], (
            f"slot {slot}: {len(source)} tokens for an encoder of {self.capacity[2]}"
        )
        assert all(0 <= token < self.vocabulary for token in (*source, *fed)), f"slot {slot}: no such token in {fed}"
        self._histories[slot] = (source, fed)

    def _logits(self, slots: Sequence[int]) -> np.ndarray:
        rows: list[Any] = [np.empty((0, self.vocabulary), np.float32)]
        for slot in slots:
            content = repr(self._histories[slot]).encode()
            rows.append(
                3 * np.random.default_rng(zlib.crc32(content)).standard_normal((1, self.vocabulary)).astype(np.float32)
            )
        return np.concatenate(rows)
