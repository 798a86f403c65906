"""Task `text-classification`: one label, several labels, or a number, for one text or a pair.

The losses are transformers' own (cross-entropy, binary cross-entropy with logits, mean squared error), as sums with weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from spcore.errors import DataError, RefusalError
from spcore.interfaces.dataset import Column, Row, Schema
from spcore.interfaces.model import Head, Processor
from spcore.interfaces.task import IGNORE, Batch, BoundTask, EvalPart, Feature, Limits, LossTerm, Ops, Task
from spcore.text import LABEL, TEXT, TEXT_PAIR, TextTask, feature_rows
from spcore_tasks import figures
from spcore_tasks.labels import MOST_CLASSES, Labels, named, number, problem_type, values_of
from spcore_tasks.options import ClassificationOptions

if TYPE_CHECKING:
    import torch

_OUTPUTS = {"logits": ("sequence", "label")}


class TextClassification(Task):
    """Binds to one of three kinds of label."""

    roles = (TEXT, TEXT_PAIR, LABEL)
    lower_is_better = frozenset({"loss", "mse"})

    def __init__(self, options: ClassificationOptions) -> None:
        self.options = options

    def bind(self, processor: Processor, config: Any, schema_or_state: Schema | dict[str, Any], limits: Limits) -> BoundTask:
        """See `Task.bind`."""
        state = self._state(schema_or_state) if isinstance(schema_or_state, Schema) else schema_or_state
        kinds: dict[str, type[_Classification]] = {c.problem_type: c for c in (SingleLabel, MultiLabel, Regression)}
        return kinds[state["problem_type"]](processor, limits, state)

    def _state(self, schema: Schema) -> dict[str, Any]:
        column = schema.columns["label"]
        kind = self.options.problem_type if self.options.problem_type != "auto" else problem_type(column)
        state: dict[str, Any] = {"problem_type": kind, "label_smoothing": self.options.label_smoothing, "metric": self.options.metric}
        if kind == "regression":
            if self.options.class_weights or self.options.labels or self.options.label_smoothing:
                raise RefusalError("task: labels, class_weights and label_smoothing are of classes, and this is a regression")
            return state
        values = values_of(column)
        if len(values) < 2 and kind == "single_label_classification":
            raise DataError(f"label: {len(values)} different values ({', '.join(values) or 'none'}); at least 2 are needed")
        if len(values) > MOST_CLASSES:
            raise DataError(f"label: {len(values)} different values, at most {MOST_CLASSES} are classes")
        names = named(values, self.options.labels)
        state |= {"values": values, "labels": names, "declared": column.labels is not None}
        state["class_weights"] = self._class_weights(kind, names, values, column)
        return state

    def _class_weights(self, kind: str, names: Sequence[str], values: Sequence[str], column: Column) -> list[float] | None:
        """Weights by id."""
        asked = self.options.class_weights
        if asked is None:
            return None
        if kind != "single_label_classification":
            raise RefusalError(f"task.class_weights: not for {kind}")
        if self.options.label_smoothing:
            raise RefusalError("task.class_weights and task.label_smoothing: together they have no agreed meaning; leave one out")
        if asked == "balanced":
            if column.counts is None:
                raise DataError("task.class_weights balanced: the data set does not say how many rows each label has")
            counts = [0] * len(names)
            lookup = Labels(values, names, declared=column.labels is not None)
            for value, rows in column.counts.items():
                try:
                    counts[lookup.id(value)] += rows
                except DataError:
                    continue  # missing labels: their rows are dropped, and counted where they are
            present = sum(1 for n in counts if n)
            return [sum(counts) / (present * n) if n else 0.0 for n in counts]
        lost = [name for name in asked if name not in names]
        if lost:
            raise DataError(f"task.class_weights: no label {lost[0]!r}; labels: {', '.join(names)}")
        return [float(asked.get(name, 1.0)) for name in names]


class _Classification(TextTask):
    """What the three kinds share. state: JSON, see `TextClassification`."""

    problem_type: str
    terms = ("classification",)
    fallback_metric = "accuracy"

    def __init__(self, processor: Processor, limits: Limits, state: Mapping[str, Any]) -> None:
        super().__init__(processor, limits)
        self._state = dict(state)
        names = tuple(state.get("labels", ()))
        self.head = Head("sequence", max(1, len(names)), _OUTPUTS, labels=names, problem_type=self.problem_type)
        self.primary_metric: str = state.get("metric") or self.fallback_metric
        self.labels = Labels(state["values"], names, declared=state["declared"]) if names else None

    def state(self) -> dict[str, Any]:
        """See `BoundTask.state`."""
        return dict(self._state)

    def reduce(self, outputs: Mapping[str, torch.Tensor], batch: Batch, ops: Ops) -> EvalPart:
        """Rows of predictions and gold; the loss's sum and weight."""
        logits = ops.full(outputs, "logits").float().cpu().numpy()
        gold = batch.targets["label"].cpu().numpy()
        loss = sum(float(term.sum) for term in self.loss(outputs, batch, ops))
        rows = feature_rows(batch, lambda n: self.judged(logits[n], gold[n]))
        return EvalPart({"loss": loss, "weight": batch.weights["classification"]}, rows)

    def metrics(self, part: EvalPart) -> dict[str, float]:
        """The kind's figures, the mean loss, and the rows they are over."""
        weight = part.sums["weight"]
        return {**self.scores(part.rows), "loss": part.sums["loss"] / weight if weight else 0.0, "rows": len(part.rows)}

    def decode(self, outputs: Mapping[str, np.ndarray], batch: Batch) -> list[dict[str, Any]]:
        """See `BoundTask.decode`."""
        logits = np.asarray(outputs["logits"], np.float64)
        rows = feature_rows(batch, lambda n: self.answer(logits[n]))
        return [{k: v for k, v in row.items() if k != "feature_id"} for row in rows]

    def judged(self, logits: np.ndarray, gold: np.ndarray) -> dict[str, Any]:
        """A row of an evaluation."""
        raise NotImplementedError

    def scores(self, rows: list[dict[str, Any]]) -> dict[str, float]:
        """Metrics over all rows."""
        raise NotImplementedError

    def answer(self, logits: np.ndarray) -> dict[str, Any]:
        """What a person reads."""
        raise NotImplementedError


