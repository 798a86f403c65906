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
from spcore.tensors.flat import sequence_feature_ids

if TYPE_CHECKING:
    from spcore.tensors.engine import TorchEngine

Scaled = Callable[[Sequence[LossTerm]], tuple[torch.Tensor, torch.Tensor]]


def backward_whole(engine: TorchEngine, microbatches: Sequence[Batch], scaled: Scaled) -> torch.Tensor:
    """Backpropagate a WholeBatchLoss. scaled: terms -> (scalar, record), see `TorchEngine`. The record of the whole batch, the
    same on every rank."""
    task = engine.task
    assert isinstance(task, WholeBatchLoss), "the caller looked"
    before = rng.capture(engine.device)

    def represented(outputs: Any, batch: Batch) -> tuple[None, tuple[np.ndarray, np.ndarray]]:
        value = task.representation(outputs, batch, engine.ops)
        return None, (sequence_feature_ids(batch).copy(), value.detach().float().cpu().numpy())

    # In training mode, so that dropout draws what the second pass will draw.
    records = engine.sweep(microbatches, represented, False, training=True)
    mine = records if engine.speaks and engine.has_output else []
    every = [record for rank in engine.collect(mine, everywhere=True) or [] for record in rank]
    gradients, record = _loss(task, every, scaled, engine.device)

    def surrogate(outputs: Any, batch: Batch) -> tuple[torch.Tensor, None]:
        value = task.representation(outputs, batch, engine.ops)
        left = {row: iter(found) for row, found in gradients.items()}
        nothing = torch.zeros_like(value[0], dtype=torch.float32)
        wanted = [next(left[row]) if row >= 0 else nothing for row in sequence_feature_ids(batch).tolist()]
        return (value.float() * torch.stack(wanted)).sum(), None

    rng.restore(before, engine.device)
    engine.sweep(microbatches, surrogate, True)
    return record.cpu()


def _loss(
    task: WholeBatchLoss, records: Sequence[tuple[np.ndarray, np.ndarray]], scaled: Scaled, device: torch.device
) -> tuple[dict[int, list[torch.Tensor]], torch.Tensor]:
    """feature id -> gradients of its representations, in the order of its sequences; the record of the loss."""
    ids = np.concatenate([i for i, _ in records])
    keep = np.flatnonzero(ids >= 0)
    keep = keep[np.argsort(ids[keep], kind="stable")]
    values = np.concatenate([v for _, v in records])[keep]
    leaf = torch.from_numpy(values).to(device).requires_grad_()
    with torch.enable_grad():
        scalar, record = scaled(task.whole_loss(leaf, ids[keep]))
        scalar.backward()
    assert leaf.grad is not None, "a whole-batch loss depends on its representations"
    gradients: dict[int, list[torch.Tensor]] = {}
    for row, gradient in zip(ids[keep].tolist(), leaf.grad, strict=True):
        gradients.setdefault(row, []).append(gradient)
    return gradients, record
