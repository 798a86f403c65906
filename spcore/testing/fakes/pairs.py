"""Tasks whose features have two sequences: a preference with a reference (`Annotates`), a contrast (`WholeBatchLoss`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from spcore.errors import DataError, RefusalError
from spcore.interfaces.dataset import Row, Schema
from spcore.interfaces.model import Head, Processor
from spcore.interfaces.task import IGNORE, Batch, BoundTask, EvalPart, Feature, Limits, LossTerm, Ops, Role, Task
from spcore.testing.fakes.collating import FakeBound, next_labels, places, summed

if TYPE_CHECKING:
    import torch


class FakePreference(Task):
    """Kind `task`: the chosen of two answers over the rejected one, against the untrained model (DPO; Rafailov et al., 2023)."""

    roles = (Role("text", guesses=("prompt",)), Role("chosen"), Role("rejected"))

    def bind(
        self, processor: Processor, config: Any, schema_or_state: Schema | dict[str, Any], limits: Limits
    ) -> BoundTask:
        """Nothing is taken from the data."""
        return _Preference(processor, _unpacked(limits, "fake-preference"))


class FakeContrast(Task):
    """Kind `task`: of all texts of a batch, the one that belongs to a text (InfoNCE; van den Oord et al., 2018)."""

    roles = (Role("text"), Role("other", guesses=("positive",)))

    def bind(
        self, processor: Processor, config: Any, schema_or_state: Schema | dict[str, Any], limits: Limits
    ) -> BoundTask:
        """Nothing is taken from the data; the head is as wide as the model."""
        return _Contrast(processor, _unpacked(limits, "fake-contrast"), config)


def _unpacked(limits: Limits, name: str) -> Limits:
    if limits.pack is not None:
        raise RefusalError(f"task {name!r}: data.pack is given, and its features have two sequences; leave it out")
    return limits


class _Pairs(FakeBound):
    def pair(self, texts: Sequence[tuple[str, str | None]]) -> list[Feature]:
        """One feature of two sequences. Raises DataError for a text that is empty."""
        if any(not isinstance(t, str) or not t.strip() for pair in texts for t in pair if t is not None):
            raise DataError("a text is empty")
        made = [self.processor.encode(a, b, max_length=self.limits.max_length) for a, b in texts]
        length = max(len(encoding.arrays["input_ids"]) for encoding in made)
        ids = [np.pad(e.arrays["input_ids"], (0, length - len(e.arrays["input_ids"]))) for e in made]
        return [Feature(0, 0, {"input_ids": np.stack(ids)}, length, truncated=sum(e.truncated for e in made))]

    def state(self) -> dict[str, Any]:
        """Nothing."""
        return {}


class _Preference(_Pairs):
    terms = ("preference",)
    head = Head("vocabulary", 0, {"logits": ("sequence", "position", "vocabulary")})

    def featurize(self, row: Row) -> list[Feature]:
        """[2, length]: chosen, rejected."""
        return self.pair([(row["text"], row["chosen"]), (row["text"], row["rejected"])])

    def collate(self, groups: Sequence[Sequence[Feature]], length: int) -> Batch:
        """targets: "labels" [S, L]; "reference" [S], 0 before the annotation."""
        rows = self.rows(groups, length)
        labels = next_labels(rows.inputs)
        reference = [f.arrays.get("reference", np.zeros(2)) for f in rows.features]
        for n, feature in enumerate(rows.features):
            if feature.filler:
                labels[2 * n : 2 * n + 2] = IGNORE
        targets = {"labels": labels, "reference": np.concatenate(reference).astype(np.float32)}
        return rows.batch(targets, {"preference": float(sum(not f.filler for f in rows.features))})

    def loss(self, outputs: Mapping[str, torch.Tensor], batch: Batch, ops: Ops) -> list[LossTerm]:
        """-log sigmoid of the margin over the reference's, summed over features."""
        import torch

        margins = self._margins(outputs, batch, ops)
        chosen = [n // 2 for n, _, _ in places(batch)[::2]]
        return [LossTerm("preference", -torch.nn.functional.logsigmoid(margins[chosen]).sum())]

    def _margins(self, outputs: Mapping[str, torch.Tensor], batch: Batch, ops: Ops) -> torch.Tensor:
        """[features]."""
        gains = self._logprobs(outputs, batch, ops) - batch.targets["reference"]
        return gains[0::2] - gains[1::2]

    def _logprobs(self, outputs: Mapping[str, torch.Tensor], batch: Batch, ops: Ops) -> torch.Tensor:
        return summed(ops.token_logprobs(outputs, batch.targets["labels"]), batch)

    def annotate(self, outputs: Mapping[str, torch.Tensor], batch: Batch, ops: Ops) -> dict[str, np.ndarray]:
        """reference: [features, 2], log-probabilities of chosen and rejected."""
        kept = [n for n, _, _ in places(batch)]
        return {"reference": self._logprobs(outputs, batch, ops)[kept].reshape(-1, 2).detach().cpu().numpy()}

    def reduce(self, outputs: Mapping[str, torch.Tensor], batch: Batch, ops: Ops) -> EvalPart:
        """The margin of each feature."""
        margins = self._margins(outputs, batch, ops).tolist()
        rows = [{"feature_id": f, "row_id": r, "margin": margins[n // 2]} for n, f, r in places(batch)[::2]]
        return EvalPart({}, rows)

    def metrics(self, part: EvalPart) -> dict[str, float]:
        """accuracy: share of features whose margin is above 0."""
        return {"accuracy": sum(row["margin"] > 0 for row in part.rows) / max(1, len(part.rows))}

    def decode(self, outputs: Mapping[str, np.ndarray], batch: Batch) -> list[dict[str, Any]]:
        """The mean of the largest logits of chosen and rejected: what a person can compare."""
        best = outputs["logits"].max(-1).mean(-1)
        return [
            {"row_id": r, "chosen": float(best[n]), "rejected": float(best[n + 1])} for n, _, r in places(batch)[::2]
        ]


class _Contrast(_Pairs):
    terms = ("contrast",)
    temperature = 0.1

    def __init__(self, processor: Processor, limits: Limits, config: Any) -> None:
        super().__init__(processor, limits)
        self.head = Head("custom", config.hidden_size, {"embedding": ("sequence", "hidden")}, build=_embedding)

    def featurize(self, row: Row) -> list[Feature]:
        """[2, length]: a text and the one that belongs to it."""
        return self.pair([(row["text"], None), (row["other"], None)])

    def collate(self, groups: Sequence[Sequence[Feature]], length: int) -> Batch:
        """No targets."""
        rows = self.rows(groups, length)
        return rows.batch({}, {"contrast": float(sum(not f.filler for f in rows.features))})

    def loss(self, outputs: Mapping[str, torch.Tensor], batch: Batch, ops: Ops) -> list[LossTerm]:
        """Nothing: all of it needs the whole batch."""
        return []

    def representation(self, outputs: Mapping[str, torch.Tensor], batch: Batch, ops: Ops) -> torch.Tensor:
        """[S, H], unit vectors."""
        return outputs["embedding"]

    def whole_loss(self, representations: torch.Tensor, feature_ids: np.ndarray) -> list[LossTerm]:
        """Cross-entropy of the right one among all others, summed over features."""
        import torch

        left, right = representations[0::2], representations[1::2]
        logits = left @ right.T / self.temperature
        return [LossTerm("contrast", -torch.log_softmax(logits, -1).diagonal().sum())]

    def reduce(self, outputs: Mapping[str, torch.Tensor], batch: Batch, ops: Ops) -> EvalPart:
        """The cosine of each pair."""
        found = ops.full(outputs, "embedding").float()
        rows = [
            {"feature_id": f, "row_id": r, "cosine": float(found[n] @ found[n + 1])} for n, f, r in places(batch)[::2]
        ]
        return EvalPart({}, rows)

    def metrics(self, part: EvalPart) -> dict[str, float]:
        """cosine: the mean."""
        return {"cosine": sum(row["cosine"] for row in part.rows) / max(1, len(part.rows))}

    def decode(self, outputs: Mapping[str, np.ndarray], batch: Batch) -> list[dict[str, Any]]:
        """The cosine of each pair."""
        found = outputs["embedding"]
        return [{"row_id": r, "cosine": float(found[n] @ found[n + 1])} for n, _, r in places(batch)[::2]]


def _embedding(config: Any) -> torch.nn.Module:
    from spcore.testing.fakes.heads import EmbeddingHead

    return EmbeddingHead(config)
