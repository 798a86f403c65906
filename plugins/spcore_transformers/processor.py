"""Tokenizers as `Processor`s: fast ones through `tokenizers` itself, others through transformers' call."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spcore.interfaces.model import Encoding, Processor

_UNLIMITED = 10**9


class TransformersProcessor(Processor):
    """Wraps a transformers tokenizer. config: the model's, for positions and type ids."""

    def __init__(self, tokenizer: Any, config: Any, max_positions: int | None) -> None:
        self.tokenizer = tokenizer
        self._fast = tokenizer.backend_tokenizer if getattr(tokenizer, "is_fast", False) else None
        names = ("pad", "cls", "sep", "mask", "bos", "eos", "unk")
        ids = {name: getattr(tokenizer, f"{name}_token_id", None) for name in names}
        self.special = {name: int(i) for name, i in ids.items() if i is not None}
        # type_vocab_size 1 (RoBERTa) means one type: nothing to tell apart.
        self._types = "token_type_ids" in tokenizer.model_input_names and (getattr(config, "type_vocab_size", 0) or 0) > 1
        self.fill = {"input_ids": self.special.get("pad", 0), "token_type_ids": 0}
        self.vocabulary_size = len(tokenizer)
        stated = tokenizer.model_max_length if tokenizer.model_max_length < _UNLIMITED else None
        limits = [n for n in (stated, max_positions) if n]
        self.max_length = min(limits) if limits else None
        content = self._fast.to_str() if self._fast is not None else f"{type(tokenizer).__name__}{sorted(tokenizer.get_vocab().items())}"
        self.fingerprint = hashlib.sha256(content.encode()).hexdigest()[:32]
        self._special_count = {False: tokenizer.num_special_tokens_to_add(False), True: tokenizer.num_special_tokens_to_add(True)}
        if self._fast is not None:
            self._fast.no_truncation()
            self._fast.no_padding()

    def encode(self, text: str, pair: str | None = None, *, max_length: int | None = None, special: bool = True) -> Encoding:
        """See `Processor.encode`."""
        if self._fast is None:
            return self._slow(text, pair, max_length, special)
        found = self._fast.encode(text, pair, add_special_tokens=special)
        if max_length is not None and len(found.ids) > max_length:
            return self._cut(text, pair, max_length, special)
        return self._encoding(found, 0)

    def _cut(self, text: str, pair: str | None, max_length: int, special: bool) -> Encoding:
        """Encode without special tokens, cut the longer text first, then let the tokenizer put its special tokens."""
        assert self._fast is not None
        parts = [self._fast.encode(t, add_special_tokens=False) for t in (text, pair) if t is not None]
        lengths = [len(p.ids) for p in parts]
        room = max(1, max_length - (self._special_count[pair is not None] if special else 0))
        keep = _longest_first(lengths, room)
        for part, n in zip(parts, keep, strict=True):
            part.truncate(n)
        found = self._fast.post_process(parts[0], parts[1] if len(parts) > 1 else None, special)
        return self._encoding(found, sum(lengths) - sum(keep))

    def _encoding(self, found: Any, truncated: int) -> Encoding:
        arrays = {"input_ids": np.array(found.ids, np.int64)}
        if self._types:
            arrays["token_type_ids"] = np.array(found.type_ids, np.int64)
        parts = np.array([-1 if s is None else s for s in found.sequence_ids], np.int64)
        return Encoding(arrays, truncated, np.array(found.offsets, np.int64).reshape(-1, 2), parts)

    def _slow(self, text: str, pair: str | None, max_length: int | None, special: bool) -> Encoding:
        whole = self.tokenizer(text, pair, add_special_tokens=special, return_token_type_ids=self._types)
        truncated = 0
        if max_length is not None and len(whole["input_ids"]) > max_length:
            truncated = len(whole["input_ids"]) - max_length
            whole = self.tokenizer(text, pair, add_special_tokens=special, truncation=True, max_length=max_length, return_token_type_ids=self._types)
        names = ["input_ids", *(["token_type_ids"] if self._types else [])]
        return Encoding({name: np.array(whole[name], np.int64) for name in names}, truncated)

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """See `Processor.decode`."""
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=skip_special)
        return text

    def save(self, folder: Path) -> None:
        """See `Processor.save`."""
        self.tokenizer.save_pretrained(folder)


def _longest_first(lengths: list[int], room: int) -> list[int]:
    """How many tokens of each text stay when `room` are allowed in all: the longer is cut first, an odd one too many from the
    second, as transformers does."""
    if len(lengths) == 1:
        return [min(lengths[0], room)]
    first, second = lengths
    if first + second <= room:
        return [first, second]
    half = room // 2
    if first <= half:
        return [first, room - first]
    if second <= half:
        return [room - second, second]
    return [room - half, half]
