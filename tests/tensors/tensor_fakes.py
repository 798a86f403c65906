"""A task whose rows weigh from a thousandth to a thousand, plans of it, and its batches in any cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from spcore.interfaces.model import Head, LanguageModel
from spcore.interfaces.optimizer import GroupKey, Optimizer
from spcore.interfaces.precision import PrecisionPolicy
from spcore.interfaces.strategy import Layout, Plan
from spcore.interfaces.task import Batch, BoundTask, EvalPart, LossTerm
from spcore.testing.fakes.language import FakeConfig, FakeLanguageModel, pooled

CLASSES = 3
SHARE = 0.25
"""Coefficient of the second loss term."""


class DroppingHead(nn.Module):
    """Mean of a text's tokens, dropout, a linear layer."""

    def __init__(self, config: Any, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(config.hidden_size, CLASSES)

    def forward(
        self, hidden: torch.Tensor, mask: torch.Tensor, segments: torch.Tensor | None
    ) -> dict[str, torch.Tensor]:
        if segments is None:
            means = pooled(hidden, mask, None)
        else:
            number = torch.zeros_like(mask, dtype=torch.int64)
            number[segments[:, 0], segments[:, 1]] = 1
            means = pooled(hidden, number.cumsum(1) * mask, segments)
        return {"logits": self.out(self.dropout(means))}


class Weighted(BoundTask):
    """Cross-entropy weighted by row, and the size of the logits weighted otherwise."""

    terms = ("classes", "size")

    def __init__(self, dropout: float = 0.0, blow_up: float = 0.0) -> None:
        outputs = {"logits": ("sequence", "label")}
        self.head = Head("custom", CLASSES, outputs, build=lambda config: DroppingHead(config, dropout))
        self.blow_up = blow_up

    def loss(self, outputs: Mapping[str, torch.Tensor], batch: Batch, ops: Any) -> list[LossTerm]:
        found = ops.token_logprobs(outputs, batch.targets["labels"])
        size = (outputs["logits"].float().square().mean(-1) * batch.targets["rough"]).sum()
        classes = -(found * batch.targets["weight"]).sum() * (1 + self.blow_up)
        return [LossTerm("classes", classes), LossTerm("size", size, SHARE)]

    def reduce(self, outputs: Mapping[str, torch.Tensor], batch: Batch, ops: Any) -> EvalPart:
        best = ops.argmax(outputs).tolist()
        ids = batch.feature_ids.ravel().tolist()
        rows = [{"feature_id": i, "row_id": i, "best": b} for i, b in zip(ids, best, strict=True) if i >= 0]
        return EvalPart({"rows": float(len(rows))}, rows)

    def featurize(self, row: Any) -> list[Any]:
        raise NotImplementedError

    collate = decode = featurize

    def metrics(self, part: EvalPart) -> dict[str, float]:
        return dict(part.sums)

    def state(self) -> dict[str, Any]:
        return {}


class Pairs(Weighted):
    """The same head under a loss over the whole batch: each text against every other."""

    terms = ("contrast",)

    def loss(self, outputs: Mapping[str, torch.Tensor], batch: Batch, ops: Any) -> list[LossTerm]:
        return []

    def representation(self, outputs: Mapping[str, torch.Tensor], batch: Batch, ops: Any) -> torch.Tensor:
        return outputs["logits"]

    def whole_loss(self, representations: torch.Tensor, feature_ids: np.ndarray) -> list[LossTerm]:
        scores = representations @ representations.T
        scores = scores - torch.diag(torch.full((len(scores),), 1e4, device=scores.device))
        partner = torch.arange(len(scores), device=scores.device) ^ 1
        return [LossTerm("contrast", -torch.log_softmax(scores, -1)[torch.arange(len(scores)), partner].sum())]


class Adam(Optimizer):
    """torch's AdamW; matrices decay."""

    family = "adam"
    elementwise = True
    hyper: Mapping[str, Any] = {}

    def __init__(self, fused: bool = True, lr: float = 1e-2) -> None:
        self.fused, self.lr = fused, lr

    def groups(self, name: str, full_shape: tuple[int, ...]) -> GroupKey:
        return GroupKey(0.01) if len(full_shape) > 1 else GroupKey(0.0, 0.5)

    def build(self, params: list[dict[str, Any]]) -> torch.optim.Optimizer:
        kernel = {"fused": True} if self.fused else {"foreach": True}
        return torch.optim.AdamW(params, lr=self.lr, eps=1e-6, **kernel)


def plan_of(task: BoundTask, model: LanguageModel | None = None, **changes: Any) -> Plan:
    """A plan for one process on the CPU."""
    made = Plan(
        model=model or FakeLanguageModel(FakeConfig(hidden_size=32, num_hidden_layers=2)), head=task.head, task=task,
        precision=PrecisionPolicy("fp32"), optimizer=Adam(), adapter=None, global_batch_size=8, micro_batch_size=None,
        micro_batch_tokens=512, max_length=32, pack=None, clip_norm=1.0, seed=3, deterministic=False, nonfinite="stop",
        layout=Layout(), device="cpu",
    )  # fmt: skip
    return replace(made, **changes)


def rows_of(count: int = 8, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of 2 to 12 tokens; weights over six orders of magnitude."""
    rng = np.random.default_rng(seed)
    rows = []
    for n in range(count):
        ids = rng.integers(5, 60, rng.integers(2, 13))
        rows.append({"id": n, "ids": ids, "label": int(rng.integers(CLASSES)), "weight": 10.0 ** rng.uniform(-3, 3)})
    return rows


def batch_of(rows: Sequence[Mapping[str, Any]], terms: Sequence[str] = Weighted.terms, fill: int = 0) -> Batch:
    """A padded microbatch; fill: rows of filler at its end."""
    filler = {"id": -1, "ids": rows[0]["ids"][:1], "label": -100, "weight": 0.0}
    rows = [*rows, *[filler] * fill]
    length = max(len(row["ids"]) for row in rows)
    ids = np.stack([np.pad(row["ids"], (0, length - len(row["ids"]))) for row in rows])
    mask = np.stack([np.arange(length) < len(row["ids"]) for row in rows]).astype(np.int64)
    weight = np.array([row["weight"] for row in rows], np.float32)
    rough = np.array([row["id"] >= 0 for row in rows], np.float32)
    targets = {"labels": np.array([row["label"] for row in rows]), "weight": weight, "rough": rough}
    numbers = np.array([[row["id"]] for row in rows])
    totals = (float(weight.sum(dtype=np.float64)), float(rough.sum()))
    return Batch(
        {"input_ids": ids, "attention_mask": mask}, targets, numbers, numbers, dict(zip(terms, totals, strict=False))
    )


def cut(
    rows: Sequence[Mapping[str, Any]], size: int, terms: Sequence[str] = Weighted.terms, fill: int = 0
) -> list[Batch]:
    """Rows in microbatches of `size`, each with `fill` rows of filler."""
    return [batch_of(rows[at : at + size], terms, fill) for at in range(0, len(rows), size)]
