"""The decoding loop.

Between two decoding steps the loop admits waiting requests to free slots and feeds a bounded number of prompt tokens, so a
long prompt does not hold up those that are already running. A request's result depends on the request alone: logits of a
slot are the decoder's promise, and every draw is a function of (seed, prompt, variant, sample, position).

On an engine whose ranks decode together each has a loop of its own over `spcore.prompting.Together`.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from spcore.errors import RefusalError, RunError
from spcore.generation.beams import BeamSearch, Hypothesis, complete, follows
from spcore.generation.checks import check_request
from spcore.generation.choosing import Chooser, Logits
from spcore.generation.slots import Slots
from spcore.interfaces.runtime import Decodes, GenerationRequest, Matcher, Token

PREFILL_TOKENS = 512
"""Prompt tokens fed between two decoding steps, over all requests."""
Finish = Literal["stop", "length", "cancelled"]


@dataclass(eq=False)
class _Entry:
    """A request. slots: its own, empty while it waits. fed: prompt tokens that are in the first slot. open: samples without a final
    event. unwanted: samples that are to be cancelled."""

    id: int
    asked: GenerationRequest
    chooser: Chooser
    open: set[int]
    slots: list[int] = field(default_factory=list)
    fed: int = 0
    unwanted: set[int] = field(default_factory=set)

    @property
    def width(self) -> int:
        """Slots that it needs."""
        return self.asked.beams if self.asked.beams > 1 else self.asked.n


@dataclass(eq=False)
class _Sample:
    """A sample that is being decoded. answer: its tokens so far; the newest is not fed yet."""

    entry: _Entry
    index: int
    slot: int
    matcher: Matcher | None
    answer: list[int] = field(default_factory=list)


class DecodingLoop:
    """Implements `Generates` over a `Decodes`.

    decoder: its slots must all be empty, and nobody else may use them. prefill_tokens: prompt tokens fed between two
    decoding steps, over all requests. decoder_start: for encoder-decoders, the token that the decoder begins with; the
    request's ids then go to the encoder, whole. Where weights change, `close` comes between.

    Prompts that run beside each other and begin alike share what they have in common, where the decoder can crop (`Crops`).
    `submit` and `cancel` may be called from any thread, `events` from one at a time.
    """

    admission: Literal["continuous", "batch"] = "continuous"

    def __init__(
        self,
        decoder: Decodes,
        *,
        prefill_tokens: int = PREFILL_TOKENS,
        decoder_start: int | None = None,
    ) -> None:
        if prefill_tokens < 1:
            raise RefusalError(f"prefill_tokens {prefill_tokens}: expected 1 or more")
        self._capacity, self._prefill_tokens, self._decoder_start = decoder.capacity, prefill_tokens, decoder_start
        self._slots = Slots(decoder, share=decoder_start is None)
        self._numbers = itertools.count()
        self._submitted: deque[_Entry] = deque()
        self._entries: dict[int, _Entry] = {}
        self._waiting: list[_Entry] = []
        self._filling: list[_Entry] = []
        self._running: list[_Sample] = []
        self._searching: list[tuple[_Entry, BeamSearch]] = []
        self._ready: deque[Token] = deque()

    def submit(self, request: GenerationRequest) -> int:
        """Queue a request; its id. Raises RefusalError for a request that can never run."""
        check_request(request, self._capacity, self._decoder_start)
        number = next(self._numbers)
        entry = _Entry(number, request, Chooser(request, self._decoder_start), set(range(request.n)))
        self._entries[number] = entry
        self._submitted.append(entry)
        return number

    def cancel(self, request: int, sample: int | None = None) -> None:
        """End a request, or one sample of it, before the next step; what is ended still gets its final event. Nothing for what has
        ended."""
        entry = self._entries.get(request)
        if entry is not None:
            entry.unwanted |= set(range(entry.asked.n)) if sample is None else {sample}

    def events(self) -> Iterator[Token]:
        """Tokens of all requests as they come, until none is left. May be left early and called again: nothing is lost.
        An error of the decoder empties all slots, drops all requests and is raised."""
        while True:
            while self._ready:
                yield self._ready.popleft()
            if not self._entries:
                return
            try:
                self._step()
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        """Empty all slots and forget all requests, without final events; a second call does nothing."""
        self._submitted.clear()
        self._entries.clear()
        self._ready.clear()
        self._waiting, self._filling, self._running, self._searching = [], [], [], []
        self._slots.close()

    def _step(self) -> None:
        while self._submitted:
            self._waiting.append(self._submitted.popleft())
        self._end_unwanted()
        while self._waiting and self._waiting[0].width <= self._slots.free:
            entry = self._waiting.pop(0)
            entry.slots = self._slots.lend(entry.width, entry.asked.ids, kept=entry.asked.keep)
            self._filling.append(entry)
        if self._filling:
            self._prefill()
        if self._running or self._searching:
            self._decode()

    def _decode(self) -> None:
        """Feed every sample and beam its last token, in one call."""
        samples, searching = list(self._running), list(self._searching)
        beams = [beam for _, search in searching for beam in search.running]
        last = [*(sample.answer[-1] for sample in samples), *(beam.tokens[-1] for beam in beams)]
        slots = [*(sample.slot for sample in samples), *(beam.slot for beam in beams)]
        owners = [*(sample.entry for sample in samples), *(e for e, search in searching for _ in search.running)]
        logits = self._measured(self._slots.decode(last, slots), owners)
        self._take(samples, logits, range(len(samples)))
        at = len(samples)
        for entry, search in searching:
            places = range(at, at + len(search.running))
            at = places.stop
            self._search(entry, search, logits, places)

    def _prefill(self) -> None:
        """Feed one portion of prompts in one call; requests whose prompt is whole get their first tokens."""
        room, fed = self._prefill_tokens, []
        rows: list[dict[str, np.ndarray]] = []
        ahead: list[Sequence[int]] = []
        for entry in self._filling:
            if room < 1:
                break
            if not entry.fed:
                if self._slots.worth_waiting(entry.asked.ids, ahead, kept=entry.asked.keep):
                    continue
                entry.fed = self._slots.begin(entry.slots[0], entry.asked.ids, kept=entry.asked.keep)
            row, used = self._portion(entry, room)
            rows.append(row)
            fed.append(entry)
            ahead.append(entry.asked.ids)
            room -= used
        logits = self._measured(self._slots.prefill(rows, [entry.slots[0] for entry in fed]), fed, whole=True)
        for n, entry in enumerate(fed):
            if entry.fed == len(entry.asked.ids):
                self._filling.remove(entry)
                self._start(entry, logits, n)

    def _portion(self, entry: _Entry, room: int) -> tuple[dict[str, np.ndarray], int]:
        """What to feed next of a prompt, and its tokens. An encoder's input is fed whole."""
        if self._decoder_start is not None:
            entry.fed = len(entry.asked.ids)
            start = np.array([self._decoder_start], np.int64)
            return {"input_ids": np.array(entry.asked.ids, np.int64), "decoder_input_ids": start}, entry.fed
        ids = np.array(entry.asked.ids[entry.fed : entry.fed + room], np.int64)
        entry.fed += len(ids)
        return {"input_ids": ids}, len(ids)

    def _start(self, entry: _Entry, logits: Logits, place: int) -> None:
        """First tokens of a request whose prompt is whole."""
        grammar = entry.asked.grammar
        if entry.asked.beams > 1:
            search = BeamSearch(entry.chooser, entry.slots, grammar.start() if grammar is not None else None)
            self._searching.append((entry, search))
            self._search(entry, search, logits, [place])
            return
        wanted = sorted(entry.open)
        slots, unused = entry.slots[: len(wanted)], entry.slots[len(wanted) :]
        self._slots.copy([slots[0]] * (len(slots) - 1), slots[1:])
        self._slots.give_back(unused)
        started = [
            _Sample(entry, index, slot, grammar.start() if grammar is not None else None)
            for index, slot in zip(wanted, slots, strict=True)
        ]
        self._running += started
        self._take(started, logits, [place] * len(started))

    def _measured(self, rows: np.ndarray, owners: Sequence[_Entry], *, whole: bool = False) -> Logits:
        """Logits as they are chosen from. owners: of each row. whole: only those of prompts that are whole are looked at."""
        logits = Logits.of(rows)
        for owner, peak in zip(owners, logits.peak, strict=True):
            if not np.isfinite(peak) and (not whole or owner.fed == len(owner.asked.ids)):
                raise RunError(f"request {owner.id}: the model's logits are not finite")
        return logits

    def _take(self, samples: Sequence[_Sample], logits: Logits, places: Sequence[int]) -> None:
        """Choose a token for each sample from its row of logits; samples that end give their slots back."""
        ended: list[_Sample] = []
        for sample, place in zip(samples, places, strict=True):
            entry, asked = sample.entry, sample.entry.asked
            try:
                token, logprob = entry.chooser.choose(
                    logits, place, sample=sample.index, answer=sample.answer, matcher=sample.matcher
                )
            except RunError as error:
                raise RunError(f"request {entry.id}, {error.message}", hint=error.hint) from error
            sample.answer.append(token)
            finish: Finish | None = "length" if len(sample.answer) == asked.max_new_tokens else None
            if token in asked.stop:
                self._finish(entry, sample.index, "stop")
                ended.append(sample)
                continue
            if sample.matcher is not None:
                if follows(asked, len(sample.answer) - 1, token):
                    sample.matcher.advance(token)
                finish = "stop" if complete(sample.matcher) else finish
            if finish is not None:
                self._finish(entry, sample.index, finish, token, logprob)
                ended.append(sample)
            else:
                self._ready.append(Token(entry.id, sample.index, token, logprob))
        self._drop(ended)

    def _search(self, entry: _Entry, search: BeamSearch, logits: Logits, places: Sequence[int]) -> None:
        """Go on with a beam search; once it is over its texts are given out."""
        sources, targets = search.take(logits, places)
        if not search.done:
            self._slots.copy(sources, targets)
            return
        self._forget_search(entry)
        for index, found in enumerate(search.best(entry.asked.n)):
            if index in entry.open:
                self._give(entry, index, found)

    def _give(self, entry: _Entry, index: int, found: Hypothesis) -> None:
        for token, logprob in zip(found.tokens[:-1], found.logprobs[:-1], strict=True):
            self._ready.append(Token(entry.id, index, token, logprob))
        if found.tokens:
            self._finish(entry, index, found.finish, found.tokens[-1], found.logprobs[-1])
        else:
            self._finish(entry, index, found.finish, -1, 0.0 if np.isfinite(found.score) else -np.inf)

    def _finish(self, entry: _Entry, sample: int, why: Finish, token: int = -1, logprob: float = 0.0) -> None:
        self._ready.append(Token(entry.id, sample, token, logprob, why))
        entry.open.remove(sample)
        if not entry.open:
            del self._entries[entry.id]

    def _end_unwanted(self) -> None:
        """Cancel what is to be; a search goes on for its other samples."""
        started = [*(sample.entry for sample in self._running), *(entry for entry, _ in self._searching)]
        for entry in {entry.id: entry for entry in (*self._waiting, *self._filling, *started)}.values():
            unwanted = entry.unwanted & entry.open
            for index in sorted(unwanted):
                self._finish(entry, index, "cancelled")
            self._drop([one for one in self._running if one.entry is entry and one.index in unwanted])
            if entry.open:
                continue
            for queue in (self._waiting, self._filling):
                if entry in queue:
                    queue.remove(entry)
                    self._slots.give_back(entry.slots, keep=entry.asked.keep)
            self._forget_search(entry)

    def _forget_search(self, entry: _Entry) -> None:
        left = [(other, search) for other, search in self._searching if other is not entry]
        if len(left) < len(self._searching):
            self._searching = left
            self._slots.give_back(entry.slots, keep=entry.asked.keep)

    def _drop(self, samples: Sequence[_Sample]) -> None:
        self._running = [sample for sample in self._running if sample not in samples]
        for sample in samples:
            self._slots.give_back([sample.slot], keep=sample.entry.asked.keep)