class SingleLabel(_Classification):
    """One label of several: cross-entropy."""

    problem_type = "single_label_classification"

    def label_arrays(self, row: Row) -> dict[str, np.ndarray]:
        """The label's id."""
        assert self.labels is not None
        return {"label": np.array(self.labels.id(row["label"]))} if "label" in row else {}

    def targets(self, features: Sequence[Feature]) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        """Ids, and each row's class weight."""
        ids = np.array([IGNORE if f.filler or "label" not in f.arrays else int(f.arrays["label"]) for f in features], np.int64)
        by_class = np.asarray(self._state.get("class_weights") or np.ones(self.head.size), np.float32)
        weight = np.where(ids >= 0, by_class[np.maximum(ids, 0)], 0).astype(np.float32)
        return {"label": ids, "weight": weight}, {"classification": float(weight.sum(dtype=np.float64))}

    def loss(self, outputs: Mapping[str, torch.Tensor], batch: Batch, ops: Ops) -> list[LossTerm]:
        """Weighted, smoothed cross-entropy, as torch.nn.CrossEntropyLoss."""
        label, weight = batch.targets["label"], batch.targets["weight"]
        logprobs = ops.token_logprobs(outputs, label)
        smoothing = float(self._state.get("label_smoothing") or 0)
        if smoothing:
            logprobs = (1 - smoothing) * logprobs + smoothing * ops.logprob_mean(outputs)
        return [LossTerm("classification", -(logprobs * weight).sum())]

    def judged(self, logits: np.ndarray, gold: np.ndarray) -> dict[str, Any]:
        """Labels by name, and the prediction's probability."""
        best = int(logits.argmax())
        name = self.head.labels[int(gold)] if gold >= 0 else None
        return {"predicted": self.head.labels[best], "gold": name, "score": float(_softmax(logits.astype(np.float64))[best])}

    def scores(self, rows: list[dict[str, Any]]) -> dict[str, float]:
        """See `figures.single`."""
        ids = {name: n for n, name in enumerate(self.head.labels)}
        kept = [row for row in rows if row["gold"] is not None]
        return figures.single([ids[row["predicted"]] for row in kept], [ids[row["gold"]] for row in kept], len(ids))

    def answer(self, logits: np.ndarray) -> dict[str, Any]:
        """{"label", "score"}: the softmax probability, as transformers' pipeline has it."""
        best = int(logits.argmax())
        return {"label": self.head.labels[best], "score": float(_softmax(logits)[best])}


