"""Task `text-classification`: one label, several labels or a number for a text or a pair of texts.

Losses are those of transformers' `AutoModelForSequenceClassification`: cross-entropy (torch's, with class weights and label
smoothing), binary cross-entropy over all labels, mean squared error. They are given as sums, the batch's weights beside them.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from spcore.errors import DataError, RefusalError, unknown
from spcore.interfaces.dataset import Column, Row, Schema
from spcore.interfaces.model import Head, Processor
from spcore.interfaces.task import IGNORE, Batch, BoundTask, EvalPart, Feature, Limits, LossTerm, Ops, Task
from spcore.text import LABEL, TEXT, TEXT_PAIR, TextTask, labelled, places, stacked
from spcore_tasks import figures
from spcore_tasks.labels import Labels, canonical, learn, missing, numbered, values_in

if TYPE_CHECKING:
    import torch

    from spcore_tasks.options import TextClassificationOptions

log = logging.getLogger("slimpajama.spcore_tasks")
_FEW = 20
"""Values that are few in any data."""
MOST_NUMBERS = 50
"""A column of more different numbers is a score."""
TERM = "classification"
SINGLE, MULTI, REGRESSION = "single_label_classification", "multi_label_classification", "regression"


class TextClassification(Task):
    """Kind `task`, `text-classification`."""

    roles = (TEXT, TEXT_PAIR, LABEL)
    portable = True
    lower_is_better = Task.lower_is_better | figures.LOWER_IS_BETTER

    def __init__(self, options: TextClassificationOptions) -> None:
        self.options = options

    def suits(self, schema: Schema, columns: Mapping[str, str]) -> float:
        """See `Task.suits`: labels that repeat, or numbers; the text may have any name."""
        label, found = schema.columns["label"], super().suits(schema, columns)
        if schema.columns["text"].kind == "list":
            return 0.0
        counts = label.counts
        if label.labels is None and label.kind in ("text", "list", "object"):
            if counts is None:
                return min(found, 0.2)
            if len(counts) > max(_FEW, sum(counts.values()) // 2):
                return min(found, 0.2)
        return found and 0.6

    def bind(
        self, processor: Processor, config: Any, schema_or_state: Schema | dict[str, Any], limits: Limits
    ) -> BoundTask:
        """Learn labels and problem type from the label column, or take them from a saved state."""
        state = schema_or_state if isinstance(schema_or_state, dict) else self._learn(schema_or_state.columns["label"])
        bound = _BOUND[state["problem_type"]](processor, limits, state)
        chosen = self.options.metric
        for name in [chosen] if isinstance(chosen, str) else chosen or []:
            if name not in bound.figures:
                raise RefusalError(f"task.metric: {unknown(f'metric of {bound.problem_type}', name, bound.figures)}")
        bound.prefer([chosen] if isinstance(chosen, str) else chosen or [])
        return bound

    def state_of(self, config: Any) -> dict[str, Any] | None:
        """See `Task.state_of`: of models that transformers has as ...ForSequenceClassification."""
        if not any("ForSequenceClassification" in name for name in getattr(config, "architectures", None) or []):
            return None
        names = tuple(str(name) for _, name in sorted(config.id2label.items()))
        # transformers settles it by the labels it meets in training; a row of its own answers has one label, or one number.
        problem = config.problem_type or (REGRESSION if len(names) == 1 else SINGLE)
        if problem == REGRESSION:
            return {"problem_type": REGRESSION}
        return _state(problem, numbered(names, range(len(names))))

    def _learn(self, column: Column) -> dict[str, Any]:
        """The state of a task that is bound to this label column."""
        problem = self._problem(column)
        for name in ("class_weights", "label_smoothing") if problem != SINGLE else ():
            if getattr(self.options, name):
                raise RefusalError(f"task.{name}: goes with {SINGLE}, and this is {problem}; leave it out")
        if problem == REGRESSION:
            if self.options.labels is not None:
                raise RefusalError("task.labels: a regression has no labels; leave it out, or give task.problem_type")
            return {"problem_type": REGRESSION}
        labels = learn(column, self.options.labels)
        if len(labels) < (2 if problem == SINGLE else 1):
            only = f"one value, {labels.names[0]!r}" if labels.names else "no value"
            raise DataError(
                f"label: the column has {only}: nothing to tell apart",
                hint="Map another column: data.columns.label=COLUMN",
            )
        return _state(problem, labels, self._class_weights(labels, column), self.options.label_smoothing)

    def _problem(self, column: Column) -> str:
        asked = self.options.problem_type
        if column.kind == "object":
            raise DataError("label: the column holds objects; labels are texts, numbers, or lists of them")
        if asked == "auto":
            return _problem_of(column, named=self.options.labels is not None)
        if (asked == MULTI) != (column.kind == "list"):
            holds = "lists" if column.kind == "list" else f"no lists, but values of kind {column.kind}"
            raise RefusalError(
                f"task.problem_type {asked}: the label column holds {holds}; several labels go with lists and with nothing else"
            )
        return asked

    def _class_weights(self, labels: Labels, column: Column) -> list[float] | None:
        given = self.options.class_weights
        if given is None:
            return None
        if given == "balanced":
            counts = labels.count(column)
            if counts is None:
                raise RefusalError(
                    "task.class_weights balanced: the data does not count its labels; give a number for each label"
                )
            present = sum(n > 0 for n in counts)
            return [sum(counts) / (present * n) if n else 1.0 for n in counts]
        if isinstance(given, Mapping):
            by_name = {canonical(name): float(w) for name, w in given.items()}
            strange = [name for name in by_name if name not in {canonical(n) for n in labels.names}]
            if strange:
                raise RefusalError(f"task.class_weights: {unknown('label', strange[0], labels.names)}")
            weights = [by_name.get(canonical(name), 1.0) for name in labels.names]
        else:
            weights = [float(w) for w in given]
        if len(weights) != len(labels):
            raise RefusalError(
                f"task.class_weights has {len(weights)} numbers for {len(labels)} labels: {', '.join(labels.names[:12])}"
            )
        if not all(math.isfinite(w) and w >= 0 for w in weights) or not any(weights):
            raise RefusalError(f"task.class_weights {weights}: numbers from 0 on, not all of them 0")
        return weights


def _state(
    problem: str, labels: Labels, class_weights: list[float] | None = None, label_smoothing: float = 0.0
) -> dict[str, Any]:
    return {
        "problem_type": problem, "labels": list(labels.names), "values": dict(labels.values), "integers": list(labels.integers),
        "class_weights": class_weights, "label_smoothing": label_smoothing,
    }  # fmt: skip


def _problem_of(column: Column, *, named: bool) -> str:
    """The problem that a label column poses."""
    if column.kind == "list":
        return MULTI
    if named or column.labels is not None or column.kind not in ("integer", "number"):
        return SINGLE
    found = values_in(column)
    if found is not None and len(found) <= MOST_NUMBERS and all(float(value).is_integer() for value in found):
        return SINGLE
    if column.kind == "integer":
        log.warning(
            "label: more than %d different integers, taken as a score; classes: task.problem_type=%s",
            MOST_NUMBERS,
            SINGLE,
        )
    return REGRESSION


class _Bound(TextTask):
    """What the three problems share. figures: names of the metrics, the deciding one first."""

    terms = (TERM,)
    problem_type: str
    figures: tuple[str, ...]

    def __init__(self, processor: Processor, limits: Limits, state: dict[str, Any]) -> None:
        super().__init__(processor, limits)
        self._state = state
        self.prefer(())
        self.labels = Labels(tuple(state.get("labels", ())), state.get("values", {}), tuple(state.get("integers", ())))
        outputs = {"logits": ("sequence", "label")}
        self.head = Head("sequence", len(self.labels) or 1, outputs, self.labels.names, problem_type=self.problem_type)

    def prefer(self, chosen: Sequence[str]) -> None:
        """Put these metrics first."""
        self.figures = tuple(dict.fromkeys([*chosen, *self.figures]))
        self.metric_names = (*self.figures, "loss", "rows")

    def weights(self, features: Sequence[Feature], targets: Mapping[str, np.ndarray]) -> dict[str, float]:
        """The sum of `targets["weight"]`."""
        return {TERM: float(targets["weight"].sum(dtype=np.float64))}

    def metrics(self, part: EvalPart) -> dict[str, float]:
        """The problem's metrics, loss, rows."""
        found = self.scores(part.rows)
        return {**{name: found[name] for name in self.figures}, **super().metrics(part)}

    def scores(self, rows: Sequence[dict[str, Any]]) -> dict[str, float]:
        """The problem's metrics, over rows with `gold` and `predicted`."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """problem_type; labels, values, integers (see `Labels`); class_weights, label_smoothing."""
        return self._state


class SingleLabel(_Bound):
    """One label a row. Targets: "labels" [S] int64, -100 = none; "weight" [S] float32, what the row counts."""

    problem_type, figures = SINGLE, figures.SINGLE

    def __init__(self, processor: Processor, limits: Limits, state: dict[str, Any]) -> None:
        super().__init__(processor, limits, state)
        given = state["class_weights"]
        self.weighted = given is not None
        self.class_weights = np.array(given if given is not None else [1.0] * len(self.labels), np.float32)
        self.smoothing: float = state["label_smoothing"]

    def label(self, row: Row) -> dict[str, Any]:
        """label: the id."""
        return {"label": np.int64(self.labels.id(row["label"]))} if "label" in row else {}

    def targets(self, features: Sequence[Feature]) -> dict[str, np.ndarray]:
        """See the class."""
        labels = stacked(features, "label", IGNORE)
        return {
            "labels": labels,
            "weight": np.where(labels >= 0, self.class_weights[np.maximum(labels, 0)], np.float32(0)),
        }

    def loss(self, outputs: Mapping[str, torch.Tensor], batch: Batch, ops: Ops) -> list[LossTerm]:
        """Cross-entropy. Over the sum of weights it is torch's `cross_entropy(weight, label_smoothing)`, whose smoothing counts
        the term of each class by that class's own weight."""
        import torch

        labels, weight = batch.targets["labels"], batch.targets["weight"]
        total = -(ops.token_logprobs(outputs, labels) * weight).sum()
        if not self.smoothing:
            return [LossTerm(TERM, total)]
        if self.weighted:
            by_class = torch.from_numpy(self.class_weights).to(weight.device)
            spread = (torch.log_softmax(ops.full(outputs, "logits").float(), -1) * by_class).mean(-1) * (labels >= 0)
        else:
            spread = ops.logprob_mean(outputs) * weight
        return [LossTerm(TERM, (1 - self.smoothing) * total - self.smoothing * spread.sum())]

    def values(self, outputs: Mapping[str, torch.Tensor], batch: Batch, ops: Ops) -> dict[str, Any]:
        """predicted, gold: names; gold None where there is none. scores: probabilities, in the order of the labels."""
        scores = ops.full(outputs, "logits").float().softmax(-1)
        names = self.labels.names
        return {
            "predicted": [names[n] for n in scores.argmax(-1).tolist()],
            "gold": [names[n] if n >= 0 else None for n in batch.targets["labels"].tolist()],
            "scores": scores,
        }

    def scores(self, rows: Sequence[dict[str, Any]]) -> dict[str, float]:
        """See `figures.single_label`."""
        ids = {name: n for n, name in enumerate(self.labels.names)}
        labelled = [(ids[row["gold"]], ids[row["predicted"]]) for row in rows if row["gold"] is not None]
        return figures.single_label([g for g, _ in labelled], [p for _, p in labelled], len(ids))

    def decode(self, outputs: Mapping[str, np.ndarray], batch: Batch) -> list[dict[str, Any]]:
        """label, and score: its probability."""
        logits = outputs["logits"].astype(np.float64)
        shares = np.exp(logits - logits.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        answers = []
        for row, at in places(batch).values():
            best = int(shares[at[0]].argmax())
            answers.append({"row_id": row, "label": self.labels.names[best], "score": float(shares[at[0], best])})
        return answers


class MultiLabel(_Bound):
    """Several labels a row. Targets: "labels" [S, labels] float32, 0 or 1, -100 = none; "weight" [S], the number of labels."""

    problem_type, figures = MULTI, figures.MULTI

    def label(self, row: Row) -> dict[str, Any]:
        """label: 0 or 1 for each label, [labels] float32."""
        if "label" not in row:
            return {}
        if not isinstance(row["label"], list):
            raise DataError("no label" if missing(row["label"]) else f"label {row['label']!r} is not a list")
        ids = [self.labels.id(value) for value in row["label"]]
        if len(set(ids)) < len(ids):
            raise DataError("a label is there twice: lists hold each label once, not a 0 or 1 for every label")
        hot = np.zeros(len(self.labels), np.float32)
        hot[ids] = 1
        return {"label": hot}

    def targets(self, features: Sequence[Feature]) -> dict[str, np.ndarray]:
        """See the class."""
        labels = stacked(features, "label", float(IGNORE), (len(self.labels),))
        return {"labels": labels, "weight": (labels >= 0).sum(-1).astype(np.float32)}

    def loss(self, outputs: Mapping[str, torch.Tensor], batch: Batch, ops: Ops) -> list[LossTerm]:
        """Binary cross-entropy, summed over rows and labels."""
        import torch

        labels, logits = batch.targets["labels"], ops.full(outputs, "logits").float()
        each = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels.clamp(min=0), reduction="none")
        return [LossTerm(TERM, (each * (labels >= 0)).sum())]

    def values(self, outputs: Mapping[str, torch.Tensor], batch: Batch, ops: Ops) -> dict[str, Any]:
        """predicted, gold: lists of names; gold None where there is none. scores: probabilities, in the order of the labels."""
        scores = ops.full(outputs, "logits").float().sigmoid()
        gold = [self._names(row) if row[0] >= 0 else None for row in batch.targets["labels"].tolist()]
        return {"predicted": [self._names(row) for row in scores.tolist()], "gold": gold, "scores": scores}

    def _names(self, shares: Sequence[float]) -> list[str]:
        return [name for name, share in zip(self.labels.names, shares, strict=True) if share > 0.5]

    def scores(self, rows: Sequence[dict[str, Any]]) -> dict[str, float]:
        """See `figures.multi_label`."""
        labelled = [row for row in rows if row["gold"] is not None]
        gold, predicted = (
            np.array([[name in row[which] for name in self.labels.names] for row in labelled], np.int64)
            for which in ("gold", "predicted")
        )
        return figures.multi_label(gold, predicted)

    def decode(self, outputs: Mapping[str, np.ndarray], batch: Batch) -> list[dict[str, Any]]:
        """labels: names of those above 0.5; scores: probabilities by name."""
        shares = (1 + np.tanh(outputs["logits"].astype(np.float64) / 2)) / 2  # the sigmoid, without overflow
        answers = []
        for row, at in places(batch).values():
            own = shares[at[0]].tolist()
            scores = dict(zip(self.labels.names, own, strict=True))
            answers.append({"row_id": row, "labels": self._names(own), "scores": scores})
        return answers


