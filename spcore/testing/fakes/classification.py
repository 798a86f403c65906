"""Tasks with labels: one with a built-in head and no packs, one with a custom head, two loss terms and packs."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from spcore.errors import DataError, RefusalError, unknown
from spcore.interfaces.dataset import Row, Schema
from spcore.interfaces.model import Head, Processor
from spcore.interfaces.task import IGNORE, Batch, BoundTask, EvalPart, Feature, Limits, LossTerm, Ops, Role, Task
from spcore.testing.fakes.collating import FakeBound, per_feature, places

if TYPE_CHECKING:
    import torch


class FakeClassification(Task):
    """Kind `task`: a label for a text. Refuses packs."""

    roles = (Role("text", guesses=("sentence",)), Role("label", kind="label", target=True))

    def bind(
        self, processor: Processor, config: Any, schema_or_state: Schema | dict[str, Any], limits: Limits
    ) -> BoundTask:
        """Bind to the label column's names, or to those of a saved state."""
        if limits.pack is not None:
            raise RefusalError(
                "task 'fake-classification': data.pack is given, and its head reads whole sequences; leave it out"
            )
        return _Classification(processor, limits, _labels(schema_or_state))


class FakeTwoTerms(Task):
    """Kind `task`: a label for a text and one for every token (its id modulo the labels), through a head of its own."""

    roles = FakeClassification.roles

    def bind(
        self, processor: Processor, config: Any, schema_or_state: Schema | dict[str, Any], limits: Limits
    ) -> BoundTask:
        """Bind to the label column's names, or to those of a saved state."""
        return _TwoTerms(processor, limits, _labels(schema_or_state))


def _labels(given: Schema | dict[str, Any]) -> tuple[str, ...]:
    if isinstance(given, dict):
        return tuple(given["labels"])
    column = given.columns["label"]
    names = column.labels or tuple(sorted(column.counts or ()))
    if not names:
        raise DataError("column 'label' has no names of labels", hint="Give a column with few different values")
    return names


