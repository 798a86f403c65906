"""A processor on Hugging Face's `tokenizers` alone: what a saved model's tokenizer.json needs, without transformers and torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from spcore.errors import ArtifactError
from spcore.interfaces.model import Encoding, Processor

FILE = "tokenizer.json"


class TokenizerProcessor(Processor):
    """Encodes with a `tokenizers.Tokenizer`. Encoding changes nothing in it: threads may share one.

    types: whether the model tells token types apart. left: where a text is cut, its first tokens go, not its last. The rest is as in
    `Processor`.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        special: Mapping[str, int],
        fill: Mapping[str, int],
        vocabulary_size: int,
        max_length: int | None,
        fingerprint: str,
        types: bool,
        left: bool,
    ) -> None:
        self.tokenizer, self.special, self.fill = tokenizer, dict(special), dict(fill)
        self.vocabulary_size, self.max_length, self.fingerprint = vocabulary_size, max_length, fingerprint
        self._types, self._left = types, left
        # Files often carry a length to cut and pad to (all-MiniLM's: 128); what is cut is the caller's to say.
        tokenizer.no_truncation()
        tokenizer.no_padding()

    @property
    def special_ids(self) -> frozenset[int]:
        """See `Processor.special_ids`."""
        added = self.tokenizer.get_added_tokens_decoder()
        return frozenset(self.special.values()) | {n for n, token in added.items() if token.special}

    def encode(
        self, text: str, pair: str | None = None, *, max_length: int | None = None, special: bool = True
    ) -> Encoding:
        """See `Processor.encode`."""
        found = self.tokenizer.encode(text, pair, add_special_tokens=special)
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

    def encode_words(self, words: Sequence[str]) -> Encoding:
        """See `Processor.encode_words`: the tokens that transformers gives for `is_split_into_words`, byte-level ones with
        `add_prefix_space`."""
        found = self.tokenizer.encode([self._before + word for word in words], is_pretokenized=True)
        arrays = {"input_ids": np.array(found.ids, np.int64)}
        if self._types:
            arrays["token_type_ids"] = np.array(found.type_ids, np.int64)
        offsets = np.maximum(np.array(found.offsets, np.int64).reshape(-1, 2) - len(self._before), 0)
        words_of, parts = (
            np.array([-1 if n is None else n for n in known], np.int64)
            for known in (found.word_ids, found.sequence_ids)
        )
        return Encoding(arrays, 0, offsets, parts, words_of)

    @cached_property
    def _before(self) -> str:
        """What stands before a word so that it is encoded as within a text: a space where the space is a part of the token."""
        apart = self.tokenizer.encode(["a", "a"], is_pretokenized=True, add_special_tokens=False)
        return "" if apart.ids == self.tokenizer.encode("a a", add_special_tokens=False).ids else " "

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """See `Processor.decode`."""
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=skip_special)
        return text

    def save(self, folder: Path) -> None:
        """Write tokenizer.json."""
        self.tokenizer.save(str(folder / FILE))

    def portable(self) -> Mapping[str, Any]:
        """See `Processor.portable`."""
        return {
            "special": self.special, "fill": self.fill, "vocabulary_size": self.vocabulary_size, "max_length": self.max_length,
            "fingerprint": self.fingerprint, "types": self._types, "left": self._left,
        }  # fmt: skip


def open_processor(folder: Path, facts: Mapping[str, Any]) -> TokenizerProcessor:
    """The processor that `Processor.portable` told `facts` of, from the tokenizer.json in `folder`. Raises ArtifactError."""
    file = folder / FILE
    try:
        return TokenizerProcessor(Tokenizer.from_file(str(file)), **facts)
    except TypeError as error:
        raise ArtifactError(f"{folder}: what it says of its processor is not understood: {error}") from error
    except Exception as error:  # tokenizers raises plain exceptions
        raise ArtifactError(f"{file}: cannot be read: {error}") from error


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
