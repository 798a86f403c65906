"""How the next token of a request is chosen from the model's logits.

The order is the one of transformers: repetition, presence and frequency penalty, repeated n-grams, tokens that are never taken, least
length, grammar, forced tokens, then, where tokens are drawn, temperature, top-k, top-p, min-p. Greedy decoding without any of them costs one pass over the logits, in float32.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spcore.errors import RunError
from spcore.interfaces.runtime import GenerationRequest, Matcher

_FIRST_RANKED = 256
"""Of the likeliest tokens, so many are sorted at first where top-p cuts; four times as many whenever they do not hold enough."""
_COLDEST = 1e-30
"""A temperature that is greedy in all but name, and still a number in float32."""


@dataclass(frozen=True)
class Logits:
    """Logits of several slots with what every way to choose needs of them.

    rows: [slots, vocabulary] float32. top: [slots], the largest, of equal ones the smallest id. peak: [slots], its logit; not finite where
    the row is not. spread: [slots], log of the sum of exp(row - peak).
    """

    rows: np.ndarray
    top: np.ndarray
    peak: np.ndarray
    spread: np.ndarray

    @classmethod
    def of(cls, rows: np.ndarray) -> Logits:
        """Measure `rows`."""
        top = rows.argmax(axis=1)
        peak = rows[np.arange(len(rows)), top]
        with np.errstate(invalid="ignore"):
            return cls(rows, top, peak, np.log(np.exp(rows - peak[:, None]).sum(axis=1)))

    def logprobs(self, at: int, token: int | slice = slice(None)) -> np.ndarray:
        """The model's own log-probabilities of a row (temperature 1, no limits): of one token, or [vocabulary]; float32."""
        found: np.ndarray = self.rows[at, token] - self.peak[at] - self.spread[at]
        return found


class Chooser:
    """How tokens of one request are chosen. decoder_start: as in `DecodingLoop`; the prompt is then the encoder's, and is not penalised."""

    def __init__(self, asked: GenerationRequest, decoder_start: int | None = None) -> None:
        self.asked, self._address = asked, address(asked)
        self._context = np.array(asked.ids if decoder_start is None else (decoder_start,), np.int64)
        self._before, self._never = np.unique(self._context), np.array(asked.suppress, np.int64)
        self._stop = np.array(asked.stop, np.int64)
        self._penalises = asked.repetition_penalty != 1 or asked.presence_penalty != 0 or asked.frequency_penalty != 0
        self._always = self._penalises or asked.no_repeat_ngram > 0 or len(self._never) > 0 or asked.grammar is not None

    def choose(
        self, logits: Logits, at: int, *, sample: int, answer: Sequence[int] = (), matcher: Matcher | None = None
    ) -> tuple[int, float]:
        """The next token of a sample and its log-probability, the model's own.

        at: the sample's row of `logits`. answer: its tokens so far. Temperature 0 takes the largest logit, of equal ones the smallest
        id. Raises RunError where the grammar lets no token of the vocabulary follow.
        """
        row = logits.rows[at]
        scores = self.processed(row, answer, matcher)
        if self.asked.temperature > 0:
            ids, mass = limited(scores, self.asked)
            reached = np.cumsum(mass.astype(np.float64))
            drawn = draw(self._address, sample, len(answer)) * reached[-1]
            # Rounded up to the sum itself, the last token that has a share.
            place = min(np.searchsorted(reached, drawn, "right"), np.searchsorted(reached, reached[-1], "left"))
            token = int(ids[place])
        else:
            token = int(logits.top[at] if scores is row else scores.argmax())
        if scores[token] == -np.inf:
            raise RunError(
                f"new token {len(answer) + 1}: no token of the model's vocabulary may follow by the constraint",
                hint="Allow more, or use a model whose vocabulary can write it",
            )
        return token, float(logits.logprobs(at, token))

    def processed(self, scores: np.ndarray, answer: Sequence[int], matcher: Matcher | None) -> np.ndarray:
        """Scores [vocabulary] after everything that is asked of them but the drawing: `scores` itself where that is nothing, else a copy."""
        early = len(answer) < self.asked.min_new_tokens and len(self._stop) > 0
        forced = self._forced(len(answer))
        if not self._always and not early and forced is None:
            return scores
        scores = scores.copy()
        if forced is not None:
            scores[:] = -np.inf
            scores[forced] = 0
            return scores
        stop = self._stop[self._stop < len(scores)]
        if self._penalises:
            self._penalise(scores, answer)
        if self.asked.no_repeat_ngram:
            scores[self._repeats(answer)] = -np.inf
        scores[self._never[self._never < len(scores)]] = -np.inf
        if early:
            scores[stop] = -np.inf
        if matcher is not None:
            ends = scores[stop] if matcher.finished else -np.inf
            allowed = matcher.allowed()[: len(scores)]
            scores[: len(allowed)][~allowed] = -np.inf
            scores[len(allowed) :] = -np.inf  # a model may have more logits than its tokenizer has tokens
            scores[stop] = ends
        return scores

    def _forced(self, made: int) -> int | None:
        last = made == self.asked.max_new_tokens - 1
        if last and self.asked.forced_last is not None:
            return self.asked.forced_last
        return self.asked.forced_first if made == 0 else None

    def _repeats(self, answer: Sequence[int]) -> np.ndarray:
        """Tokens that would end an n-gram a second time."""
        size = self.asked.no_repeat_ngram
        text = np.concatenate([self._context, np.array(answer, np.int64)])
        if len(text) < size:
            return text[:0]
        grams = np.lib.stride_tricks.sliding_window_view(text, size)
        found: np.ndarray = grams[(grams[:, :-1] == text[len(text) + 1 - size :]).all(axis=1), -1]
        return found

    def _penalise(self, scores: np.ndarray, answer: Sequence[int]) -> None:
        asked = self.asked
        made, times = np.unique(np.array(answer, np.int64), return_counts=True)
        seen = np.union1d(self._before, made)
        found = scores[seen]
        scores[seen] = np.where(found < 0, found * asked.repetition_penalty, found / asked.repetition_penalty)
        scores[made] -= asked.presence_penalty + asked.frequency_penalty * times


