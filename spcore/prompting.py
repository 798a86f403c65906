"""Rows that are answered by generating: evaluations in training and of saved models, and predictions.

Requests are made once, before anything starts, so a row that cannot be asked is refused then. Equal prompts are numbered over the whole
data set, so an answer depends on the data alone and not on who generates it beside what.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from spcore.errors import DataError
from spcore.generation import DecodingLoop
from spcore.interfaces.dataset import Row
from spcore.interfaces.runtime import Decodes, Generates, GenerationRequest
from spcore.interfaces.task import EvalPart, Prompts

if TYPE_CHECKING:
    from spcore.features import FeatureStore
    from spcore.interfaces.model import LanguageModel, Processor
    from spcore.rows import RoleSource

_CHUNK = 1024
_DONE, _DECODE, _PREFILL = range(3)
Answers = dict[int, dict[str, Any]]
"""row id -> what `Prompts.answer` gave, and "finish"."""


def requests(task: Prompts, rows: Iterable[Row], place: Callable[[int], str]) -> list[GenerationRequest]:
    """What to generate for each row, equal prompts numbered. place: what a row is called. Raises DataError that names the row."""
    made: list[GenerationRequest] = []
    seen: Counter[tuple[int, ...]] = Counter()
    for n, row in enumerate(rows):
        try:
            asked = task.request(row)
        except DataError as error:
            raise DataError(f"{place(n)}: {error.message}", hint=error.hint) from error
        assert asked.n == 1, "a task asks for one answer a row"
        made.append(replace(asked, variant=seen[asked.ids]))
        seen[asked.ids] += 1
    return made


class Questions:
    """What is generated for a data set's rows. rows: ids of those that have features, in order, `limit` at most (None: all)."""

    def __init__(self, source: RoleSource, task: Prompts, store: FeatureStore, limit: int | None) -> None:
        self.source, self.task = source, task
        self.rows: list[int] = list(dict.fromkeys(store.rows.tolist()))[:limit]
        chunks = (self.rows[at : at + _CHUNK] for at in range(0, len(self.rows), _CHUNK))
        found = (row for chunk in chunks for row in source.read(chunk))
        self.requests = requests(task, found, lambda n: source.place(self.rows[n]))

    def share(self, rank: int, size: int) -> list[int]:
        """Positions that a data rank answers, longest prompts first: so that ranks end about together."""
        lengths = np.array([len(asked.ids) for asked in self.requests])
        ranked: list[int] = np.argsort(-lengths, kind="stable").tolist()
        return ranked[rank::size]

    def room(self, encodes: bool) -> tuple[int, int]:
        """(positions of the longest answer with its prompt, tokens of the longest encoder's input). encodes: by an encoder-decoder."""
        prompts = [len(asked.ids) for asked in self.requests]
        fed = [(1 if encodes else n) + asked.max_new_tokens for n, asked in zip(prompts, self.requests, strict=True)]
        return max(fed) - 1, max(prompts) if encodes else 0  # the last token is given out and not fed

    def slots(self, size: int, tokens: int, encodes: bool) -> int:
        """Slots for a share of one of `size` ranks, the same on all: so many as `tokens` positions allow, one request at least."""
        widest = max(max(asked.n, asked.beams) for asked in self.requests)
        wanted = -(-len(self.requests) // size) * widest
        return max(widest, min(wanted, tokens // max(1, sum(self.room(encodes)))))

    def answers(self, generator: Generates, at: Sequence[int]) -> Answers:
        """Generate for the rows at these positions."""
        rows = self.source.read([self.rows[n] for n in at])
        found = answered(generator, self.task, rows, [self.requests[n] for n in at])
        return {self.rows[n]: answer for n, answer in zip(at, found, strict=True)}


def answered(
    generator: Generates, task: Prompts, rows: Sequence[Row], asked: Sequence[GenerationRequest]
) -> list[dict[str, Any]]:
    """What the task makes of what is generated for rows, with "finish"."""
    written = write(generator, task.processor, asked)
    return [{**task.answer(row, text), "finish": finish} for row, (text, finish) in zip(rows, written, strict=True)]


def write(
    generator: Generates, processor: Processor, asked: Sequence[GenerationRequest]
) -> list[tuple[str, str | None]]:
    places = {generator.submit(request): n for n, request in enumerate(asked)}
    ids: list[list[int]] = [[] for _ in asked]
    finish: list[str | None] = [None] * len(asked)
    for event in generator.events():
        n = places[event.request]
        if event.token >= 0:
            ids[n].append(event.token)
        finish[n] = event.finish or finish[n]
    return [(processor.decode(i), f) for i, f in zip(ids, finish, strict=True)]


def loop_over(decoder: Decodes, model: LanguageModel) -> DecodingLoop:
    """A decoding loop for a model's decoder."""
    return DecodingLoop(decoder, decoder_start=decoder_start(model))


def decoder_start(model: LanguageModel) -> int | None:
    """The token that an encoder-decoder's answers begin with; None for a decoder."""
    return model.generation().get("decoder_start")  # type: ignore[attr-defined, no-any-return]  # `assemble` saw to it


class Together:
    """Lets ranks that have unequal work use a decoder whose `prefill` and `decode` are collective. Before each the ranks agree on which it
    is; one that wants the other, or nothing more, takes part with no slots. agree: the largest of all ranks' codes, see `Engine.agree`.
    """

    def __init__(self, decoder: Decodes, agree: Callable[[int], int]) -> None:
        self._decoder, self._agree = decoder, agree
        self.capacity = decoder.capacity

    def prefill(self, rows: Sequence[Mapping[str, np.ndarray]], slots: Sequence[int]) -> np.ndarray:
        """See `Decodes.prefill`."""
        self._until(_PREFILL)
        return self._decoder.prefill(rows, slots)

    def decode(self, ids: Sequence[int], slots: Sequence[int]) -> np.ndarray:
        """See `Decodes.decode`."""
        self._until(_DECODE)
        return self._decoder.decode(ids, slots)

    def copy(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Of this rank alone."""
        self._decoder.copy(sources, targets)

    def free(self, slots: Sequence[int]) -> None:
        """Of this rank alone."""
        self._decoder.free(slots)

    def finish(self) -> None:
        """Once this rank has nothing more to do: help the others until none has."""
        self._until(_DONE)

    def _until(self, wanted: int) -> None:
        while (chosen := self._agree(wanted)) != wanted:
            if chosen == _PREFILL:
                self._decoder.prefill([], [])
            else:
                self._decoder.decode([], [])


def with_answers(part: EvalPart, answers: Answers) -> EvalPart:
    """An evaluation with what was generated, each answer in the row of its row's first feature."""
    left, rows = dict(answers), []
    for row in part.rows:
        own = left.pop(row["row_id"], {})
        assert not own.keys() & row.keys(), f"a task gives {sorted(own.keys() & row.keys())} by reduce and by answer"
        rows.append({**row, **own})
    assert not left, "an answer to a row that has no feature"
    return EvalPart(part.sums, rows)
