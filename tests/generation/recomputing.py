"""`Decodes` over a transformers model that computes every slot anew, without a cache: slow, and plainly right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch


class RecomputingDecoder:
    """Implements `Decodes` and `Crops`. model: a causal or an encoder-decoder transformers model. fed: tokens it was given so far."""

    def __init__(self, model: Any, slots: int = 8, length: int = 64) -> None:
        self.encoder = bool(model.config.is_encoder_decoder)
        self.capacity = (slots, length, length if self.encoder else 0)
        self.model = model.eval()
        self.fed = 0
        self.held: dict[int, tuple[list[int], list[int]]] = {}

    def prefill(self, rows: Sequence[Mapping[str, np.ndarray]], slots: Sequence[int]) -> np.ndarray:
        for row, slot in zip(rows, slots, strict=True):
            source, ids = self.held.setdefault(slot, ([], []))
            if self.encoder:
                source += row.get("input_ids", np.empty(0, np.int64)).tolist()
            new = row["decoder_input_ids" if self.encoder else "input_ids"].tolist()
            self.fed += len(new)
            ids += new
        return self._logits(slots)

    def decode(self, ids: Sequence[int], slots: Sequence[int]) -> np.ndarray:
        for token, slot in zip(ids, slots, strict=True):
            self.held[slot][1].append(int(token))
        return self._logits(slots)

    def copy(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        read = [(list(self.held[slot][0]), list(self.held[slot][1])) for slot in sources]
        self.held.update(zip(targets, read, strict=True))

    def crop(self, slots: Sequence[int], lengths: Sequence[int]) -> None:
        for slot, length in zip(slots, lengths, strict=True):
            del self.held[slot][1][length:]

    def free(self, slots: Sequence[int]) -> None:
        for slot in slots:
            self.held.pop(slot, None)

    @torch.inference_mode()
    def _logits(self, slots: Sequence[int]) -> np.ndarray:
        rows = []
        for slot in slots:
            source, ids = self.held[slot]
            given = {"decoder_input_ids" if self.encoder else "input_ids": torch.tensor([ids])}
            if self.encoder:
                given["input_ids"] = torch.tensor([source])
            rows.append(self.model(**given, use_cache=False).logits[0, -1].float().numpy())
        return np.stack(rows)


def tiny_llama(seed: int = 0, vocabulary: int = 40) -> Any:
    """With logits that differ enough to be ranked."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=64,
        initializer_range=0.5, bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def tiny_t5(seed: int = 0, vocabulary: int = 40) -> Any:
    """An encoder-decoder; its decoder begins with 0."""
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(seed)
    config = T5Config(
        vocab_size=vocabulary, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
        initializer_factor=3.0,
    )  # fmt: skip
    return T5ForConditionalGeneration(config)
