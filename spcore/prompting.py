"""Rows that are answered by generating: evaluations in training and of saved models, and predictions.

Requests are made once, before anything starts, so a row that cannot be asked is refused then. Equal prompts are numbered over the whole
data set, so an answer depends on the data alone and not on who generates it beside what.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from spcore.errors import DataError
from spcore.generation.checks import check_request
from spcore.interfaces.dataset import Row
from spcore.interfaces.model import LanguageModel, Steps
from spcore.interfaces.runtime import Crops, Decodes, Generates, GenerationRequest
from spcore.interfaces.task import EvalPart, Prompts
from spcore.writing import write

if TYPE_CHECKING:
    from spcore.features import FeatureStore
    from spcore.rows import RoleSource

_CHUNK = 1024
_DEMANDED = ("suppress", "forced_first")
"""What a model's own files say that holds whatever it is asked; how answers are searched for or drawn is the task's."""
_DONE, _DECODE, _PREFILL = range(3)
Answers = dict[int, dict[str, Any]]
"""row id -> what `Prompts.answer` gave, and "finish"."""


@dataclass(frozen=True)
class Writer:
    """What answers requests. model: that writes, whose own files may demand something of every text; None: not known."""

    generator: Generates
    model: LanguageModel | None = None


def requests(
    task: Prompts, rows: Iterable[Row], place: Callable[[int], str], model: LanguageModel | None
) -> list[GenerationRequest]:
    """What to generate for each row, equal prompts numbered. place: what a row is called. model: see `Writer`. Raises DataError that
    names the row."""
    own: Mapping[str, Any] = model.generation() if isinstance(model, Steps) else {}
    demanded = {name: own[name] for name in _DEMANDED if name in own}
    made: list[GenerationRequest] = []
    seen: Counter[tuple[int, ...]] = Counter()
    for n, row in enumerate(rows):
        try:
            asked = task.request(row)
        except DataError as error:
            raise DataError(f"{place(n)}: {error.message}", hint=error.hint) from error
        assert asked.n == 1, "a task asks for one answer a row"
        made.append(replace(asked, variant=seen[asked.ids], **demanded))
        seen[asked.ids] += 1
    return made


class Questions:
    """What is generated for a data set's rows. rows: ids of those that have features, in order, `limit` at most (None: all). model: see
    `Writer`."""

    def __init__(
        self, source: RoleSource, task: Prompts, store: FeatureStore, *, limit: int | None, model: LanguageModel | None
    ) -> None:
        self.source, self.task = source, task
        self.rows: list[int] = list(dict.fromkeys(store.rows.tolist()))[:limit]
        chunks = (self.rows[at : at + _CHUNK] for at in range(0, len(self.rows), _CHUNK))
        found = (row for chunk in chunks for row in source.read(chunk))
        self.requests = requests(task, found, lambda n: source.place(self.rows[n]), model)

    def share(self, rank: int, size: int) -> list[int]:
        """Positions that a data rank answers, longest prompts first: so that ranks end about together."""
        lengths = np.array([len(asked.ids) for asked in self.requests])
        ranked: list[int] = np.argsort(-lengths, kind="stable").tolist()
        return ranked[rank::size]

    def check(self, capacity: tuple[int, int, int], start: int | None) -> None:
        """Raise RefusalError for a request that can never run on a decoder of that capacity. start: see `decoder_start`."""
        for asked in self.requests:
            check_request(asked, capacity, start)

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
    written = [samples[0] for samples in write(generator, task.processor, asked)]
    return [{**task.answer(row, one.text), "finish": one.finish} for row, one in zip(rows, written, strict=True)]


def decoder_start(model: LanguageModel) -> int | None:
    """The token that an encoder-decoder's answers begin with; None for a decoder."""
    assert isinstance(model, Steps), "`assemble` refuses models that do not step"
    start: int | None = model.generation().get("decoder_start")
    return start


class Together:
    """Lets ranks that have unequal work use a decoder whose `prefill` and `decode` are collective. Before each the ranks agree on which it
    is; one that wants the other, or nothing more, takes part with no slots. agree: the largest of all ranks' codes, see `Engine.agree`.
    """

    def __init__(self, decoder: Decodes, agree: Callable[[int], int]) -> None:
        self._decoder, self._agree = decoder, agree
        self.capacity = decoder.capacity
        if isinstance(decoder, Crops):  # of this rank alone
            self.crop = decoder.crop

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
