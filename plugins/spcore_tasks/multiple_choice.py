"""Task `multiple-choice`: the right one of several endings, answers or causes.

Each choice is a sequence of its own, the context and the choice as a pair; the model gives it one score, and the scores of a question's
choices are the logits of a softmax, as in transformers' `AutoModelForMultipleChoice`. Questions may have different numbers of choices.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from spcore.errors import DataError, RefusalError
from spcore.interfaces.dataset import Column, Row, Schema
from spcore.interfaces.model import Head, Processor
from spcore.interfaces.task import IGNORE, Batch, BoundTask, EvalPart, Feature, Limits, LossTerm, Ops, Role, Task
from spcore.rows import is_missing
from spcore.text import TextTask, mean_loss, places, stacked, text_of
from spcore_tasks.labels import canonical

if TYPE_CHECKING:
    import torch

    from spcore_tasks.options import MultipleChoiceOptions

TERM = "choice"
CONTEXT = Role(
    "context",
    guesses=(
        "ctx_a",
        "sent1",
        "premise",
        "article",
        "passage",
        "paragraph",
        "text",
        "sentence",
        "ctx",
        "question",
        "query",
        "goal",
    ),
)
QUESTION = Role("question", required=False, guesses=("query",))
START = Role("start", required=False, guesses=("sent2", "ctx_b"))
CHOICES = Role(
    "choices", kind="any", guesses=("endings", "options", "candidates", "alternatives"),
    series=("ending", "choice", "option", "sol", "answer", "alternative"),
)  # fmt: skip
RIGHT = Role(
    "label", kind="label", target=True, guesses=("answer", "answerKey", "answer_key", "gold", "correct", "target")
)


class MultipleChoice(Task):
    """Kind `task`, `multiple-choice`."""

    roles = (CONTEXT, QUESTION, START, CHOICES, RIGHT)
    portable = True

    def __init__(self, options: MultipleChoiceOptions) -> None:
        self.options = options

    def suits(self, schema: Schema, columns: Mapping[str, str]) -> float:
        """See `Task.suits`: other tasks have no choices."""
        return 0.8 if super().suits(schema, columns) else 0.0

    def bind(
        self, processor: Processor, config: Any, schema_or_state: Schema | dict[str, Any], limits: Limits
    ) -> BoundTask:
        """Learn from the labels whether choices are numbered from 0 or from 1. Raises RefusalError for packs."""
        if limits.pack is not None:
            raise RefusalError(f"data.pack {limits.pack}: a question has several sequences; leave data.pack out")
        if isinstance(schema_or_state, dict):
            return BoundMultipleChoice(processor, limits, schema_or_state)
        choices, label = (schema_or_state.columns[name] for name in ("choices", "label"))
        if choices.kind not in ("list", "object"):
            raise DataError(
                f"choices: the column holds {choices.kind} values; expected a list in each row",
                hint='Map a column of lists, or several columns: data.columns.choices="COLUMN, COLUMN"',
            )
        return BoundMultipleChoice(processor, limits, {"first": self._first(label)})

    def _first(self, label: Column) -> int:
        if self.options.first is not None:
            return self.options.first
        numbers = {canonical(value) for value in label.counts or ()}
        return int(label.labels is None and "1" in numbers and "0" not in numbers)


class BoundMultipleChoice(TextTask):
    """Feature arrays: tokens [choices, length]; "label": the right one's number from 0. Targets: "labels" [S] int64, the same for each
    sequence of a question, -100 = none."""

    terms = (TERM,)
    head = Head("sequence", 1, {"logits": ("sequence", "label")})
    metric_names = ("accuracy", "loss", "rows")

    def __init__(self, processor: Processor, limits: Limits, state: dict[str, Any]) -> None:
        super().__init__(processor, limits)
        self.first: int = state["first"]

    def encode(self, row: Row) -> tuple[dict[str, np.ndarray], int]:
        """See `TextTask.encode`: the context, with the question after it, and each choice, with what begins all of them before it."""
        context = text_of(row, "context")
        question, start = (
            "" if is_missing(row.get(name)) else f"{row[name]}".strip() for name in ("question", "start")
        )
        choices = [f"{start} {choice}".strip() for choice in choices_of(row)[0]]
        return self.encode_texts([(f"{context} {question}".strip(), choice) for choice in choices])

    def label(self, row: Row) -> dict[str, Any]:
        """label: the right choice's number, from 0."""
        return {"label": np.int64(self._right(row))} if "label" in row else {}

    def _right(self, row: Row) -> int:
        value, (choices, keys) = row["label"], choices_of(row)
        if is_missing(value):
            raise DataError("no label")
        text = str(value).strip()
        if text in keys:
            return keys.index(text)
        if text in choices:
            return choices.index(text)
        number = canonical(value)
        if number == "-1":  # what unlabelled test splits hold
            raise DataError("no label")
        if number.isdecimal():
            at = int(number) - self.first
        elif len(text) == 1 and "A" <= text.upper() <= "Z":
            at = ord(text.upper()) - ord("A")
        else:
            raise DataError("the label is no choice: neither its number, nor its letter, nor its text")
        if not 0 <= at < len(choices):
            raise DataError(f"label {text} of {len(choices)} choices, numbered from {self.first}")
        return at

    def targets(self, features: Sequence[Feature]) -> dict[str, np.ndarray]:
        """See the class."""
        return {"labels": stacked(features, "label", IGNORE)}

    def weights(self, features: Sequence[Feature], targets: Mapping[str, np.ndarray]) -> dict[str, float]:
        """The number of questions with a label."""
        return {TERM: float((stacked(features, "label", IGNORE) >= 0).sum())}

    def loss(self, outputs: Mapping[str, torch.Tensor], batch: Batch, ops: Ops) -> list[LossTerm]:
        """Cross-entropy over a question's choices, summed over questions."""
        scores = ops.full(outputs, "logits").float().squeeze(-1)
        labels = batch.targets["labels"]
        total = scores.sum() * 0
        for first, stop in _questions(batch):
            wanted = labels[first]
            # What has no label counts 0, and is asked for its first choice, so that no value has to leave its device.
            total = total - scores[first:stop].log_softmax(-1)[wanted.clamp(min=0)] * (wanted >= 0)
        return [LossTerm(TERM, total)]

    def values(self, outputs: Mapping[str, torch.Tensor], batch: Batch, ops: Ops) -> dict[str, Any]:
        """score: each choice's; gold: of each the right one's number."""
        return {"score": ops.full(outputs, "logits").float().squeeze(-1), "gold": batch.targets["labels"]}

    def reduce(self, outputs: Mapping[str, torch.Tensor], batch: Batch, ops: Ops) -> EvalPart:
        """Rows: predicted, gold: numbers from 0, gold None where there is none; scores: logits."""
        part = super().reduce(outputs, batch, ops)
        rows = []
        for row in part.rows:
            scores, gold = row["score"], row["gold"][0]
            best = int(np.argmax(scores))
            told = {"predicted": best, "gold": gold if gold >= 0 else None, "scores": scores}
            rows.append({"feature_id": row["feature_id"], "row_id": row["row_id"], **told})
        return EvalPart(part.sums, rows)

    def metrics(self, part: EvalPart) -> dict[str, float]:
        """accuracy: share of questions whose right choice has the highest score; loss; rows: questions."""
        labelled = [row["predicted"] == row["gold"] for row in part.rows if row["gold"] is not None]
        return {
            "accuracy": sum(labelled) / max(1, len(labelled)), "loss": mean_loss(part), "rows": float(len(part.rows)),
        }  # fmt: skip

    def decode(self, outputs: Mapping[str, np.ndarray], batch: Batch) -> list[dict[str, Any]]:
        """choice: the number, from 0, of the one with the highest score; scores: probabilities of all."""
        answers = []
        for row, at in places(batch).values():
            logits = outputs["logits"][at, 0].astype(np.float64)
            shares = np.exp(logits - logits.max())
            shares /= shares.sum()
            answers.append({"row_id": row, "choice": int(shares.argmax()), "scores": shares.tolist()})
        return answers

    def combine(self, answers: Sequence[dict[str, Any]], row: Row) -> dict[str, Any]:
        """choice, text, score: the choice's number, from 0, its text and its probability; scores: of all choices."""
        (answer,) = answers
        chosen, scores = answer["choice"], answer["scores"]
        text = choices_of(row)[0][chosen]
        return {"row_id": answer["row_id"], "choice": chosen, "text": text, "score": scores[chosen], "scores": scores}

    def state(self) -> dict[str, Any]:
        """first: the number of the first choice in the data's labels."""
        return {"first": self.first}


def choices_of(row: Row) -> tuple[list[str], list[str]]:
    """The texts of a row's choices, and what labels call them where the row says it ({"text": [...], "label": [...]}, or a list of such
    pairs). Raises DataError for fewer than two, or one without text."""
    value = row.get("choices")
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        value = {name: [item.get(name) for item in value] for name in ("text", "label")}
    keys: list[str] = []
    if isinstance(value, dict):
        keys = [str(key) for key in value.get("label") or [] if key is not None]
        value = value.get("text")
    if not isinstance(value, list):
        raise DataError("no choices" if is_missing(value) else "the choices are no list")
    if len(value) < 2:
        raise DataError("fewer than two choices")
    return [text_of({"choice": choice}, "choice") for choice in value], keys


def _questions(batch: Batch) -> Iterator[tuple[int, int]]:
    """(first, last + 1) sequence of each question; filler that follows each other is taken together, as it counts nothing."""
    ids = batch.feature_ids.ravel()  # one a sequence, or a segment where an engine feeds them end to end
    cuts = [0, *(np.flatnonzero(np.diff(ids)) + 1).tolist(), len(ids)]
    yield from itertools.pairwise(cuts)