class _Classification(FakeBound):
    terms: tuple[str, ...] = ("rows",)
    metric_names: tuple[str, ...] = ("accuracy", "loss")

    def __init__(self, processor: Processor, limits: Limits, labels: tuple[str, ...]) -> None:
        super().__init__(processor, limits)
        self.labels = labels
        self.head = self._head()

    def _head(self) -> Head:
        outputs = {"logits": ("sequence", "label")}
        return Head("sequence", len(self.labels), outputs, self.labels, problem_type="single_label_classification")

    def featurize(self, row: Row) -> list[Feature]:
        """One feature. Raises DataError for a text that is empty and a label that is not known."""
        if not isinstance(row["text"], str) or not row["text"].strip():
            raise DataError("the text is empty")
        encoding = self.processor.encode(row["text"], max_length=self.limits.max_length)
        arrays = {"input_ids": encoding.arrays["input_ids"]}
        if "label" in row:
            arrays["label"] = np.array(self._label(row["label"]), np.int64)
        return [Feature(0, 0, arrays, len(arrays["input_ids"]), truncated=encoding.truncated)]

    def _label(self, value: Any) -> int:
        if isinstance(value, int) and 0 <= value < len(self.labels):
            return value
        if str(value) in self.labels:
            return self.labels.index(str(value))
        raise DataError(unknown("label", str(value), self.labels))

    def collate(self, groups: Sequence[Sequence[Feature]], length: int) -> Batch:
        """targets: "labels" [S]; in packs one a segment."""
        rows = self.rows(groups, length)
        labels = np.array([IGNORE if f.filler else f.arrays.get("label", IGNORE) for f in rows.features], np.int64)
        return rows.batch({"labels": labels}, {"rows": float((labels >= 0).sum())})

    def loss(self, outputs: Mapping[str, torch.Tensor], batch: Batch, ops: Ops) -> list[LossTerm]:
        """Cross-entropy, summed over rows."""
        return [LossTerm("rows", -ops.token_logprobs(outputs, batch.targets["labels"]).sum())]

    def reduce(self, outputs: Mapping[str, torch.Tensor], batch: Batch, ops: Ops) -> EvalPart:
        """Predicted and true label of each feature."""
        labels = batch.targets["labels"]
        loss = -float(ops.token_logprobs(outputs, labels).sum())
        predicted, true = ops.argmax(outputs).tolist(), labels.tolist()
        rows = [
            {"feature_id": f, "row_id": r, "predicted": predicted[n], "label": true[n]} for n, f, r in places(batch)
        ]
        return EvalPart({"loss": loss, "weight": float((labels >= 0).sum())}, rows)

    def metrics(self, part: EvalPart) -> dict[str, float]:
        """accuracy, and the mean loss."""
        right = [row["predicted"] == row["label"] for row in part.rows]
        return {"accuracy": sum(right) / max(1, len(right)), "loss": part.sums["loss"] / max(1.0, part.sums["weight"])}

    def decode(self, outputs: Mapping[str, np.ndarray], batch: Batch) -> list[dict[str, Any]]:
        """label and score."""
        logits = outputs["logits"]
        shares = np.exp(logits - logits.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        return [
            {"row_id": row, "label": self.labels[int(shares[n].argmax())], "score": float(shares[n].max())}
            for n, _, row in places(batch)
        ]

    def state(self) -> dict[str, Any]:
        """The labels."""
        return {"labels": list(self.labels)}


class _TwoTerms(_Classification):
    metric_names = ("accuracy", "loss", "tags")

    terms = ("rows", "tokens")

    def _head(self) -> Head:
        outputs = {"logits": ("sequence", "label"), "tags": ("sequence", "position", "label")}
        return Head(
            "custom", len(self.labels), outputs, self.labels, build=functools.partial(_two_terms, size=len(self.labels))
        )

    def collate(self, groups: Sequence[Sequence[Feature]], length: int) -> Batch:
        """targets: "labels" [S] and "tags" [S, L]; a text without a label has no tags either."""
        batch = super().collate(groups, length)
        tagged = [[{"tag": self._tags(f), "input_ids": f.arrays["input_ids"]} for f in group] for group in groups]
        features = [[Feature(-1, -1, arrays, 0) for arrays in group] for group in tagged]
        tags = self.placed(features, length, "tag", IGNORE)
        weights = {**batch.weights, "tokens": float((tags >= 0).sum())}
        return Batch(batch.inputs, {**batch.targets, "tags": tags}, batch.row_of, batch.feature_ids, weights)

    def _tags(self, feature: Feature) -> np.ndarray:
        ids = feature.arrays["input_ids"]
        known = "label" in feature.arrays and not feature.filler
        return ids % len(self.labels) if known else np.full_like(ids, IGNORE)

    def loss(self, outputs: Mapping[str, torch.Tensor], batch: Batch, ops: Ops) -> list[LossTerm]:
        """Cross-entropies, of rows and, half as strong, of tokens."""
        tokens = -ops.token_logprobs(outputs, batch.targets["tags"], "tags").sum()
        return [*super().loss(outputs, batch, ops), LossTerm("tokens", tokens, 0.5)]

    def reduce(self, outputs: Mapping[str, torch.Tensor], batch: Batch, ops: Ops) -> EvalPart:
        """As its parent; and how many tags of each feature are right."""
        part = super().reduce(outputs, batch, ops)
        right = (ops.argmax(outputs, "tags") == batch.targets["tags"]).cpu().numpy()
        tags = {f: int(right[s, at].sum()) for f, _, s, at in per_feature(batch)}
        return EvalPart(part.sums, [{**row, "tags": tags[row["feature_id"]]} for row in part.rows])

    def metrics(self, part: EvalPart) -> dict[str, float]:
        """As its parent; and the right tags of a row."""
        return {**super().metrics(part), "tags": sum(row["tags"] for row in part.rows) / max(1, len(part.rows))}


def _two_terms(config: Any, size: int) -> torch.nn.Module:
    from spcore.testing.fakes.heads import TwoTermsHead

    return TwoTermsHead(config, size)
