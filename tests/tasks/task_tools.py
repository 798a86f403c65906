"""What the tests of tasks share: schemas, binding, batches as engines hold them, a tiny BERT."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from spcore.interfaces.dataset import Column, Schema
from spcore.interfaces.task import Batch, BoundTask, Feature, Limits
from spcore.loading import filler
from spcore.testing.fakes import FakeProcessor
from spcore_tasks.options import TextClassificationOptions
from spcore_tasks.text_classification import TextClassification

LIMITS = Limits(max_length=32)
PACKED = Limits(max_length=32, pack=64)
TEXTS = ["it is good", "no", "a long and tedious evening at the opera", "fine by me", "what a day it was"]


class PlainOps:
    """Ops for whole outputs, by the book."""

    def token_logprobs(
        self, outputs: Mapping[str, torch.Tensor], labels: torch.Tensor, name: str = "logits"
    ) -> torch.Tensor:
        found = torch.log_softmax(outputs[name].float(), -1).gather(-1, labels.clamp(min=0)[..., None]).squeeze(-1)
        return found.masked_fill(labels < 0, 0.0)

    def logprob_mean(self, outputs: Mapping[str, torch.Tensor], name: str = "logits") -> torch.Tensor:
        return torch.log_softmax(outputs[name].float(), -1).mean(-1)

    def argmax(self, outputs: Mapping[str, torch.Tensor], name: str = "logits") -> torch.Tensor:
        return outputs[name].argmax(-1)

    def full(self, outputs: Mapping[str, torch.Tensor], name: str) -> torch.Tensor:
        return outputs[name]

    def mean_over_data(self, x: torch.Tensor) -> torch.Tensor:
        return x


def column(values: Sequence[Any], kind: str | None = None, labels: tuple[str, ...] | None = None) -> Column:
    """A label column as data sets describe it: values counted as str, missing ones not."""
    real = [v for v in values if v is not None]
    kinds = {bool: "boolean", int: "integer", float: "number", str: "text", list: "list"}
    flat = [v for item in real for v in (item if isinstance(item, list) else [item])]
    return Column(kind or kinds[type(real[0])], labels, Counter(str(v) for v in flat))


def bind(label: Column, limits: Limits = LIMITS, processor: Any = None, **options: Any) -> BoundTask:
    schema = Schema({"text": Column("text"), "label": label})
    task = TextClassification(TextClassificationOptions(**options))
    return task.bind(processor or FakeProcessor(), None, schema, limits)


def features(bound: BoundTask, labels: Sequence[Any] | None, texts: Sequence[str] = TEXTS) -> list[Feature]:
    """Numbered as the core does: ids from 10, rows from 100. labels None: as for a prediction."""
    rows = [
        {"text": t} if labels is None else {"text": t, "label": v} for t, v in zip(texts, labels or texts, strict=False)
    ]
    made = [feature for row in rows for feature in bound.featurize(row)]
    return [replace(feature, id=10 + n, row_id=100 + n) for n, feature in enumerate(made)]


def collate(bound: BoundTask, made: Sequence[Feature], fill: int = 0) -> Batch:
    groups = [[f] for f in [*made, *[filler(made[0])] * fill]]
    return bound.collate(groups, max(f.length for f in made))


def tensors(batch: Batch) -> Batch:
    """A batch as engines hold it."""
    made = [{k: torch.from_numpy(np.asarray(v)) for k, v in arrays.items()} for arrays in (batch.inputs, batch.targets)]
    return replace(batch, inputs=made[0], targets=made[1])


def logits_for(batch: Batch, size: int, seed: int = 0) -> torch.Tensor:
    """Outputs with a value a sequence."""
    return torch.randn(len(batch.feature_ids), size, generator=torch.Generator().manual_seed(seed))


def mean(bound: BoundTask, outputs: dict[str, torch.Tensor], batch: Batch) -> torch.Tensor:
    """The loss as an engine makes it of a batch: sum over weight."""
    (term,) = bound.loss(outputs, tensors(batch), PlainOps())
    return term.coefficient * term.sum / batch.weights[term.name]


def evaluate(
    bound: BoundTask, outputs: dict[str, torch.Tensor], batch: Batch
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    part = bound.reduce(outputs, tensors(batch), PlainOps())
    return bound.metrics(part), part.rows


def tiny_bert(size: int, problem_type: str, labels: Sequence[str] = (), vocabulary: int = 64) -> Any:
    """A BERT of a few thousand parameters, with a head; no dropout."""
    from transformers import BertConfig, BertForSequenceClassification

    names = list(labels) or [f"LABEL_{n}" for n in range(size)]
    config = BertConfig(
        vocab_size=vocabulary, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=64, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        problem_type=problem_type, id2label=dict(enumerate(names)), label2id={n: i for i, n in enumerate(names)},
        initializer_range=0.5,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return BertForSequenceClassification(config).eval()
