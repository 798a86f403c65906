"""Text out of anything that `Generates`: written whole or streamed, exactly the same. Used by the library, the command line, servers and
evaluations in training. No torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from spcore.errors import RefusalError
from spcore.interfaces.model import Processor
from spcore.interfaces.runtime import Generates, GenerationRequest, Token

Finish = Literal["stop", "length", "cancelled"]
_REPLACEMENT = "\ufffd"
"""What decoding gives for bytes that are no character, and for a character whose last bytes are still to come."""
_MOST_BYTES = 4
"""Of a character in UTF-8."""


@dataclass(frozen=True)
class Written:
    """What one sample of a request gave.

    text: without what ended it. ids: all tokens that were made, end tokens left out; where a stop string ended the text, up to the one that
    completed it, so they may hold more than the text. finish: "stop" (an end token, a stop string, or a constraint that lets nothing
    follow), "length", "cancelled". prompt_tokens: of the request. logprob: sum of the log-probabilities of `ids`; minus infinity where a
    beam search under a constraint had fewer texts than were asked for.
    """

    text: str
    ids: tuple[int, ...]
    finish: Finish
    prompt_tokens: int
    logprob: float


@dataclass(frozen=True)
class Piece:
    """More text of a sample. request: place among those asked. finish: as in `Written`, on a sample's last piece alone."""

    request: int
    sample: int
    text: str
    finish: Finish | None = None


def pieces(
    generator: Generates, processor: Processor, asked: Sequence[GenerationRequest], *, stop_strings: Sequence[str] = ()
) -> Iterator[Piece]:
    """Text of all requests as it comes; a sample's pieces, joined, are its `Written.text`.

    Of stop strings the one that is complete first ends a text, of several that end alike the longest, and the text ends before it. Text
    that may still become part of one, and bytes that may still become a character, are held back. A beam search knows nothing of stop
    strings: its texts, which come once it is over, are cut. Requests are submitted by the first
    `next`, which raises RefusalError for one that can never run; closing the iterator cancels what runs. Nobody else may draw events from
    `generator` meanwhile.
    """
    return _run(generator, asked, _begun(processor, asked, stop_strings))


def write(
    generator: Generates, processor: Processor, asked: Sequence[GenerationRequest], *, stop_strings: Sequence[str] = ()
) -> list[list[Written]]:
    """[request][sample]. As `pieces`, whole."""
    samples = _begun(processor, asked, stop_strings)
    for _ in _run(generator, asked, samples):
        pass
    return [[sample.written() for sample in own] for own in samples]


class Decoding:
    """Tokens to text, one by one: what is given out, joined, is the text of all tokens (`Processor.decode`).

    A token costs two decodings of a few tokens, however long the text is. Only where a tokenizer falls back to bytes and a run of them is
    broken the texts differ: decoding all gives up the whole characters of that run too, which were given out by then.
    """

    def __init__(self, processor: Processor) -> None:
        self._processor, self._special = processor, processor.special_ids
        # Text of `_ids` that was given out: of all but the last ones, which are held back from `_read` on.
        self._ids: list[int] = []
        self._given = ""
        self._read = 0
        self._unfinished = 0  # tokens since the text last ended in a whole character

    def put(self, token: int) -> str:
        """Text that is certain now."""
        if token in self._special and not self._processor.decode([token]):
            return ""
        self._ids.append(token)
        text = self._processor.decode(self._ids)
        if not text.endswith(_REPLACEMENT):
            self._unfinished = 0
            new = self._beyond(text)
            if new:  # what gives no text (a space before the first word) decides how the next token is read
                self._forget(self._read)
                self._read = len(self._ids)
                self._given = self._processor.decode(self._ids)
            return new
        self._unfinished += 1
        if self._unfinished < _MOST_BYTES:
            return ""
        # So many tokens would be a character if they could: only what the last one ends in may still become one.
        new = self._beyond(text)[: -len(_REPLACEMENT)]
        self._forget(len(self._ids) - _MOST_BYTES)
        self._read = 0
        self._given = self._processor.decode(self._ids)[: -len(_REPLACEMENT)]
        return new

    def end(self) -> str:
        """What was held back."""
        return self._beyond(self._processor.decode(self._ids)) if self._ids else ""

    def _beyond(self, text: str) -> str:
        if text.startswith(self._given):
            return text[len(self._given) :]
        return self._processor.decode(self._ids[self._read :])

    def _forget(self, count: int) -> None:
        del self._ids[:count]
        self._read -= count


