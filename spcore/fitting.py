"""Texts and conversations as the ids that a model goes on from, and what is done where they do not fit. Decided by configuration and sizes,
before any weight is read."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from spcore.errors import RefusalError, UserError, short, unknown
from spcore.interfaces.model import Chats, Processor
from spcore.interfaces.runtime import ANY_ROOM
from spcore.writing_settings import MOST, GenerationSettings

Message = Mapping[str, Any]
"""{"role": "system", "user" or "assistant", "content": text}."""
Asked = str | Sequence[Message] | Sequence[int]
"""A prompt, as a text or as token ids, or a conversation."""
ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Prompt:
    """ids: what the model goes on from. left_out: tokens that there was no room for, of a conversation: messages."""

    ids: tuple[int, ...]
    left_out: int = 0


@dataclass(frozen=True)
class Room:
    """Positions that a prompt and its answer share. positions: None for any number. encoder: whether the prompt has as many of its own.
    usual: new tokens where nobody says how many. whose: what sets the number of positions."""

    positions: int | None
    encoder: bool
    usual: int = MOST
    whose: str = "the model"

    @classmethod
    def of(cls, processor: Processor, capacity: tuple[int, int, int], own: Mapping[str, Any]) -> Room:
        """Of a model by what its runtime has room for. own: what its files say of generating."""
        most, length = processor.max_length, capacity[1]
        whose = "the model" if length >= (most or ANY_ROOM[1]) else "the runtime"
        positions = most if whose == "the model" else length
        return cls(positions, "decoder_start" in own, int(own.get("max_new_tokens", MOST)), whose)

    def after(self, prompt: int, settings: GenerationSettings) -> int:
        """New tokens at most, after a prompt of so many that fits."""
        if settings.max_new_tokens is not None or self.positions is None:
            return settings.max_new_tokens or self.usual
        return min(
            self.usual, self.positions if self.encoder else self.positions - prompt + 1
        )  # the last one is not fed

    def before(self, answer: int) -> int | None:
        """Tokens of a prompt at most, so that an answer of so many fits; None: any number. Raises RefusalError."""
        if self.positions is None:
            return None
        if answer > self.positions:
            raise RefusalError(f"max_new_tokens {answer}: {self.whose} has {self.positions} positions")
        return self.positions if self.encoder else self.positions - answer + 1

    def check(self, prompt: int, settings: GenerationSettings, what: str, *, cut: bool = False) -> None:
        """Raise RefusalError for a prompt that is too long. cut: what could be left out of it was."""
        answer = settings.max_new_tokens or 1
        most = self.before(answer)
        if most is None or prompt <= most:
            return
        if self.encoder:
            text = f"{prompt} tokens do not fit the {most} positions of the encoder"
        elif settings.max_new_tokens is None:
            text = f"{prompt} tokens leave no room for an answer in {self.whose}'s {self.positions} positions"
        else:
            text = f"{prompt} tokens and {answer} new ones do not fit {self.whose}'s {self.positions} positions"
        lower = ", lower max_new_tokens" if settings.max_new_tokens and not self.encoder else ""
        other = "" if cut else ", or leave its beginning out: truncate=left"
        raise RefusalError(f"{what}: {text}", hint=f"Shorten it{lower}{other}")

    def kept(self, settings: GenerationSettings) -> int | None:
        """Tokens that stay of a prompt whose beginning may go: room for the answer asked for, else for a usual one or a quarter of all."""
        usual = self.usual if self.positions is None else min(self.usual, max(1, self.positions // 4))
        return self.before(settings.max_new_tokens or usual)


def fitted(processor: Processor, asked: Asked, settings: GenerationSettings, room: Room, what: str) -> Prompt:
    """A prompt or a conversation that fits, or what is left of it. what: its name in errors. Raises UserError, RefusalError."""
    if isinstance(asked, str):
        return _text(processor, _readable(asked, what), settings, room, what)
    if is_ids(asked):
        return _ids(processor, asked, settings, room, what)
    if not isinstance(asked, Sequence):
        raise UserError(f"{what}: found {short(repr(asked))}, expected: a text")
    return _turns(processor, asked, settings, room, what)


def _readable(text: str, what: str) -> str:
    """The text. Raises UserError for one that UTF-8 cannot hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{what}: character {error.start} is no text in UTF-8: half of a surrogate pair, or a stray byte"
        ) from error
    return text


def _text(processor: Processor, text: str, settings: GenerationSettings, room: Room, what: str) -> Prompt:
    ids = prompt_ids(processor, text, encoder=room.encoder)
    plain = len(processor.encode(text, special=False).arrays["input_ids"])
    return _shortened(processor, ids, settings, room, what, framed=len(ids) > plain)


