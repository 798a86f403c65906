"""A model that can be talked with and needs no weights: a plugin for tests, in this process and in others.

Tokens are bytes of UTF-8, and a few special ones. It answers what the last message asks for: "repeat WORDS"; "history": every message with
its role; "forever": la la la; "drawn": a number that depends on the seed; "long N": N letters; anything else: "You said: ...".
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import numpy as np

from spcore.components import Component
from spcore.errors import RefusalError
from spcore.hooks import hookimpl
from spcore.interfaces.model import Anatomy, Encoding, Head, LanguageModel, Model, Processor
from spcore.interfaces.runtime import GenerationRequest, PrepareReport, Runner, Runtime, Token

SPCORE_API = "1.0"
BOS, EOS = 256, 257
POSITIONS = 1000


class TalkingProcessor(Processor):
    """Bytes; a conversation is its JSON behind "bos"."""

    special: ClassVar[Mapping[str, int]] = {"bos": BOS, "eos": EOS, "pad": EOS}
    fill: ClassVar[Mapping[str, int]] = {"input_ids": EOS}
    vocabulary_size, fingerprint = 258, "bytes"
    turn_stop, turn_stop_strings = (EOS,), ()

    def __init__(self, chat_template: str | None, positions: int | None) -> None:
        self.chat_template, self.max_length = chat_template, positions

    def encode(
        self, text: str, pair: str | None = None, *, max_length: int | None = None, special: bool = True
    ) -> Encoding:
        ids = [BOS] * special + list(text.encode()) + [EOS] * special
        return Encoding({"input_ids": np.array(ids[:max_length], np.int64)})

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        return bytes(i for i in ids if i < BOS).decode(errors="replace")

    def chat(self, messages: Sequence[Mapping[str, Any]], *, answer: bool = True) -> tuple[int, ...]:
        if self.chat_template is None:
            raise RefusalError("the model has no chat template")
        if any("forbidden" in message["content"] for message in messages):
            raise RefusalError("the chat template refuses the conversation: forbidden")
        text = json.dumps([[message["role"], message["content"]] for message in messages], ensure_ascii=False)
        return (BOS, *text.encode())

    def chat_text(self, messages: Sequence[Mapping[str, Any]], *, answer: bool = True) -> str:
        return self.decode(self.chat(messages, answer=answer))

    def save(self, folder: Path) -> None:
        raise NotImplementedError


@dataclass(frozen=True)
class Config:
    architectures: tuple[str, ...] = ()
    model_type: str = "talker"


class Talker(LanguageModel):
    family = "talker"

    def __init__(self, source: str) -> None:
        self.config, self.source = Config(), source
        self.processor = TalkingProcessor(
            None if source == "base" else "talk", None if source == "endless" else POSITIONS
        )

    def anatomy(self, head: Head) -> Anatomy:
        return Anatomy("", None, None, None, (), causal=self.source != "encoder")

    def build(self, head: Head, dtype: str = "float32", device: str = "meta") -> Any:
        raise NotImplementedError

    def initialise(self, module: Any, path: str) -> None:
        raise NotImplementedError

    def weights(self) -> Iterator[tuple[str, Any]]:
        raise NotImplementedError

    def save_config(self, folder: Path, head: Head) -> None:
        raise NotImplementedError

    def generation(self) -> Mapping[str, Any]:
        return {"stop": (EOS,), **({"temperature": 0.5, "top_k": 7} if self.source == "drawing" else {})}

    def decoder(self, module: Any, slots: int, length: int, encoder_length: int = 0) -> Any:
        raise NotImplementedError


class TalkerModel(Model):
    def open(self, source: str) -> Talker:
        return Talker(source)


def answer(prompt: str, seed: int) -> Iterator[str]:
    """What is answered to a conversation, or to a prompt, in pieces."""
    messages = json.loads(prompt) if prompt.startswith("[[") else [["user", prompt]]
    said = messages[-1][1]
    word, _, rest = said.partition(" ")
    if word == "forever":
        while True:
            yield "la "
    elif word == "history":
        yield "; ".join(f"{role}: {content}" for role, content in messages[:-1]) or "nothing"
    elif word == "drawn":
        yield f"number {seed}"
    elif word == "long":
        yield "x" * int(rest)
    else:
        yield rest if word == "repeat" else f"You said: {said}"


class TalkingRunner(Runner):
    """`Generates`, a byte a step of each request."""

    capabilities = frozenset({"generate"})
    provider = "python"
    admission: Literal["continuous", "batch"] = "continuous"

    def __init__(self) -> None:
        self.asked: list[GenerationRequest] = []
        self.running: dict[tuple[int, int], Iterator[int]] = {}
        self.made: dict[tuple[int, int], int] = {}
        self.ready: deque[Token] = deque()
        self.closed = False

    def submit(self, request: GenerationRequest) -> int:
        self.asked.append(request)
        prompt = bytes(i for i in request.ids if i < BOS).decode(errors="replace")
        for sample in range(request.n):
            key = (len(self.asked) - 1, sample)
            drawn = request.seed + request.variant * 10 + sample if request.temperature else 0
            self.running[key] = (byte for text in answer(prompt, drawn) for byte in text.encode())
            self.made[key] = 0
        return len(self.asked) - 1

    def events(self) -> Iterator[Token]:
        while self.ready or self.running:
            while self.ready:
                yield self.ready.popleft()
            for key, letters in list(self.running.items()):
                if key not in self.running:
                    continue
                letter = next(letters, None)
                self.made[key] += 1
                if letter is None:
                    self._end(key, "stop")
                elif self.made[key] == self.asked[key[0]].max_new_tokens:
                    self._end(key, "length", letter)
                else:
                    self.ready.append(Token(*key, letter, -1.0))

    def _end(self, key: tuple[int, int], why: Literal["stop", "length", "cancelled"], token: int = -1) -> None:
        del self.running[key]
        self.ready.append(Token(*key, token, -1.0, why))

    def cancel(self, request: int, sample: int | None = None) -> None:
        for key in [k for k in self.running if k[0] == request and sample in (None, k[1])]:
            self._end(key, "cancelled")

    def close(self) -> None:
        self.closed = True


class TalkingRuntime(Runtime):
    generates = True
    runners: ClassVar[list[TalkingRunner]] = []

    def prepare(
        self, artifact: Any, task: Any, options: Mapping[str, Any], data: Mapping[str, Any] = MappingProxyType({})
    ) -> PrepareReport:
        raise NotImplementedError

    def load(self, artifact: Any, task: Any, device: str) -> TalkingRunner:
        self.runners.append(TalkingRunner())
        return self.runners[-1]


class MuteRuntime(TalkingRuntime):
    generates = False

    def load(self, artifact: Any, task: Any, device: str) -> TalkingRunner:
        raise AssertionError("nothing is loaded for what is refused")


@hookimpl
def spcore_components() -> list[Component]:
    return [
        Component("model", "talker", "talker:TalkerModel", "Talks", schemes=("talker",)),
        Component("runtime", "talker", "talker:TalkingRuntime", "Lets it talk"),
        Component("runtime", "mute", "talker:MuteRuntime", "Lets nothing talk"),
    ]
