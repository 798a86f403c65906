"""Beam search: which of the likeliest continuations of a request go on. Knows no decoder; `loop` feeds it.

Token for token what transformers' `generate` gives with `num_beams`: a step looks at the likeliest `max(2, 1 + end tokens) * beams`
continuations of all beams; the likeliest `beams` of those that go on do; one that ends counts only where it is among the likeliest `beams`
of all. A text's score is the sum of its log-probabilities divided by its length to the power of `length_penalty`, the end token counted.
The search is over once no running beam, at its present length, would beat the worst of `beams` finished ones (`early_stopping`: once
there are so many).
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from spcore.generation.choosing import Chooser, Logits
from spcore.interfaces.runtime import GenerationRequest, Matcher


@dataclass(frozen=True)
class Beam:
    """A text in the making. tokens, logprobs: one by one, the model's own log-probabilities. total: sum of the scores that the search
    goes by, penalties in, float32 as in transformers. slot: where its tokens but the last lie."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    total: np.float32
    slot: int
    matcher: Matcher | None


@dataclass(frozen=True)
class Hypothesis:
    """A text that has ended. tokens, logprobs: what is given out, its end token not. score: what it is ranked by."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    score: np.float32
    finish: Literal["stop", "length"]


class BeamSearch:
    """One request's search. slots: as many as it has beams; the first holds the prompt. matcher: at the beginning of a text.

    running: beams that are to be fed their last token, best first. finished: best first, at most as many as there are beams.
    done: whether nothing can change `finished` any more.
    """

    def __init__(self, chooser: Chooser, slots: Sequence[int], matcher: Matcher | None) -> None:
        self.slots = list(slots)
        self.running = [Beam((), (), np.float32(0), self.slots[0], matcher)]
        self.finished: list[Hypothesis] = []
        self.done = False
        self._chooser, self._asked, self._beams = chooser, chooser.asked, chooser.asked.beams

    def take(self, logits: Logits, places: Sequence[int]) -> tuple[list[int], list[int]]:
        """Go on by one token. places: of the running beams' rows in `logits`. Gives slots to copy, (sources, targets), before the next
        token is fed."""
        made = len(self.running[0].tokens) + 1
        candidates = self._candidates(logits, places)
        going: list[Beam] = []
        for rank, (parent, token, total) in enumerate(candidates):
            beam = self._grown(parent, token, total, float(logits.logprobs(places[parent], token)))
            finish = self._finish(beam, made)
            if finish is None and len(going) < self._beams:
                going.append(beam)
            elif finish is not None and rank < self._beams:
                self._keep(beam, finish, made)
        self.done = not going or self._over(going[0], made)
        sources, targets = self._place(going)
        return sources, targets

    def _candidates(self, logits: Logits, places: Sequence[int]) -> list[tuple[int, int, np.float32]]:
        """(place of the beam, token, total), best first; of equal ones the better beam's, then the smallest id."""
        rows = []
        for beam, place in zip(self.running, places, strict=True):
            rows.append(self._chooser.processed(logits.logprobs(place), beam.tokens, beam.matcher) + beam.total)
        scores = np.concatenate(rows)
        wanted = max(2, 1 + len(self._asked.stop)) * self._beams
        if wanted < len(scores):
            least = np.partition(scores, -wanted)[-wanted]
            best = np.flatnonzero((scores >= least) & (scores > -np.inf))
        else:
            best = np.flatnonzero(scores > -np.inf)
        best = best[np.argsort(-scores[best], kind="stable")][:wanted]
        width = len(rows[0])
        return [(int(n) // width, int(n) % width, scores[n]) for n in best]

    def _grown(self, parent: int, token: int, total: np.float32, logprob: float) -> Beam:
        beam = self.running[parent]
        matcher = beam.matcher
        if matcher is not None and follows(self._asked, len(beam.tokens), token):
            matcher = matcher.copy()
            matcher.advance(token)
        return Beam((*beam.tokens, token), (*beam.logprobs, logprob), total, beam.slot, matcher)

    def _finish(self, beam: Beam, made: int) -> Literal["stop", "length"] | None:
        if beam.tokens[-1] in self._asked.stop:
            return "stop"
        # Where there are end tokens the search goes on to them, as their probability counts.
        if (
            beam.matcher is not None
            and (not self._asked.stop or made == self._asked.max_new_tokens)
            and complete(beam.matcher)
        ):
            return "stop"
        return "length" if made == self._asked.max_new_tokens else None

    def _keep(self, beam: Beam, finish: Literal["stop", "length"], made: int) -> None:
        given = made - 1 if beam.tokens[-1] in self._asked.stop else made
        score = beam.total / np.float32(made**self._asked.length_penalty)
        found = Hypothesis(beam.tokens[:given], beam.logprobs[:given], score, finish)
        bisect.insort(self.finished, found, key=lambda one: -one.score)
        del self.finished[self._beams :]

    def _over(self, best: Beam, made: int) -> bool:
        if len(self.finished) < self._beams:
            return False
        hoped = best.total / np.float32(made**self._asked.length_penalty)
        return self._asked.early_stopping or not hoped > self.finished[-1].score

    def _place(self, going: list[Beam]) -> tuple[list[int], list[int]]:
        """Give each beam a slot of its own: the first child stays in its parent's, others get what has none."""
        self.running, sources, targets = [], [], []
        kept = {beam.slot for beam in going}
        spare = [slot for slot in self.slots if slot not in kept]
        for beam in going:
            if beam.slot in kept:
                kept.remove(beam.slot)
                self.running.append(beam)
                continue
            target = spare.pop(0)
            sources.append(beam.slot)
            targets.append(target)
            self.running.append(Beam(beam.tokens, beam.logprobs, beam.total, target, beam.matcher))
        return sources, targets

    def best(self, count: int) -> list[Hypothesis]:
        """The best `count`. Where a constraint allows fewer texts the rest have no token and a score of minus infinity."""
        missing = Hypothesis((), (), np.float32(-math.inf), "stop")
        return [*self.finished[:count], *[missing] * (count - len(self.finished))]


def follows(asked: GenerationRequest, made: int, token: int) -> bool:
    """Whether a token, the `made`-th new one, is a part of the text that a grammar sees: no end token, and none that was forced in front."""
    return token not in asked.stop and not (made == 0 and asked.forced_first is not None)


def complete(matcher: Matcher) -> bool:
    """Whether a text may end here and can do nothing else."""
    return matcher.finished and not matcher.allowed().any()
