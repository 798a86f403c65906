"""How likely a model holds given continuations: batches of its runner's `Scores`. No harness and no figure is known here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from spcore.bars import progress
from spcore.errors import DataError, RefusalError
from spcore.fitting import ids_of
from spcore.interfaces.harness import Text
from spcore.interfaces.model import Processor
from spcore.interfaces.runtime import Forwards, Likelihood, Runner, Scores
from spcore.interfaces.task import Batch


@dataclass(frozen=True)
class Continuation:
    """What follows what. before: ids [n], 1 or more; ids: [m], 1 or more."""

    before: tuple[int, ...]
    ids: tuple[int, ...]

    @property
    def fed(self) -> tuple[int, ...]:
        """What the model reads: all but the last, which is only asked for."""
        return (*self.before, *self.ids)[:-1]


def continuation(processor: Processor, before: Text, text: Text, what: str, most: int | None) -> Continuation:
    """Of texts, the tokens that the two together have beyond the first: a word may not be cut as it is by itself. what: its name in errors.
    most: positions of the model. Raises UserError, DataError, RefusalError."""
    ids = ids_of(processor, before, f"the prompt of {what}")
    if isinstance(text, str):
        if not isinstance(before, str):
            raise DataError(f"{what}: a text after token ids; give both as texts or both as ids")
        own = ids_of(processor, before + text, what)[len(ids) :]
    else:
        own = ids_of(processor, text, what)
    if not own:
        raise DataError(f"{what}: {text!r} adds no token to its prompt, so there is nothing to score")
    found = Continuation(ids, own)
    if most is not None and len(found.fed) > most:
        raise RefusalError(
            f"{what}: {len(ids)} tokens and {len(own)} after them do not fit the model's {most} positions",
            hint="Shorten its prompt",
        )
    return found


def scored(runner: Runner, processor: Processor, asked: Sequence[Continuation]) -> list[Likelihood]:
    """In the order asked. What several ask for behind the same tokens is computed once. Raises RefusalError for a runner that cannot."""
    if not isinstance(runner, Scores) or not isinstance(runner, Forwards) or "score" not in runner.capabilities:
        given = ", ".join(sorted(runner.capabilities)) or "nothing"
        raise RefusalError(f"the runtime gives {given} of this model, and this needs 'score', which decoders have")
    rows: dict[tuple[int, ...], list[int]] = {}
    for number, one in enumerate(asked):
        rows.setdefault(one.fed, []).append(number)
    found: dict[int, Likelihood] = {}
    with progress("scoring", len(asked)) as done:
        for texts in _batches(sorted(rows, key=len, reverse=True), runner.batch_tokens):
            numbers = [number for text in texts for number in rows[text]]
            wanted = [
                (row, len(text) - len(asked[number].ids) + n, token)
                for row, text in enumerate(texts)
                for number in rows[text]
                for n, token in enumerate(asked[number].ids)
            ]
            table = np.array(wanted, np.int64)
            logprobs, likeliest = runner.score(_batch(texts, processor), table[:, :2], table[:, 2])
            at = 0
            for number in numbers:
                own = slice(at, at := at + len(asked[number].ids))
                total = float(logprobs[own].sum(dtype=np.float64))
                found[number] = Likelihood(total, bool(likeliest[own].all()), len(asked[number].ids))
            done(len(found))
    return [found[number] for number in range(len(asked))]


def _batches(texts: Sequence[tuple[int, ...]], tokens: int) -> Iterator[Sequence[tuple[int, ...]]]:
    """Neighbours in length, of at most so many padded tokens; texts: longest first."""
    at = 0
    while at < len(texts):
        chosen = texts[at : at + max(1, tokens // len(texts[at]))]
        yield chosen
        at += len(chosen)


def _batch(texts: Sequence[tuple[int, ...]], processor: Processor) -> Batch:
    """Texts, longest first, padded on the right."""
    shape = (len(texts), len(texts[0]))
    inputs = {
        "input_ids": np.full(shape, processor.fill["input_ids"], np.int64),
        "attention_mask": np.zeros(shape, np.int64),
    }
    for row, text in enumerate(texts):
        inputs["input_ids"][row, : len(text)] = text
        inputs["attention_mask"][row, : len(text)] = 1
    numbers = np.arange(len(texts))[:, None]
    return Batch(inputs, {}, numbers, numbers, {})
