"""Tokenizers as `Processor`s: fast ones through `tokenizers` itself, others through transformers' call."""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spcore.errors import RefusalError
from spcore.interfaces.model import Encoding, Processor
from spcore.tokenizing import TokenizerProcessor
from spcore_transformers.chat_templates import NAMED, rendered, turn_end

_UNLIMITED = 10**9
_ALONE = threading.Lock()
"""Held while a tokenizer is in its mode for targets, which is its own and not the call's."""
_SPECIAL = ("pad", "cls", "sep", "mask", "bos", "eos", "unk")


class TransformersProcessor(Processor):
    """Wraps a transformers tokenizer; has the ability `Chats`. config: the model's, for its token types. positions: tokens that the model's positions
    allow, None where they set no limit. Encoding changes nothing in it: threads may share one."""

    def __init__(self, tokenizer: Any, config: Any, positions: int | None) -> None:
        self.tokenizer = tokenizer
        fast = tokenizer.backend_tokenizer if getattr(tokenizer, "is_fast", False) else None
        ids = {name: getattr(tokenizer, f"{name}_token_id", None) for name in _SPECIAL}
        self.special = {name: int(i) for name, i in ids.items() if i is not None}
        # One type (RoBERTa) is none to tell apart.
        types = getattr(config, "type_vocab_size", 0) or 0
        self._types = "token_type_ids" in tokenizer.model_input_names and types > 1
        self.fill = {"input_ids": self.special.get("pad", 0), "token_type_ids": int(tokenizer.pad_token_type_id)}
        self.vocabulary_size = len(tokenizer)
        stated = tokenizer.model_max_length if tokenizer.model_max_length < _UNLIMITED else None
        self.max_length = min((n for n in (stated, positions) if n), default=None)
        left = tokenizer.truncation_side == "left"
        if fast is not None:
            fast.no_truncation()
            fast.no_padding()
        self._writer = copy.deepcopy(tokenizer) if hasattr(tokenizer, "_switch_to_target_mode") else None
        self.fingerprint = hashlib.sha256(self._content(fast, left).encode()).hexdigest()[:32]
        self._fast = fast and TokenizerProcessor(
            fast, special=self.special, fill=self.fill, vocabulary_size=self.vocabulary_size, max_length=self.max_length,
            fingerprint=self.fingerprint, types=self._types, left=left,
        )  # fmt: skip

    @property
    def special_ids(self) -> frozenset[int]:
        """See `Processor.special_ids`."""
        return frozenset(self.special.values()) | frozenset(int(i) for i in self.tokenizer.all_special_ids)

    def _content(self, fast: Any, left: bool) -> str:
        """Everything that decides an encoding."""
        rest = f"{self._types} {left} {self.chat_template or ''}"
        if fast is not None:
            return f"{fast.to_str()} {rest}"
        vocabulary = json.dumps(self.tokenizer.get_vocab(), sort_keys=True)
        settings = json.dumps(self.tokenizer.init_kwargs, sort_keys=True, default=str)
        return f"{type(self.tokenizer).__name__} {vocabulary} {settings} {rest}"

    def encode(
        self, text: str, pair: str | None = None, *, max_length: int | None = None, special: bool = True
    ) -> Encoding:
        """See `Processor.encode`."""
        if self._fast is not None:
            return self._fast.encode(text, pair, max_length=max_length, special=special)
        settings = {"add_special_tokens": special, "return_token_type_ids": self._types, "verbose": False}
        whole = self.tokenizer(text, pair, **settings)
        length = len(whole["input_ids"])
        if max_length is not None and length > max_length:
            whole = self.tokenizer(text, pair, truncation="longest_first", max_length=max_length, **settings)
        names = ["input_ids", *(["token_type_ids"] if self._types else [])]
        arrays = {name: np.array(whole[name], np.int64) for name in names}
        return Encoding(arrays, length - len(arrays["input_ids"]))

    def encode_words(self, words: Sequence[str]) -> Encoding:
        """See `Processor.encode_words`: of fast tokenizers."""
        return super().encode_words(words) if self._fast is None else self._fast.encode_words(words)

    def encode_target(self, text: str, *, max_length: int | None = None) -> Encoding:
        """See `Processor.encode_target`. Of a tokenizer that has a mode for targets (Marian's has a vocabulary file for each language)."""
        if self._writer is None:
            return self.encode(text, max_length=max_length)
        with _ALONE:
            ids = kept = self._writer(text_target=text, verbose=False)["input_ids"]
            if max_length is not None and len(ids) > max_length:
                kept = self._writer(text_target=text, truncation=True, max_length=max_length, verbose=False)[
                    "input_ids"
                ]
        return Encoding({"input_ids": np.array(kept, np.int64)}, len(ids) - len(kept))

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """See `Processor.decode`."""
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=skip_special)
        return text

    @property
    def chat_template(self) -> str | None:
        """See `Chats`."""
        found = self.tokenizer.chat_template
        template: str | None = found.get("default") if isinstance(found, dict) else found
        return template

    @functools.cached_property
    def _turn_end(self) -> tuple[tuple[int, ...], tuple[str, ...]]:
        return turn_end(self.tokenizer) if self.chat_template is not None else ((), ())

    @property
    def turn_stop(self) -> tuple[int, ...]:
        """See `Chats`."""
        return self._turn_end[0]

    @property
    def turn_stop_strings(self) -> tuple[str, ...]:
        """See `Chats`."""
        return self._turn_end[1]

    def chat(self, messages: Sequence[Mapping[str, Any]], *, answer: bool = True) -> tuple[int, ...]:
        """See `Chats.chat`. The model begins texts with "bos" where its tokenizer puts one before any text."""
        ids = tuple(int(i) for i in self._rendered(messages, answer, tokens=True))
        if (first := self.special.get("bos")) is None:
            return ids
        written = next((n for n, token in enumerate(ids) if token != first), len(ids))
        framed = self.encode("a").arrays["input_ids"]
        begins = written > 0 or (len(framed) > 1 and int(framed[0]) == first)
        return (first,) * begins + ids[written:]

    def chat_text(self, messages: Sequence[Mapping[str, Any]], *, answer: bool = True) -> str:
        """See `Chats.chat_text`."""
        text: str = self._rendered(messages, answer, tokens=False)
        return text

    def _rendered(self, messages: Sequence[Mapping[str, Any]], answer: bool, *, tokens: bool) -> Any:
        if self.chat_template is None:
            raise RefusalError(
                "the model has no chat template, so it was not made for conversations",
                hint=f"Give one (model.chat_template, --template: {', '.join(NAMED)} or a Jinja file), or ask with `generate`",
            )
        return rendered(self.tokenizer, messages, answer=answer, tokens=tokens)

    def save(self, folder: Path) -> None:
        """See `Processor.save`."""
        self.tokenizer.save_pretrained(folder)

    def portable(self) -> Mapping[str, Any] | None:
        """See `Processor.portable`: of fast tokenizers."""
        return self._fast.portable() if self._fast is not None else None