class _Stops:
    """Finds stop strings in a text that comes in pieces."""

    def __init__(self, strings: Sequence[str]) -> None:
        self._strings = strings
        self._held = ""

    def put(self, text: str) -> tuple[str, bool]:
        """Text that is certainly before any stop string, and whether one was found, behind it."""
        text = self._held + text
        found = [(at + len(stop), at) for stop in self._strings if (at := text.find(stop)) >= 0]
        if found:
            return text[: min(found)[1]], True
        # The longest end that a stop string begins with.
        most = max((len(stop) for stop in self._strings), default=1) - 1
        for at in range(max(0, len(text) - most), len(text)):
            if any(stop.startswith(text[at:]) for stop in self._strings):
                self._held = text[at:]
                return text[:at], False
        self._held = ""
        return text, False

    def end(self) -> str:
        """What was held back."""
        return self._held


@dataclass
class _Sample:
    """A sample in the making. request: place among those asked."""

    request: int
    sample: int
    asked: GenerationRequest
    decoding: Decoding
    stops: _Stops
    ids: list[int] = field(default_factory=list)
    logprob: float = 0.0
    given: list[str] = field(default_factory=list)
    finish: Finish | None = None

    def take(self, event: Token) -> Piece:
        """The next piece, often without text."""
        self.logprob += event.logprob
        text = ""
        if event.token >= 0:
            self.ids.append(event.token)
            text = self.decoding.put(event.token)
        if event.finish is not None:
            text += self.decoding.end()
        text, found = self.stops.put(text)
        if found:
            self.finish = "stop"
        elif event.finish is not None:
            self.finish = event.finish
            text += self.stops.end()
        self.given.append(text)
        return Piece(self.request, self.sample, text, self.finish)

    def written(self) -> Written:
        """The whole."""
        assert self.finish is not None, f"request {self.request}, sample {self.sample} got no final event"
        return Written("".join(self.given), tuple(self.ids), self.finish, len(self.asked.ids), self.logprob)


def _begun(
    processor: Processor, asked: Sequence[GenerationRequest], stop_strings: Sequence[str]
) -> list[list[_Sample]]:
    if "" in stop_strings:
        raise RefusalError("stop string '': it would end a text before it begins; leave it out")
    return [
        [_Sample(place, n, one, Decoding(processor), _Stops(stop_strings)) for n in range(one.n)]
        for place, one in enumerate(asked)
    ]


def _run(
    generator: Generates, asked: Sequence[GenerationRequest], samples: Sequence[Sequence[_Sample]]
) -> Iterator[Piece]:
    running: dict[int, dict[int, _Sample]] = {}
    events: Iterator[Token] | None = None
    try:
        for one, own in zip(asked, samples, strict=True):
            running[generator.submit(one)] = {sample.sample: sample for sample in own}
        events = generator.events()
        for event in events:
            sample = running[event.request].get(event.sample)
            if sample is None:  # a stop string ended it; what was under way still comes
                continue
            piece = sample.take(event)
            if sample.finish is not None:
                left = running[event.request]
                del left[event.sample]
                if event.finish is None:
                    if left:
                        generator.cancel(event.request, event.sample)
                    else:
                        generator.cancel(event.request)
            if piece.text or piece.finish is not None:
                yield piece
    finally:
        for number in running:
            generator.cancel(number)
        for _ in events if events is not None else generator.events():
            pass  # the final events of what was cancelled
