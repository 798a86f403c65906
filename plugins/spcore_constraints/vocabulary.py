"""A model's vocabulary as llguidance sees it: the bytes that each token adds to a text."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llguidance import LLTokenizer
from llguidance._tokenizer import TokenizerWrapper

from spcore.errors import RefusalError
from spcore.interfaces.model import Processor

_REPLACEMENT = "\ufffd"


class Vocabulary:
    """Of a processor. size: tokens. special: ids that stand for no part of a text. tokenizer: llguidance's, whose token `size` ends a text.

    leading: whether decoding drops a space in front of a text (SentencePiece, WordPiece), so that what is written begins with one.
    """

    def __init__(self, processor: Processor) -> None:
        self.size = processor.vocabulary_size
        known = _native(processor) or _probed(processor)
        self.special = frozenset(n for n in range(self.size) if n in processor.special_ids or known.get(n) is None)
        if len(self.special) == self.size:
            raise RefusalError("the model's tokenizer: no token has a text of its own, which a constraint needs")
        words = {n: word for n, word in known.items() if word is not None and n not in self.special}
        self.leading = any(
            processor.decode([n]).encode() == word[1:] for n, word in words.items() if word.startswith(b" ")
        )
        self._words, self._longest = frozenset(words.values()), max(map(len, words.values()))
        tokens = [words.get(n, f"<{n}>".encode()) for n in range(self.size)]
        self.tokenizer = LLTokenizer(TokenizerWrapper(_Tokens(tokens, self.special, processor)))

    def writes(self, text: str) -> bool:
        """Whether some tokens, one after another, give this text."""
        whole = (" " * self.leading + text).encode()
        reached = [True, *([False] * len(whole))]
        for end in range(1, len(whole) + 1):
            begins = range(max(0, end - self._longest), end)
            reached[end] = any(reached[at] and whole[at:end] in self._words for at in begins)
        return reached[-1]


class _Tokens:
    """What llguidance asks of a tokenizer that is not its own."""

    bos_token_id = None

    def __init__(self, tokens: list[bytes], special: frozenset[int], processor: Processor) -> None:
        self.tokens, self.eos_token_id = [*tokens, b"<end>"], len(tokens)
        self.special_token_ids = [*sorted(special), len(tokens)]
        self._processor = processor

    def __call__(self, text: str | bytes) -> list[int]:
        whole = text if isinstance(text, str) else text.decode()
        ids: list[int] = self._processor.encode(whole, special=False).arrays["input_ids"].tolist()
        return ids


def _native(processor: Processor) -> dict[int, bytes | None] | None:
    """Id -> bytes where tokens are bytes, which llguidance reads from tokenizer.json; None for other tokenizers."""
    if processor.portable() is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        processor.save(Path(folder))
        content = (Path(folder) / "tokenizer.json").read_text(encoding="utf-8")
    if not {"ByteLevel", "ByteFallback"} & _types(json.loads(content)["decoder"]):
        return None
    read = LLTokenizer(content, eos_token=0)
    return {
        n: None if read.is_special_token(n) else read.decode_bytes([n])
        for n in range(min(processor.vocabulary_size, read.vocab_size))
    }


def _types(decoder: Any) -> set[str]:
    """Names of a decoder's parts."""
    if decoder is None:
        return set()
    return {decoder["type"]}.union(*(_types(part) for part in decoder.get("decoders", ())))


def _probed(processor: Processor) -> dict[int, bytes | None]:
    """Id -> the bytes that a token adds behind another one; None for what adds nothing, half a character, or something else in another
    place."""
    decode: Callable[[list[int]], str] = processor.decode
    anchor = next((n for n in range(processor.vocabulary_size) if _plain(decode([n]))), None)
    if anchor is None:
        return {}
    before, twice = decode([anchor]), decode([anchor, anchor])
    behind = twice[len(before) :]
    found: dict[int, bytes | None] = {}
    for n in range(processor.vocabulary_size):
        text = decode([anchor, n])
        added = text[len(before) :]
        stable = text.startswith(before) and decode([anchor, n, anchor]) == text + behind
        found[n] = added.encode() if added and stable and _REPLACEMENT not in added else None
    return found


def _plain(text: str) -> bool:
    return text.isascii() and text.isalnum()
