"""Context parallelism: each rank has its part of the positions of every text, and attends to all of them: keys and values are gathered,
and their gradients summed, over the axis (torch's own context parallelism needs attention kernels of GPUs).

Every rank computes the whole loss, from outputs whose figures a position are gathered, or from gathered hidden states under heads that
see them all. So each backpropagates its share, one part of as many, and gradients are summed over the axis as over the data axis.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from spcore.errors import RefusalError
from spcore.interfaces.model import Head, SharesPositions
from spcore.interfaces.strategy import Plan, Refusal
from spcore.interfaces.task import Batch
from spcore.tensors.engine import Outputs, SweepFn
from spcore.tensors.ops import PositionOps, WholeOps
from spcore_torch import shards


def refusals(plan: Plan, size: int) -> list[Refusal]:
    """What cannot be shared over so many ranks."""
    if size == 1:
        return []
    subject, hint = f"strategy.context_parallel {size}", "leave it out"
    if not isinstance(plan.model, SharesPositions):
        why = f"model family {plan.model.family!r} takes whole texts: its plugin has not the ability"
        return [Refusal(subject, why, hint)]
    try:
        plan.model.shares(plan.head)
    except RefusalError as error:
        return [Refusal(subject, error.message, hint)]
    most = getattr(plan.model.config, "max_position_embeddings", None)
    if isinstance(most, int) and plan.max_length is not None and most // size * size < plan.max_length:
        why = f"lengths are rounded up to a multiple of it, {plan.max_length} to more than the model's {most} positions"
        return [Refusal(subject, why, f"make data.max_length {most // size * size} or less")]
    return []


class Shared:
    """One rank's part of the positions: `spcore.interfaces.model.Positions`."""

    def __init__(self, group: Any, device: torch.device) -> None:
        self.group, self.rank, self.size = group, dist.get_rank(group), dist.get_world_size(group)
        self.draws = shards.Draws(self.rank, device)

    def own(self, x: torch.Tensor, axis: int) -> torch.Tensor:
        """See `Positions.own`."""
        assert x.shape[axis] % self.size == 0, (
            f"{x.shape[axis]} positions are no multiple of {self.size}: see `BatchRule.length_multiple`"
        )
        return shards.own(x, self.group, axis)

    def gather(self, x: torch.Tensor, axis: int) -> torch.Tensor:
        """See `Positions.gather`."""
        whole: torch.Tensor = shards.Gather.apply(x, self.group, axis, x.shape[axis] * self.size)
        return whole

    def even(self, batch: Batch) -> Batch:
        """A batch, in numpy, with padding behind the decoder's positions, so that they divide too; without labels there."""
        ids = batch.inputs.get("decoder_input_ids")
        if ids is None or ids.shape[1] % self.size == 0:
            return batch
        length = ids.shape[1]
        more = ((0, 0), (0, -length % self.size))
        inputs = {n: np.pad(a, more) if n.startswith("decoder_") else a for n, a in batch.inputs.items()}
        targets = {
            n: np.pad(a, more, constant_values=-1) if a.ndim == 2 and a.shape[1] == length else a
            for n, a in batch.targets.items()
        }
        return replace(batch, inputs=inputs, targets=targets)

    @contextlib.contextmanager
    def apart(self) -> Iterator[None]:
        """See `Positions.apart`."""
        self.draws.apart()
        try:
            yield
        finally:
            self.draws.together()

    def lend(self, ops: WholeOps, head: Head) -> WholeOps:
        """`Ops` for a module that shares positions."""
        names = [name for name, axes in head.outputs.items() if "position" in axes]
        return PositionOps(ops, self, names) if head.kind in ("vocabulary", "token") else ops

    def of_all(self, fn: SweepFn) -> SweepFn:
        """A sweep's function whose scalar is this rank's share of the loss that every rank computes."""

        def shared(outputs: Outputs, batch: Batch) -> tuple[torch.Tensor | None, Any]:
            scalar, record = fn(outputs, batch)
            return None if scalar is None else scalar / self.size, record

        return shared
