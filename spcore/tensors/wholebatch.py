"""Losses that couple a whole global batch, exact at any layout and any cut.

Forward without gradients, the representations gathered over microbatches and ranks, the loss and its gradient with respect to
them; then each microbatch forward again with the same random draws, and backward of the sum of representation times gradient.
That decomposes over microbatches and ranks (Gao et al., 2021, "GradCache").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from spcore.interfaces.task import Batch, LossTerm, WholeBatchLoss
from spcore.tensors import rng

if TYPE_CHECKING:
    from spcore.tensors.engine import TorchEngine

Scaled = Callable[[Sequence[LossTerm]], "tuple[torch.Tensor, torch.Tensor]"]


def backward_whole(engine: TorchEngine, microbatches: Sequence[Batch], scaled: Scaled) -> torch.Tensor:
    """Backpropagate a WholeBatchLoss; the terms' sums, float64 [terms], the same on every rank."""
    task: WholeBatchLoss = engine.task  # type: ignore[assignment] -- the caller looked
    before = rng.capture(engine.device)

    def represented(outputs: Any, batch: Batch) -> tuple[torch.Tensor, Any]:
        value = task.representation(outputs, batch, engine.ops)
        return value.sum() * 0, (batch.feature_ids.reshape(len(value), -1)[:, 0].copy(), value.detach().float().cpu().numpy())

    # With the module in training mode and gradients off, so that dropout draws what the second pass will draw.
    engine.module.train()
    records = _without_gradients(engine, microbatches, represented)
    mine = records if engine.speaks and engine.has_output else []
    every = [record for rank in engine.collect(mine, everywhere=True) or [] for record in rank]
    ids = np.concatenate([i for i, _ in every])
    values = torch.from_numpy(np.concatenate([v for _, v in every])).to(engine.device)
    keep = np.flatnonzero(ids >= 0)
    keep = keep[np.argsort(ids[keep], kind="stable")]
    leaf = values[torch.from_numpy(keep).to(engine.device)].clone().requires_grad_()
    with torch.enable_grad():
        scalar, sums = scaled(task.whole_loss(leaf, ids[keep]))
        scalar.backward()
    assert leaf.grad is not None, "a whole-batch loss depends on its representations"
    grads: dict[int, list[torch.Tensor]] = {}
    for row, grad in zip(ids[keep].tolist(), leaf.grad, strict=True):
        grads.setdefault(row, []).append(grad)

    def surrogate(outputs: Any, batch: Batch) -> tuple[torch.Tensor, None]:
        value = task.representation(outputs, batch, engine.ops)
        seen: dict[int, int] = {}
        wanted = []
        for row in batch.feature_ids.reshape(len(value), -1)[:, 0].tolist():
            seen[row] = seen.get(row, -1) + 1
            wanted.append(torch.zeros_like(value[0], dtype=torch.float32) if row < 0 else grads[row][seen[row]])
        return (value.float() * torch.stack(wanted)).sum(), None

    rng.restore(before, engine.device)
    engine.sweep(microbatches, surrogate, True)
    return sums.cpu()


def _without_gradients(engine: TorchEngine, microbatches: Sequence[Batch], fn: Any) -> list[Any]:
    """A training-mode sweep that keeps no graph."""
    records = []
    with torch.no_grad():
        for batch in microbatches:
            ready = engine.prepared(batch)
            records.append(fn(engine.forward(ready), ready)[1])
    return records