class Regression(_Bound):
    """A number a row. Targets: "labels" [S] float32; "weight" [S], 1 where the row has a number."""

    problem_type, figures = REGRESSION, figures.REGRESSION

    def label(self, row: Row) -> dict[str, Any]:
        """label: the number, float32."""
        if "label" not in row:
            return {}
        if missing(row["label"]):
            raise DataError("no label")
        try:
            number = float(row["label"])
        except (TypeError, ValueError):
            raise DataError(f"label {row['label']!r} is not a number") from None
        if not math.isfinite(number):
            raise DataError(f"label {row['label']!r} is not a finite number")
        return {"label": np.float32(number)}

    def targets(self, features: Sequence[Feature]) -> dict[str, np.ndarray]:
        """See the class."""
        return {"labels": stacked(features, "label", 0.0), "weight": labelled(features, "label")}

    def loss(self, outputs: Mapping[str, torch.Tensor], batch: Batch, ops: Ops) -> list[LossTerm]:
        """Squared error, summed over rows."""
        off = ops.full(outputs, "logits").float().squeeze(-1) - batch.targets["labels"]
        return [LossTerm(TERM, (off.square() * batch.targets["weight"]).sum())]

    def values(self, outputs: Mapping[str, torch.Tensor], batch: Batch, ops: Ops) -> dict[str, Any]:
        """predicted, gold: numbers; gold None where there is none."""
        pairs = zip(batch.targets["labels"].tolist(), batch.targets["weight"].tolist(), strict=True)
        return {
            "predicted": ops.full(outputs, "logits").float().squeeze(-1),
            "gold": [number if weight else None for number, weight in pairs],
        }

    def scores(self, rows: Sequence[dict[str, Any]]) -> dict[str, float]:
        """See `figures.regression`."""
        labelled = [(row["gold"], row["predicted"]) for row in rows if row["gold"] is not None]
        return figures.regression([g for g, _ in labelled], [p for _, p in labelled])

    def decode(self, outputs: Mapping[str, np.ndarray], batch: Batch) -> list[dict[str, Any]]:
        """score: the number."""
        return [{"row_id": a["row_id"], "score": a["logits"]} for a in super().decode(outputs, batch)]


_BOUND: dict[str, type[_Bound]] = {SINGLE: SingleLabel, MULTI: MultiLabel, REGRESSION: Regression}
