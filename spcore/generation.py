"""The one decoding loop, over anything that has the ability `Decodes` (an engine or a runner). Pure numpy.

Between two decoding steps the loop admits waiting requests to free slots and feeds a bounded number of prompt tokens, so a
long prompt does not hold up those that are already running. A request's result depends on the request alone: logits of a
slot are the decoder's promise, and every draw is a function of (seed, request id, sample, position).

On engines the loop is collective: every rank submits and cancels alike and drains `events`, and then calls equally often.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from spcore.errors import RefusalError, RunError
from spcore.interfaces.runtime import Decodes, GenerationRequest, Token

PREFILL_TOKENS = 512
"""Prompt tokens fed between two decoding steps, over all requests."""
Finish = Literal["stop", "length", "cancelled"]


@dataclass
class _Entry:
    """A request. slots: of its samples, empty while it waits. fed: prompt tokens that are in the first slot. left: samples
    without a final event."""

    id: int
    asked: GenerationRequest
    left: int
    slots: list[int] = field(default_factory=list)
    fed: int = 0
    cancelled: bool = False


@dataclass
class _Sample:
    """A sample that is being decoded. made: tokens so far; last: the newest, not fed yet."""

    entry: _Entry
    index: int
    slot: int
    made: int = 0
    last: int = -1


class DecodingLoop:
    """Implements `Generates` over a `Decodes`.

    decoder: its slots must all be empty, and nobody else may use them. prefill_tokens: prompt tokens fed between two
    decoding steps, over all requests. decoder_start: for encoder-decoders, the token that the decoder begins with; the
    request's ids then go to the encoder, whole.

    `submit` and `cancel` may be called from any thread, `events` from one at a time.
    """

    admission: Literal["continuous", "batch"] = "continuous"

    def __init__(
        self, decoder: Decodes, *, prefill_tokens: int = PREFILL_TOKENS, decoder_start: int | None = None
    ) -> None:
        if prefill_tokens < 1:
            raise RefusalError(f"prefill_tokens {prefill_tokens}: expected 1 or more")
        self._decoder, self._prefill_tokens, self._decoder_start = decoder, prefill_tokens, decoder_start
        self._slots, self._length, self._encoder_length = decoder.capacity
        self._free = list(range(self._slots))
        self._numbers = itertools.count()
        self._submitted: deque[_Entry] = deque()
        self._entries: dict[int, _Entry] = {}
        self._waiting: list[_Entry] = []
        self._filling: list[_Entry] = []
        self._running: list[_Sample] = []
        self._ready: deque[Token] = deque()

    def submit(self, request: GenerationRequest, *, request_id: int | None = None) -> int:
        """Queue a request; its id. request_id: in place of the next number (to repeat a request: it decides the draws
        together with `request.seed`); must not be in use. Raises RefusalError for a request that can never run."""
        self._check(request)
        if request_id is None:
            request_id = next(number for number in self._numbers if number not in self._entries)
        elif request_id in self._entries:
            raise RefusalError(f"request id {request_id} is in use; wait for its last event or give another")
        entry = _Entry(request_id, request, request.n)
        self._entries[request_id] = entry
        self._submitted.append(entry)
        return request_id

    def cancel(self, request: int) -> None:
        """End a request before the next step; its samples still get their final events. Nothing for one that has ended."""
        entry = self._entries.get(request)
        if entry is not None:
            entry.cancelled = True

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
        self._waiting, self._filling, self._running = [], [], []
        used = sorted(set(range(self._slots)).difference(self._free))
        self._release(used)

    def _step(self) -> None:
        while self._submitted:
            self._waiting.append(self._submitted.popleft())
        self._end_cancelled()
        while self._waiting and self._waiting[0].asked.n <= len(self._free):
            entry = self._waiting.pop(0)
            entry.slots, self._free = self._free[: entry.asked.n], self._free[entry.asked.n :]
            self._filling.append(entry)
        if self._filling:
            self._prefill()
        if self._running:
            samples = list(self._running)
            logits = self._decoder.decode([sample.last for sample in samples], [sample.slot for sample in samples])
            self._take(samples, logits)

    def _prefill(self) -> None:
        """Feed one portion of prompts in one call; requests whose prompt is whole get their first tokens."""
        room, fed = self._prefill_tokens, []
        rows: list[dict[str, np.ndarray]] = []
        for entry in self._filling:
            if room < 1:
                break
            row, used = self._portion(entry, room)
            rows.append(row)
            fed.append(entry)
            room -= used
        logits = self._decoder.prefill(rows, [entry.slots[0] for entry in fed])
        started: list[_Sample] = []
        source: list[int] = []
        for n, entry in enumerate(fed):
            if entry.fed < len(entry.asked.ids):
                continue
            if entry.asked.n > 1:
                self._decoder.copy([entry.slots[0]] * (entry.asked.n - 1), entry.slots[1:])
            self._filling.remove(entry)
            started += [_Sample(entry, index, slot) for index, slot in enumerate(entry.slots)]
            source += [n] * entry.asked.n
        self._running += started
        self._take(started, [logits[n] for n in source])

    def _portion(self, entry: _Entry, room: int) -> tuple[dict[str, np.ndarray], int]:
        """What to feed next of a prompt, and its tokens. An encoder's input is fed whole."""
        if self._decoder_start is not None:
            entry.fed = len(entry.asked.ids)
            start = np.array([self._decoder_start], np.int64)
            return {"input_ids": np.array(entry.asked.ids, np.int64), "decoder_input_ids": start}, entry.fed
        ids = np.array(entry.asked.ids[entry.fed : entry.fed + room], np.int64)
        entry.fed += len(ids)
        return {"input_ids": ids}, len(ids)

    def _take(self, samples: Sequence[_Sample], logits: Iterable[np.ndarray]) -> None:
        """Choose a token for each sample from its row of logits; samples that end give their slots back."""
        ended: list[_Sample] = []
        for sample, row in zip(samples, logits, strict=True):
            asked, request = sample.entry.asked, sample.entry.id
            if np.isnan(row).any() or not np.isfinite(row.max()):
                raise RunError(f"request {request}, new token {sample.made + 1}: the model's logits are not finite")
            token, logprob = choose(row, asked, request=request, sample=sample.index, position=sample.made)
            sample.made, sample.last = sample.made + 1, token
            if token in asked.stop:
                self._finish(sample.entry, sample.index, "stop")
                ended.append(sample)
            elif sample.made == asked.max_new_tokens:
                self._finish(sample.entry, sample.index, "length", token, logprob)
                ended.append(sample)
            else:
                self._ready.append(Token(request, sample.index, token, logprob))
        self._drop(ended)

    def _finish(self, entry: _Entry, sample: int, why: Finish, token: int = -1, logprob: float = 0.0) -> None:
        self._ready.append(Token(entry.id, sample, token, logprob, why))
        entry.left -= 1
        if entry.left == 0:
            del self._entries[entry.id]

    def _end_cancelled(self) -> None:
        for queue in (self._waiting, self._filling):
            for entry in [entry for entry in queue if entry.cancelled]:
                queue.remove(entry)
                for index in range(entry.asked.n):
                    self._finish(entry, index, "cancelled")
                self._release(entry.slots)
        stopped = [sample for sample in self._running if sample.entry.cancelled]
        for sample in stopped:
            self._finish(sample.entry, sample.index, "cancelled")
        self._drop(stopped)

    def _drop(self, samples: Sequence[_Sample]) -> None:
        gone = {sample.slot for sample in samples}
        self._running = [sample for sample in self._running if sample.slot not in gone]
        self._release(sorted(gone))

    def _release(self, slots: Sequence[int]) -> None:
        if slots:
            self._free = sorted([*self._free, *slots])
            self._decoder.free(list(slots))

    def _check(self, request: GenerationRequest) -> None:
        """Refuse, in one line, what can never run or makes no sense."""
        rules: tuple[tuple[str, object, bool, str], ...] = (
            ("ids", "no token", len(request.ids) > 0, "at least one prompt token"),
            ("max_new_tokens", request.max_new_tokens, request.max_new_tokens >= 1, "1 or more"),
            ("n", request.n, 1 <= request.n <= self._slots, f"1 to {self._slots}, the slots there are"),
            ("temperature", request.temperature, 0 <= request.temperature < math.inf, "0 (greedy) or more"),
            ("top_k", request.top_k, request.top_k >= 0, "0 (no limit) or more"),
            ("top_p", request.top_p, 0 < request.top_p <= 1, "more than 0, at most 1 (no limit)"),
        )
        for name, found, good, allowed in rules:
            if not good:
                raise RefusalError(f"generation request: {name} is {found}, expected {allowed}")
        prompt, length = len(request.ids), self._length
        if self._decoder_start is not None:
            if prompt > self._encoder_length:
                raise RefusalError(
                    f"generation request: {prompt} prompt tokens, the encoder takes {self._encoder_length}; shorten the prompt"
                )
            prompt = 1
        if prompt + request.max_new_tokens - 1 > length:  # the last token is given out and not fed
            room = length - prompt + 1
            what = (
                f"lower max_new_tokens to at most {room}"
                if room > 0
                else f"shorten the prompt to at most {length} tokens"
            )
            raise RefusalError(
                f"generation request: {prompt} prompt tokens and {request.max_new_tokens} new ones do not fit {length} positions; {what}"
            )


