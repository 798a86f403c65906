"""Tasks over the vocabulary: the next word (packs), masked words (augmentation), and one evaluated by generating."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from spcore.errors import DataError
from spcore.interfaces.dataset import Row, Schema
from spcore.interfaces.model import Head, Processor
from spcore.interfaces.runtime import GenerationRequest
from spcore.interfaces.task import IGNORE, Batch, BoundTask, EvalPart, Feature, Limits, LossTerm, Ops, Role, Task
from spcore.testing.fakes.collating import FakeBound, next_labels, per_feature

if TYPE_CHECKING:
    import torch


class FakeNextWord(Task):
    """Kind `task`: the next token of a text."""

    roles: tuple[Role, ...] = (Role("text", guesses=("sentence",)),)

    def bind(
        self, processor: Processor, config: Any, schema_or_state: Schema | dict[str, Any], limits: Limits
    ) -> BoundTask:
        """Nothing is taken from the data."""
        return _NextWord(processor, limits)


class FakeMaskedWords(FakeNextWord):
    """Kind `task`: the tokens that `augment` has masked."""

    def bind(
        self, processor: Processor, config: Any, schema_or_state: Schema | dict[str, Any], limits: Limits
    ) -> BoundTask:
        """Nothing is taken from the data."""
        return _MaskedWords(processor, limits)


class FakePrompted(FakeNextWord):
    """Kind `task`: as `FakeNextWord`, and evaluated by generating."""

    def bind(
        self, processor: Processor, config: Any, schema_or_state: Schema | dict[str, Any], limits: Limits
    ) -> BoundTask:
        """Nothing is taken from the data."""
        return _Prompted(processor, limits)


class _NextWord(FakeBound):
    terms = ("tokens",)
    head = Head("vocabulary", 0, {"logits": ("sequence", "position", "vocabulary")})
    metric_names: tuple[str, ...] = ("loss", "perplexity", "accuracy")

    def featurize(self, row: Row) -> list[Feature]:
        """One feature. Raises DataError for a text that is empty."""
        if not isinstance(row["text"], str) or not row["text"].strip():
            raise DataError("the text is empty")
        encoding = self.processor.encode(row["text"], max_length=self.limits.max_length)
        ids = encoding.arrays["input_ids"]
        return [Feature(0, 0, {"input_ids": ids}, len(ids), truncated=encoding.truncated)]

    def collate(self, groups: Sequence[Sequence[Feature]], length: int) -> Batch:
        """targets: "labels" [S, L]."""
        rows = self.rows(groups, length)
        labels = self.labels(groups, length, rows.inputs)
        for s, group in enumerate(groups):
            if group[0].filler:
                labels[s] = IGNORE
        return rows.batch({"labels": labels}, {"tokens": float((labels >= 0).sum())})

    def labels(self, groups: Sequence[Sequence[Feature]], length: int, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """[S, L]."""
        return next_labels(inputs)

    def loss(self, outputs: Mapping[str, torch.Tensor], batch: Batch, ops: Ops) -> list[LossTerm]:
        """Cross-entropy, summed over tokens."""
        return [LossTerm("tokens", -ops.token_logprobs(outputs, batch.targets["labels"]).sum())]

    def reduce(self, outputs: Mapping[str, torch.Tensor], batch: Batch, ops: Ops) -> EvalPart:
        """Sums over tokens; of each feature, how many are right."""
        labels = batch.targets["labels"]
        loss = -float(ops.token_logprobs(outputs, labels).sum())
        right = (ops.argmax(outputs) == labels).cpu().numpy()
        rows = [{"feature_id": f, "row_id": r, "right": int(right[s, at].sum())} for f, r, s, at in per_feature(batch)]
        return EvalPart({"loss": loss, "tokens": float((labels >= 0).sum())}, rows)

    def metrics(self, part: EvalPart) -> dict[str, float]:
        """Mean loss, perplexity, share of tokens that are right."""
        tokens = max(1.0, part.sums["tokens"])
        loss = part.sums["loss"] / tokens
        return {"loss": loss, "perplexity": math.exp(loss), "accuracy": sum(row["right"] for row in part.rows) / tokens}

    def decode(self, outputs: Mapping[str, np.ndarray], batch: Batch) -> list[dict[str, Any]]:
        """The likeliest words."""
        best = outputs["logits"].argmax(-1)
        return [
            {"row_id": row, "text": self.processor.decode(best[s, at].tolist())} for _, row, s, at in per_feature(batch)
        ]

    def state(self) -> dict[str, Any]:
        """Nothing."""
        return {}


class _MaskedWords(_NextWord):
    def augment(self, feature: Feature, rng: np.random.Generator) -> Feature:
        """Mask one word in three, and at least one."""
        ids = feature.arrays["input_ids"]
        hidden = rng.random(len(ids)) < 1 / 3
        hidden[rng.integers(len(ids))] = True
        masked = np.where(hidden, self.processor.special["mask"], ids)
        return replace(feature, arrays={**feature.arrays, "input_ids": masked, "labels": np.where(hidden, ids, IGNORE)})

    def labels(self, groups: Sequence[Sequence[Feature]], length: int, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """[S, L]: what was masked."""
        return self.placed(groups, length, "labels", IGNORE)


class _Prompted(_NextWord):
    metric_names = ("repeats", *_NextWord.metric_names)
    answer_metrics = ("repeats",)

    def request(self, row: Row) -> GenerationRequest:
        """Four more words."""
        ids = self.processor.encode(row["text"], special=False, max_length=self.limits.max_length).arrays["input_ids"]
        return GenerationRequest(tuple(int(i) for i in ids), max_new_tokens=4, stop=(self.processor.special["eos"],))

    def answer(self, row: Row, text: str) -> dict[str, Any]:
        """Whether the first word comes again."""
        return {"generated": text, "repeats": row["text"].split()[0] in text.split()}

    def metrics(self, part: EvalPart) -> dict[str, float]:
        """As of the next word; repeats: share of the answers."""
        answers = [row["repeats"] for row in part.rows if "repeats" in row]
        found = {"repeats": sum(answers) / len(answers)} if answers else {}
        return {**found, **super().metrics(part)}