def _ids(processor: Processor, given: Sequence[int], settings: GenerationSettings, room: Room, what: str) -> Prompt:
    return _shortened(processor, ids_of(processor, given, what), settings, room, what, framed=True)


def _shortened(
    processor: Processor, ids: tuple[int, ...], settings: GenerationSettings, room: Room, what: str, *, framed: bool
) -> Prompt:
    """What is too long loses its beginning, where that is wanted; a token that begins every text stays. framed: there may be one."""
    most = room.kept(settings)
    if settings.truncate is None or most is None or len(ids) <= most:
        room.check(len(ids), settings, what)
        return Prompt(ids)
    bare = prompt_ids(processor, "a", encoder=room.encoder)
    first = 1 if framed and ids[0] in processor.special_ids and ids[0] == bare[0] else 0
    cut = len(ids) - most
    return Prompt(ids[:first] + ids[first + cut :], cut)


def is_ids(asked: Any) -> TypeGuard[Sequence[int]]:
    """Whether this is a prompt of token ids, one at least."""
    return isinstance(asked, Sequence) and len(asked) > 0 and all(isinstance(i, int) for i in asked)


def ids_of(processor: Processor, asked: str | Sequence[int], what: str) -> tuple[int, ...]:
    """Ids of a decoder's text, framed as the model begins texts; ids as they are. what: its name in errors. Raises UserError."""
    if isinstance(asked, str):
        return prompt_ids(processor, _readable(asked, what), encoder=False)
    if not is_ids(asked):
        raise UserError(f"{what}: found {short(repr(asked))}, expected: a text, or token ids, one or more")
    for i in asked:
        if not 0 <= i < processor.vocabulary_size:
            raise UserError(f"{what}: there is no token {i}; the vocabulary has {processor.vocabulary_size}")
    return tuple(asked)


def prompt_ids(processor: Processor, text: str, *, encoder: bool) -> tuple[int, ...]:
    """Ids of a prompt: as the tokenizer frames a text for an encoder; for a decoder without the token that would end the text. An empty
    one is the token that begins texts. Raises UserError where there is none."""
    ids = tuple(int(i) for i in processor.encode(text).arrays["input_ids"])
    if not encoder:
        ends = {processor.special.get("eos"), processor.special.get("sep")}
        framed = len(ids) > len(processor.encode(text, special=False).arrays["input_ids"])
        if framed and ids[-1] in ends and not (len(ids) == 1 and ids[0] == processor.special.get("bos")):
            ids = ids[:-1]
    if not ids:
        if (first := processor.special.get("bos")) is None:
            raise UserError("the prompt is empty, and the model has no token that begins a text; give it some words")
        ids = (first,)
    return ids


def _turns(
    processor: Processor, messages: Sequence[Any], settings: GenerationSettings, room: Room, what: str
) -> Prompt:
    """Of a conversation that is too long the oldest turns go, and the system's message stays."""
    chats, given = chatting(processor), checked_messages(messages, what)
    ids = chats.chat(given)
    most = room.kept(settings)
    if settings.truncate is None or most is None or len(ids) <= most:
        room.check(len(ids), settings, what)
        return Prompt(ids)
    system = [message for message in given[:1] if message["role"] == "system"]
    starts = [n for n, message in enumerate(given) if message["role"] == "user"]

    def since(start: int) -> list[Message]:
        return [*system, *given[start:]]

    at = bisect_left(starts, True, key=lambda start: len(chats.chat(since(start))) <= most)
    start = starts[min(at, len(starts) - 1)]
    ids = chats.chat(since(start))
    room.check(len(ids), settings, f"the last message of {what}", cut=True)
    return Prompt(ids, start - len(system))


def chatting(processor: Processor) -> Chats:
    """The processor as one that knows conversations. Raises RefusalError."""
    if not isinstance(processor, Chats):
        raise RefusalError("the model's tokenizer knows no chat templates", hint="Ask it with `generate`")
    return processor


def checked_messages(messages: Sequence[Message], what: str = "the conversation") -> list[dict[str, Any]]:
    """A conversation that waits for an answer. Raises UserError."""
    found: list[dict[str, Any]] = []
    for n, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("content"), str):
            raise UserError(f"message {n}: found {short(repr(message))}, expected: {{'role': ..., 'content': text}}")
        role = message.get("role")
        if role not in ROLES:
            raise UserError(f"message {n}: {unknown('role', str(role), ROLES)}")
        if role == "system" and n:
            raise UserError(f"message {n}: the system's message comes first")
        found.append({"role": role, "content": _readable(message["content"], f"message {n}")})
    if not found or found[-1]["role"] != "user":
        last = f"its last message is the {found[-1]['role']}'s" if found else "it has no message"
        raise UserError(f"{what}: {last}, expected: one of the user's to be answered")
    return found