def choose(
    logits: np.ndarray, asked: GenerationRequest, *, request: int, sample: int, position: int
) -> tuple[int, float]:
    """The next token and its log-probability.

    logits: [vocabulary]. position: of the token among the new ones, from 0. The log-probability is the model's own
    (temperature 1, no limits). Temperature 0 takes the largest logit, of equal ones the smallest id. Else logits are divided
    by the temperature, then limited to the `top_k` largest (equal ones stay together), then to the fewest that hold `top_p`
    of the probability (nucleus sampling, Holtzman et al., 2020), and one is drawn.
    """
    wide = logits.astype(np.float64)
    peak = int(wide.argmax())
    total = wide[peak] + math.log(np.exp(wide - wide[peak]).sum())
    if asked.temperature == 0:
        return peak, float(wide[peak] - total)
    ids, mass = _limited((wide - wide[peak]) / asked.temperature, asked)
    reached = np.cumsum(mass)
    at = int(np.searchsorted(reached, draw(asked.seed, request, sample, position) * reached[-1], side="right"))
    token = int(ids[min(at, len(ids) - 1)])
    return token, float(wide[token] - total)


def _limited(scores: np.ndarray, asked: GenerationRequest) -> tuple[np.ndarray, np.ndarray]:
    """Ids that may be drawn, in the order of ids, and their probabilities up to a factor. scores: the largest is 0."""
    ids = np.arange(len(scores))
    if 0 < asked.top_k < len(scores):
        ids = np.flatnonzero(scores >= np.partition(scores, -asked.top_k)[-asked.top_k])
    mass = np.exp(scores[ids])
    if asked.top_p < 1:
        ranked = np.argsort(-mass, kind="stable")
        before = np.cumsum(mass[ranked]) - mass[ranked]
        kept = np.sort(ranked[before < asked.top_p * mass.sum()])
        ids, mass = ids[kept], mass[kept]
    return ids, mass


def draw(seed: int, request: int, sample: int, position: int) -> float:
    """A number in [0, 1): a function of its address alone."""
    address = [seed % 2**64, request % 2**64, sample, position]
    return float(np.random.Generator(np.random.PCG64(np.random.SeedSequence(address))).random())
