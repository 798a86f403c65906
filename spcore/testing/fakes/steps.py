"""A decoder without a cache: it feeds a module each slot's whole history anew. Slow, and right for any module that looks back alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from spcore.text import pad


class HistoryDecoder:
    """Implements `Decodes` over a module that gives "logits" over the vocabulary.

    encoder_length: above 0 for an encoder-decoder, whose module takes "decoder_input_ids".
    """

    def __init__(
        self, module: torch.nn.Module, slots: int, length: int, encoder_length: int, *, vocabulary: int
    ) -> None:
        self.capacity = (slots, length, encoder_length)
        self.module, self.vocabulary = module, vocabulary
        self._sources: dict[int, np.ndarray] = {}
        self._fed: dict[int, np.ndarray] = {}

    def prefill(self, rows: Sequence[Mapping[str, np.ndarray]], slots: Sequence[int]) -> np.ndarray:
        """See `Decodes.prefill`."""
        for row, slot in zip(rows, slots, strict=True):
            if self.capacity[2] and "input_ids" in row:
                self._sources[slot] = row["input_ids"]
            given = row["decoder_input_ids" if self.capacity[2] else "input_ids"]
            self._fed[slot] = np.concatenate([self._fed.get(slot, given[:0]), given])
        return self._logits(slots)

    def decode(self, ids: Sequence[int], slots: Sequence[int]) -> np.ndarray:
        """See `Decodes.decode`."""
        for token, slot in zip(ids, slots, strict=True):
            self._fed[slot] = np.append(self._fed[slot], token)
        return self._logits(slots)

    def copy(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """See `Decodes.copy`."""
        for held in (self._fed, self._sources):
            read = {target: held[source] for source, target in zip(sources, targets, strict=True) if source in held}
            held.update(read)

    def free(self, slots: Sequence[int]) -> None:
        """See `Decodes.free`."""
        for slot in slots:
            self._fed.pop(slot, None)
            self._sources.pop(slot, None)

    def _logits(self, slots: Sequence[int]) -> np.ndarray:
        """[slots, vocabulary] float32, after each slot's last token."""
        if not slots:
            return np.empty((0, self.vocabulary), np.float32)
        fed = [self._fed[slot] for slot in slots]
        assert max(map(len, fed)) <= self.capacity[1], f"a slot has {self.capacity[1]} positions"
        inputs = _padded(fed, "decoder_" if self.capacity[2] else "")
        if self.capacity[2]:
            inputs |= _padded([self._sources[slot] for slot in slots], "")
        device = next(self.module.parameters()).device
        with torch.no_grad():
            logits = self.module(**{name: ids.to(device) for name, ids in inputs.items()})["logits"]
        last = torch.tensor([len(ids) - 1 for ids in fed], device=device)
        found: np.ndarray = logits[torch.arange(len(fed), device=device), last].float().cpu().numpy()
        return found


def _padded(rows: Sequence[np.ndarray], prefix: str) -> dict[str, torch.Tensor]:
    length = max(map(len, rows))
    mask = pad([np.ones(len(row), np.int64) for row in rows], length, 0)
    return {
        f"{prefix}input_ids": torch.from_numpy(pad(rows, length, 0)),
        f"{prefix}attention_mask": torch.from_numpy(mask),
    }
