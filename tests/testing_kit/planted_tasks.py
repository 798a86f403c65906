"""Faults in tasks: (check that must find it, what is wrong, the report)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from spcore.interfaces.dataset import Schema
from spcore.interfaces.model import Head
from spcore.interfaces.task import EvalPart, Feature, LossTerm, Role
from spcore.testing import Report, check_task
from spcore.testing.fakes import (
    FakeClassification,
    FakeContrast,
    FakeMaskedWords,
    FakeNextWord,
    FakePreference,
    FakePrompted,
    FakeTwoTerms,
)  # fmt: skip

Planted = tuple[str, str, Callable[[], Report]]
FAULTS: list[Planted] = []


def task(check: str, what: str, base: type, /, **members: Any) -> None:
    """Plant members into what a fake task binds."""

    class Faulty(base):  # type: ignore[misc, valid-type]
        def bind(self, *args: Any, **named: Any) -> Any:
            bound = super().bind(*args, **named)
            bound.__class__ = type("FaultyBound", (type(bound),), {})
            for name, member in members.items():
                setattr(bound.__class__, name, member(getattr(bound.__class__, name, None)))
            return bound

    FAULTS.append((check, what, lambda: check_task(Faulty())))


def whole(check: str, what: str, base: type, /, **members: Any) -> None:
    """Plant members into a fake task itself."""
    FAULTS.append((check, what, lambda: check_task(type("Faulty", (base,), members)())))


def refusing(self: Any, processor: Any, config: Any, schema_or_state: Any, limits: Any) -> Any:
    raise TypeError("no")


def other_names(self: Any, proc: Any, cfg: Any, schema: Any, limits: Any) -> Any:
    return FakeNextWord().bind(proc, cfg, schema, limits)


def only_schemas(self: Any, processor: Any, config: Any, schema_or_state: Any, limits: Any) -> Any:
    labels = schema_or_state if isinstance(schema_or_state, Schema) else {"labels": ["x", "y"]}
    return FakeClassification.bind(self, processor, config, labels, limits)


def counting_filler(collate: Any) -> Any:
    def counted(self: Any, groups: Any, length: int) -> Any:
        return collate(self, [[replace(f, filler=False) for f in group] for group in groups], length)

    return counted


def labelled_padding(collate: Any) -> Any:
    def labelled(self: Any, groups: Any, length: int) -> Any:
        batch = collate(self, groups, length)
        labels = np.where(batch.targets["labels"] < 0, 0, batch.targets["labels"])
        return replace(batch, targets={"labels": labels}, weights={"tokens": float((labels >= 0).sum())})

    return labelled


def deep(collate: Any) -> Any:
    def three(self: Any, groups: Any, length: int) -> Any:
        batch = collate(self, groups, length)
        return replace(batch, inputs={name: a[:, None] for name, a in batch.inputs.items()})

    return three


def without_ids(collate: Any) -> Any:
    def lost(self: Any, groups: Any, length: int) -> Any:
        batch = collate(self, groups, length)
        return replace(batch, feature_ids=np.full_like(batch.feature_ids, -1))

    return lost


def mean(loss: Any) -> Any:
    def averaged(self: Any, outputs: Any, batch: Any, ops: Any) -> Any:
        return [
            LossTerm(t.name, t.sum / max(1.0, batch.weights[t.name]), t.coefficient)
            for t in loss(self, outputs, batch, ops)
        ]

    return averaged


def renamed(loss: Any) -> Any:
    return lambda self, outputs, batch, ops: [LossTerm("other", t.sum) for t in loss(self, outputs, batch, ops)]


def detached(loss: Any) -> Any:
    return lambda self, outputs, batch, ops: [LossTerm(t.name, t.sum.detach()) for t in loss(self, outputs, batch, ops)]


def crossing(collate: Any) -> Any:
    """Labels that cross the borders of a pack."""

    def crossed(self: Any, groups: Any, length: int) -> Any:
        batch = collate(self, groups, length)
        if "segment_ids" not in batch.inputs:
            return batch
        ids, real = batch.inputs["input_ids"], batch.inputs["segment_ids"] > 0
        labels = np.full_like(ids, -100)
        labels[:, :-1] = np.where(real[:, 1:], ids[:, 1:], -100)
        return replace(batch, targets={"labels": labels}, weights={"tokens": float((labels >= 0).sum())})

    return crossed


def running_positions(collate: Any) -> Any:
    def run_on(self: Any, groups: Any, length: int) -> Any:
        batch = collate(self, groups, length)
        if "position_ids" in batch.inputs:
            batch.inputs["position_ids"] = np.arange(length) * (batch.inputs["segment_ids"] > 0)
        return batch

    return run_on


def per_batch(reduce: Any) -> Any:
    def averaged(self: Any, outputs: Any, batch: Any, ops: Any) -> Any:
        part = reduce(self, outputs, batch, ops)
        return EvalPart({"loss": part.sums["loss"] / max(1, part.sums["weight"]), "weight": 1.0}, part.rows)

    return averaged


def rows_without_ids(reduce: Any) -> Any:
    def bare(self: Any, outputs: Any, batch: Any, ops: Any) -> Any:
        part = reduce(self, outputs, batch, ops)
        return EvalPart(part.sums, [{"right": 1} for _ in part.rows])

    return bare


def wrong_rows(reduce: Any) -> Any:
    def wrong(self: Any, outputs: Any, batch: Any, ops: Any) -> Any:
        part = reduce(self, outputs, batch, ops)
        return EvalPart(part.sums, [{**row, "row_id": row["row_id"] + 1} for row in part.rows])

    return wrong


def longer(_: Any) -> Any:
    def grown(self: Any, feature: Feature, rng: Any) -> Feature:
        ids = np.append(feature.arrays["input_ids"], 9)
        return replace(feature, arrays={**feature.arrays, "input_ids": ids}, length=len(ids))

    return grown


def impure(_: Any) -> Any:
    hidden = np.random.default_rng()

    def random(self: Any, feature: Feature, rng: Any) -> Feature:
        ids = hidden.integers(8, 60, feature.length)
        return replace(feature, arrays={**feature.arrays, "input_ids": ids})

    return random


def in_place(_: Any) -> Any:
    def change(self: Any, feature: Feature, rng: Any) -> Feature:
        feature.arrays["input_ids"][0] = int(rng.integers(8, 60))
        return feature

    return change


def uncut(_: Any) -> Any:
    def featurize(self: Any, row: Any) -> list[Feature]:
        ids = self.processor.encode(row["text"]).arrays["input_ids"]
        return [Feature(0, 0, {"input_ids": ids}, len(ids))]

    return featurize


def uncounted(featurize: Any) -> Any:
    return lambda self, row: [replace(f, truncated=0) for f in featurize(self, row)]


def wrong_length(featurize: Any) -> Any:
    return lambda self, row: [replace(f, length=f.length + 1) for f in featurize(self, row)]


def needs_the_label(featurize: Any) -> Any:
    def strict(self: Any, row: Any) -> Any:
        assert row["label"] is not None
        return featurize(self, row)

    return strict


def numbered(featurize: Any) -> Any:
    return lambda self, row: [replace(f, id=5) for f in featurize(self, row)]


def with_filler(decode: Any) -> Any:
    return lambda self, outputs, batch: [*decode(self, outputs, batch), {"row_id": -1, "label": "x"}]


def mixing(represent: Any) -> Any:
    """What a sequence gives depends on its batch."""
    return lambda self, outputs, batch, ops: (
        represent(self, outputs, batch, ops) - represent(self, outputs, batch, ops).mean(0)
    )


def per_sequence(annotate: Any) -> Any:
    return lambda self, outputs, batch, ops: {k: v.reshape(-1) for k, v in annotate(self, outputs, batch, ops).items()}


class _OtherNames:
    def __call__(self, hidden: Any, mask: Any, segments: Any) -> Any:
        return {"scores": hidden[:, 0]}

    def named_parameters(self) -> list[Any]:
        return []


def build_other_names(config: Any) -> Any:
    return _OtherNames()


whole("task.contract", "roles of one name", FakeNextWord, roles=(Role("text"), Role("text")))
whole("task.contract", "other parameter names", FakeNextWord, bind=other_names)
whole("task.bind", "binds to nothing", FakeNextWord, bind=refusing)
whole("task.state", "loses its labels", FakeClassification, bind=only_schemas)
task(
    "task.head",
    "an axis nobody knows",
    FakeNextWord,
    head=lambda _: Head("vocabulary", 0, {"logits": ("sequence", "words")}),
)
task("task.head", "a term twice", FakeNextWord, terms=lambda _: ("tokens", "tokens"))
task("task.featurize", "a length that is not that of the tokens", FakeNextWord, featurize=wrong_length)
task("task.featurize", "numbers its features itself", FakeNextWord, featurize=numbered)
task("task.limits", "texts that are not cut", FakeNextWord, featurize=uncut)
task("task.limits", "cuts that are not counted", FakeNextWord, featurize=uncounted)
task("task.prediction", "a featurize that needs the label", FakeClassification, featurize=needs_the_label)
task("task.augment", "an augment that changes the length", FakeMaskedWords, augment=longer)
task("task.augment", "an augment with a generator of its own", FakeMaskedWords, augment=impure)
task("task.augment", "an augment that changes its feature", FakeMaskedWords, augment=in_place)
task("task.collate", "inputs with three axes", FakeNextWord, collate=deep)
task("task.collate", "feature ids left out", FakeNextWord, collate=without_ids)
task("task.filler", "a collate that counts filler", FakeClassification, collate=counting_filler)
task("task.filler", "a collate that counts filler tokens", FakeTwoTerms, collate=counting_filler)
task("task.padding", "labels on padding", FakeNextWord, collate=labelled_padding)
task("task.terms", "terms under another name", FakeNextWord, loss=renamed)
task("task.terms", "losses without a gradient", FakeNextWord, loss=detached)
task("task.loss-is-a-sum", "a loss that is a mean", FakeClassification, loss=mean)
task("task.loss-is-a-sum", "a mean over tokens", FakeNextWord, loss=mean)
task("task.reduce", "rows without ids", FakeNextWord, reduce=rows_without_ids)
task("task.reduce", "rows of other rows", FakeClassification, reduce=wrong_rows)
task("task.packs", "labels across a border", FakeNextWord, collate=crossing)
task("task.packs", "positions that run on", FakeNextWord, collate=running_positions)
task("task.metrics", "means of batches", FakeClassification, reduce=per_batch)
task(
    "task.metrics",
    "a metric that is not given",
    FakeNextWord,
    metric_names=lambda _: ("f1", "loss", "perplexity", "accuracy"),
)
task("task.decode", "answers for filler", FakeClassification, decode=with_filler)
task("task.state", "a state that is no JSON", FakeClassification, state=lambda _: lambda self: {"labels": {1, 2}})
task(
    "task.custom-head", "outputs under other names", FakeContrast,
    head=lambda _: property(lambda self: Head("custom", 16, {"embedding": ("sequence", "hidden")}, build=build_other_names), lambda *_: None),
)  # fmt: skip
task("task.whole-batch", "representations that depend on the batch", FakeContrast, representation=mixing)
task("task.annotates", "figures of sequences", FakePreference, annotate=per_sequence)
task("task.prompts", "a request that is none", FakePrompted, request=lambda _: lambda self, row: {"ids": [1]})
task("task.metrics", "figures of answers without answers", FakePrompted, answer_metrics=lambda _: ())
