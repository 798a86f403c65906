"""A processor whose ids are a stable hash of the words."""

from __future__ import annotations

import itertools
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spcore.interfaces.model import Encoding, Processor

SPECIAL = {"pad": 0, "cls": 1, "sep": 2, "mask": 3, "bos": 4, "eos": 5, "unk": 6}
FIRST_WORD = 8
_WORD = re.compile(r"\S+")
_NUMBERED = re.compile(r"w(\d+)")


class FakeProcessor(Processor):
    """Has the ability `Chats`. Words (runs of non-space) become `FIRST_WORD + crc32(word) % words`; "w17" is the word of id 17, which is also how an
    id is decoded. Encodings are `[cls] text [sep]` and `[cls] text [sep] pair [sep]`."""

    def __init__(self, vocabulary_size: int = 64, max_length: int | None = 64) -> None:
        self.special = dict(SPECIAL)
        self.fill = {"input_ids": SPECIAL["pad"], "token_type_ids": 0}
        self.vocabulary_size, self.max_length = vocabulary_size, max_length
        self.fingerprint = f"fake-{vocabulary_size}-{max_length}"

    def word_id(self, word: str) -> int:
        """The id of a word."""
        numbered = _NUMBERED.fullmatch(word)
        if numbered and FIRST_WORD <= int(numbered[1]) < self.vocabulary_size:
            return int(numbered[1])
        return FIRST_WORD + zlib.crc32(word.encode()) % (self.vocabulary_size - FIRST_WORD)

    def encode(
        self, text: str, pair: str | None = None, *, max_length: int | None = None, special: bool = True
    ) -> Encoding:
        """Encode a text, or a pair; of a pair, the longer is cut first."""
        texts = [text] if pair is None else [text, pair]
        words = [[(self.word_id(m[0]), m.span()) for m in _WORD.finditer(t)] for t in texts]
        room = None if max_length is None else max(0, max_length - (len(texts) + 1) * special)
        truncated = 0
        while room is not None and sum(map(len, words)) > room:
            max(words, key=len).pop()
            truncated += 1
        ids, types, offsets, parts = [], [], [], []

        def put(token: int, part: int, span: tuple[int, int] = (0, 0), own: int = -1) -> None:
            ids.append(token)
            types.append(part)
            offsets.append(span)
            parts.append(own)

        if special:
            put(SPECIAL["cls"], 0)
        for part, found in enumerate(words):
            for token, span in found:
                put(token, part, span, part)
            if special:
                put(SPECIAL["sep"], part)
        arrays = {"input_ids": np.array(ids, np.int64), "token_type_ids": np.array(types, np.int64)}
        spans = np.array(offsets, np.int64).reshape(-1, 2)
        return Encoding(arrays, truncated, spans, np.array(parts, np.int64))

    def encode_words(self, words: Sequence[str]) -> Encoding:
        """Each word's own tokens: a blank one has none, one with spaces has several."""
        made = [self.encode(word, special=False) for word in words]
        ids = [SPECIAL["cls"], *itertools.chain(*(e.arrays["input_ids"].tolist() for e in made)), SPECIAL["sep"]]
        own = [n for n, e in enumerate(made) for _ in e.arrays["input_ids"]]
        spans = [(0, 0), *(tuple(span) for e in made for span in (e.offsets if e.offsets is not None else ())), (0, 0)]
        arrays = {"input_ids": np.array(ids, np.int64), "token_type_ids": np.zeros(len(ids), np.int64)}
        parts = np.array([-1, *[0] * len(own), -1], np.int64)
        return Encoding(arrays, 0, np.array(spans, np.int64), parts, np.array([-1, *own, -1], np.int64))

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """ "w17 w9": the names of the ids; special ones as "[cls]"."""
        names = {number: f"[{name}]" for name, number in SPECIAL.items()}
        kept = [int(i) for i in ids if not (skip_special and int(i) in names)]
        return " ".join(names.get(i, f"w{i}") for i in kept)

    chat_template: str | None = "bos, then each role, its words, sep"
    turn_stop: tuple[int, ...] = (SPECIAL["sep"],)
    turn_stop_strings: tuple[str, ...] = ()

    def chat(self, messages: Sequence[Mapping[str, Any]], *, answer: bool = True) -> tuple[int, ...]:
        """See `chat_template`; the assistant's role at the end where its answer is wanted."""
        turns = [f"{message['role']} {message['content']}" for message in messages]
        ids = [[*self.encode(turn, special=False).arrays["input_ids"].tolist(), SPECIAL["sep"]] for turn in turns]
        return (SPECIAL["bos"], *itertools.chain(*ids), *([self.word_id("assistant")] if answer else []))

    def chat_text(self, messages: Sequence[Mapping[str, Any]], *, answer: bool = True) -> str:
        """The names of the ids."""
        return self.decode(self.chat(messages, answer=answer), skip_special=False)

    def save(self, folder: Path) -> None:
        """Write what it is made of."""
        content = {"vocabulary_size": self.vocabulary_size, "max_length": self.max_length}
        (folder / "fake_processor.json").write_text(json.dumps(content))