class MultiLabel(_Classification):
    """Any number of labels: binary cross-entropy for each."""

    problem_type = "multi_label_classification"
    fallback_metric = "f1_micro"

    def label_arrays(self, row: Row) -> dict[str, np.ndarray]:
        """0 or 1 for each label."""
        assert self.labels is not None
        if "label" not in row:
            return {}
        flags = np.zeros(self.head.size, np.int64)
        flags[self.labels.ids(row["label"])] = 1
        return {"label": flags}

    def targets(self, features: Sequence[Feature]) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        """[features, labels] of 0 and 1, -100 for a row without labels; every label of a row counts one."""
        none = np.full(self.head.size, IGNORE, np.int64)
        flags = np.stack([none if f.filler or "label" not in f.arrays else f.arrays["label"] for f in features])
        return {"label": flags}, {"classification": float((flags >= 0).sum())}

    def loss(self, outputs: Mapping[str, torch.Tensor], batch: Batch, ops: Ops) -> list[LossTerm]:
        """Binary cross-entropy with logits, as torch.nn.BCEWithLogitsLoss."""
        from torch.nn.functional import binary_cross_entropy_with_logits

        flags, logits = batch.targets["label"], ops.full(outputs, "logits").float()
        each = binary_cross_entropy_with_logits(logits, flags.clamp(min=0).float(), reduction="none")
        return [LossTerm("classification", (each * (flags >= 0)).sum())]

    def judged(self, logits: np.ndarray, gold: np.ndarray) -> dict[str, Any]:
        """Labels above one half, by name."""
        names = self.head.labels
        return {
            "predicted": [n for n, z in zip(names, logits, strict=True) if z > 0],
            "gold": [n for n, g in zip(names, gold, strict=True) if g > 0] if (gold >= 0).all() else None,
        }

    def scores(self, rows: list[dict[str, Any]]) -> dict[str, float]:
        """See `figures.multi`."""
        kept = [row for row in rows if row["gold"] is not None]
        flags = [np.array([[name in row[what] for name in self.head.labels] for row in kept], int) for what in ("predicted", "gold")]
        return figures.multi(flags[0], flags[1])

    def answer(self, logits: np.ndarray) -> dict[str, Any]:
        """{"labels", "scores"}: the labels above one half, and every label's sigmoid."""
        scores = 1 / (1 + np.exp(-logits))
        found = {name: float(s) for name, s in zip(self.head.labels, scores, strict=True)}
        return {"labels": [name for name, s in found.items() if s > 0.5], "scores": found}


class Regression(_Classification):
    """A number: mean squared error."""

    problem_type = "regression"
    fallback_metric = "pearson_spearman"

    def label_arrays(self, row: Row) -> dict[str, np.ndarray]:
        """The number."""
        return {"label": np.array(number(row["label"]))} if "label" in row else {}

    def targets(self, features: Sequence[Feature]) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        """Numbers, and which rows have one."""
        counts = np.array([not f.filler and "label" in f.arrays for f in features])
        values = [float(f.arrays["label"]) if c else 0.0 for f, c in zip(features, counts, strict=True)]
        return {"label": np.array(values, np.float32), "counts": counts.astype(np.float32)}, {"classification": float(counts.sum())}

    def loss(self, outputs: Mapping[str, torch.Tensor], batch: Batch, ops: Ops) -> list[LossTerm]:
        """Squared error, as torch.nn.MSELoss."""
        value = ops.full(outputs, "logits").float().squeeze(-1)
        return [LossTerm("classification", ((value - batch.targets["label"]) ** 2 * batch.targets["counts"]).sum())]

    def judged(self, logits: np.ndarray, gold: np.ndarray) -> dict[str, Any]:
        """Both numbers."""
        return {"predicted": float(logits[0]), "gold": float(gold)}

    def scores(self, rows: list[dict[str, Any]]) -> dict[str, float]:
        """See `figures.regression`."""
        return figures.regression(np.array([row["predicted"] for row in rows]), np.array([row["gold"] for row in rows]))

    def answer(self, logits: np.ndarray) -> dict[str, Any]:
        """{"score"}: the number."""
        return {"score": float(logits[0])}


def _softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max())
    result: np.ndarray = shifted / shifted.sum()
    return result
