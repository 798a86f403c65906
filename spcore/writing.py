"""Text out of a `Generates` (a first version)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from spcore.interfaces.model import Processor
from spcore.interfaces.runtime import Generates, GenerationRequest


@dataclass(frozen=True)
class Written:
    text: str
    ids: tuple[int, ...]
    finish: str
    prompt_tokens: int
    logprob: float


@dataclass(frozen=True)
class Piece:
    request: int
    sample: int
    text: str
    finish: str | None = None


def pieces(
    generator: Generates,
    processor: Processor,
    asked: Sequence[GenerationRequest],
    *,
    stop_strings: Sequence[str] = (),
) -> Iterator[Piece]:
    numbers = {generator.submit(request): n for n, request in enumerate(asked)}
    ids: dict[tuple[int, int], list[int]] = {}
    given: dict[tuple[int, int], str] = {}
    ended: set[tuple[int, int]] = set()
    try:
        for event in generator.events():
            key = (numbers[event.request], event.sample)
            if key in ended:
                continue
            own = ids.setdefault(key, [])
            if event.token >= 0:
                own.append(event.token)
            text = processor.decode(own)
            if event.finish is None and text.endswith("\ufffd"):
                continue
            finish = event.finish
            for stop in stop_strings:
                if stop in text:
                    text, finish = text[: text.index(stop)], "stop"
            if finish is not None:
                ended.add(key)
                if event.finish is None and asked[key[0]].n == 1:
                    generator.cancel(event.request)
            old = given.get(key, "")
            given[key] = text
            if text[len(old) :] or finish:
                yield Piece(*key, text[len(old) :], finish)
    finally:
        for number in numbers:
            generator.cancel(number)


def write(
    generator: Generates,
    processor: Processor,
    asked: Sequence[GenerationRequest],
    *,
    stop_strings: Sequence[str] = (),
) -> list[list[Written]]:
    texts = [[""] * request.n for request in asked]
    ends = [["length"] * request.n for request in asked]
    for piece in pieces(generator, processor, asked, stop_strings=stop_strings):
        texts[piece.request][piece.sample] += piece.text
        if piece.finish:
            ends[piece.request][piece.sample] = piece.finish
    return [
        [
            Written(t, tuple(range(len(processor.encode(t, special=False).arrays["input_ids"]))), e, len(r.ids), 0.0)
            for t, e in zip(ts, es, strict=True)
        ]
        for r, ts, es in zip(asked, texts, ends, strict=True)
    ]