def limited(scores: np.ndarray, asked: GenerationRequest) -> tuple[np.ndarray, np.ndarray]:
    """Ids that may be drawn, in the order of ids, and their probabilities up to a factor, float32 (in float64 it takes five times as long).

    scores: [vocabulary]. They are divided by the temperature, then limited to the `top_k` largest (equal ones stay together), then to the
    fewest that hold `top_p` of the probability (nucleus sampling, Holtzman et al. 2020, https://arxiv.org/abs/1904.09751; of equal ones
    the smallest ids), then to those that have at least `min_p` of the likeliest one's probability.
    """
    ids = np.arange(len(scores))
    if 0 < asked.top_k < len(scores):
        ids = np.flatnonzero(scores >= np.partition(scores, -asked.top_k)[-asked.top_k])
        scores = scores[ids]
    mass = np.exp((scores - scores.max()) / np.float32(max(asked.temperature, _COLDEST)))
    if asked.top_p < 1:
        kept = _nucleus(mass, asked.top_p)
        ids, mass = ids[kept], mass[kept]
    if asked.min_p > 0:
        kept = mass >= asked.min_p  # the largest is 1
        ids, mass = ids[kept], mass[kept]
    return ids, mass


def _nucleus(mass: np.ndarray, top_p: float) -> np.ndarray:
    """Places of the fewest that hold `top_p` of all mass, in their order. Sorts no more than it must."""
    wanted = top_p * mass.sum(dtype=np.float64)
    for count in (_FIRST_RANKED * 4**n for n in itertools.count()):
        whole = count >= len(mass)
        places = np.arange(len(mass)) if whole else np.flatnonzero(mass >= np.partition(mass, -count)[-count])
        ranked = places[np.argsort(-mass[places], kind="stable")]
        reached = np.cumsum(mass[ranked].astype(np.float64))
        if whole or reached[-1] >= wanted:
            break
    return np.sort(ranked[reached - mass[ranked] < wanted])


def address(asked: GenerationRequest) -> bytes:
    """Where a request's draws lie: its seed, variant and prompt, and nothing else."""
    content = np.array([asked.seed % 2**64, asked.variant % 2**64, *asked.ids], "<u8")
    return hashlib.blake2b(content.tobytes(), digest_size=16).digest()


def draw(place: bytes, sample: int, position: int) -> float:
    """A number in [0, 1), of 53 bits: a hash of its address alone, so that no order of calls decides it. place: of `address`. position: of
    the token among the new ones, from 0."""
    content = place + np.array([sample, position], "<u8").tobytes()
    return (int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little") >> 11) / 2**53
