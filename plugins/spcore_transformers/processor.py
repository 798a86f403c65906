"""Tokenizers as `Processor`s: fast ones through `tokenizers` itself, others through transformers' call."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spcore.interfaces.model import Encoding, Processor

_UNLIMITED = 10**9
_SPECIAL = ("pad", "cls", "sep", "mask", "bos", "eos", "unk")


class TransformersProcessor(Processor):
    """Wraps a transformers tokenizer. config: the model's, for its token types. positions: tokens that the model's positions
    allow, None where they set no limit. Encoding changes nothing in it: threads may share one."""

    def __init__(self, tokenizer: Any, config: Any, positions: int | None) -> None:
        self.tokenizer = tokenizer
        self._fast = tokenizer.backend_tokenizer if getattr(tokenizer, "is_fast", False) else None
        ids = {name: getattr(tokenizer, f"{name}_token_id", None) for name in _SPECIAL}
        self.special = {name: int(i) for name, i in ids.items() if i is not None}
        # One type (RoBERTa) is none to tell apart.
        types = getattr(config, "type_vocab_size", 0) or 0
        self._types = "token_type_ids" in tokenizer.model_input_names and types > 1
        self.fill = {"input_ids": self.special.get("pad", 0), "token_type_ids": int(tokenizer.pad_token_type_id)}
        self.vocabulary_size = len(tokenizer)
        stated = tokenizer.model_max_length if tokenizer.model_max_length < _UNLIMITED else None
        self.max_length = min((n for n in (stated, positions) if n), default=None)
        self._left = tokenizer.truncation_side == "left"
        if self._fast is not None:
            # Files often carry a length to cut and pad to (all-MiniLM's: 128); what is cut is the caller's to say.
            self._fast.no_truncation()
            self._fast.no_padding()
        self.fingerprint = hashlib.sha256(self._content().encode()).hexdigest()[:32]

    def _content(self) -> str:
        """Everything that decides an encoding."""
        rest = f"{self._types} {self._left}"
        if self._fast is not None:
            return f"{self._fast.to_str()} {rest}"
        vocabulary = json.dumps(self.tokenizer.get_vocab(), sort_keys=True)
        settings = json.dumps(self.tokenizer.init_kwargs, sort_keys=True, default=str)
        return f"{type(self.tokenizer).__name__} {vocabulary} {settings} {rest}"

    def encode(
        self, text: str, pair: str | None = None, *, max_length: int | None = None, special: bool = True
    ) -> Encoding:
        """See `Processor.encode`."""
        if self._fast is None:
            return self._slow(text, pair, max_length, special)
        found = self._fast.encode(text, pair, add_special_tokens=special)
        arrays = {"input_ids": np.array(found.ids, np.int64)}
        if self._types:
            arrays["token_type_ids"] = np.array(found.type_ids, np.int64)
        offsets = np.array(found.offsets, np.int64).reshape(-1, 2)
        parts = np.array([-1 if part is None else part for part in found.sequence_ids], np.int64)
        if max_length is None or len(parts) <= max_length:
            return Encoding(arrays, 0, offsets, parts)
        kept = _kept(parts, max_length, self._left)
        cut = {name: array[kept] for name, array in arrays.items()}
        return Encoding(cut, len(parts) - len(kept), offsets[kept], parts[kept])

    def _slow(self, text: str, pair: str | None, max_length: int | None, special: bool) -> Encoding:
        settings = {"add_special_tokens": special, "return_token_type_ids": self._types, "verbose": False}
        whole = self.tokenizer(text, pair, **settings)
        length = len(whole["input_ids"])
        if max_length is not None and length > max_length:
            whole = self.tokenizer(text, pair, truncation="longest_first", max_length=max_length, **settings)
        names = ["input_ids", *(["token_type_ids"] if self._types else [])]
        arrays = {name: np.array(whole[name], np.int64) for name in names}
        return Encoding(arrays, length - len(arrays["input_ids"]))

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """See `Processor.decode`."""
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=skip_special)
        return text

    def save(self, folder: Path) -> None:
        """See `Processor.save`."""
        self.tokenizer.save_pretrained(folder)


def _kept(parts: np.ndarray, max_length: int, left: bool) -> np.ndarray:
    """Positions that stay of a whole encoding: its special tokens, and of each text as many tokens as there is room for. left:
    the first tokens of a text go, not the last."""
    own = [np.flatnonzero(parts == n) for n in (0, 1)]
    room = max(0, max_length - int((parts < 0).sum()))
    keep = _longest_first(len(own[0]), len(own[1]), room)
    stay = [at[len(at) - n :] if left else at[:n] for at, n in zip(own, keep, strict=True)]
    return np.sort(np.concatenate([np.flatnonzero(parts < 0)[:max_length], *stay]))


def _longest_first(first: int, second: int, room: int) -> tuple[int, int]:
    """Tokens of each text that stay where `room` are allowed: the longer is cut first; once they are equal both are, and an odd
    token is the longer's, of equal ones the second's. As `tokenizers` does."""
    if first + second <= room:
        return first, second
    short, half = min(first, second), room // 2
    if short <= half:
        return (short, room - short) if first <= second else (room - short, short)
    return (half, room - half) if first <= second else (room - half, half)
