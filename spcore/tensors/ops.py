"""`Ops` for outputs that are whole on a rank, and for outputs sharded along the vocabulary (Megatron's, DTensor's)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from spcore.interfaces.model import Positions

Outputs = Mapping[str, torch.Tensor]


def as_tensors(arrays: Mapping[str, Any], device: torch.device | str = "cpu") -> dict[str, torch.Tensor]:
    """numpy arrays (or tensors) as tensors on a device; integers stay what they are."""
    return {
        name: torch.as_tensor(np.ascontiguousarray(a) if isinstance(a, np.ndarray) else a, device=device)
        for name, a in arrays.items()
    }


class WholeOps:
    """Outputs whole on this rank. data_group: the data-parallel process group, None for one process."""

    def __init__(self, data_group: Any = None) -> None:
        self.data_group = data_group

    def token_logprobs(self, outputs: Outputs, labels: torch.Tensor, name: str = "logits") -> torch.Tensor:
        """log p(label), float32, of labels' shape; 0 where a label is below 0. Only labelled places are worked on, so a batch
        with few labels costs few softmaxes."""
        logits, counts = outputs[name], labels >= 0
        if bool(counts.all()):
            return torch.log_softmax(logits.float(), -1).gather(-1, labels[..., None]).squeeze(-1)
        chosen = torch.log_softmax(logits[counts].float(), -1).gather(-1, labels[counts][:, None]).squeeze(-1)
        return torch.zeros(labels.shape, dtype=chosen.dtype, device=chosen.device).masked_scatter(counts, chosen)

    def logprob_mean(self, outputs: Outputs, name: str = "logits") -> torch.Tensor:
        """Mean over classes of log p, float32."""
        return torch.log_softmax(outputs[name].float(), -1).mean(-1)

    def argmax(self, outputs: Outputs, name: str = "logits") -> torch.Tensor:
        """Index of the largest class."""
        return outputs[name].argmax(-1)

    def full(self, outputs: Outputs, name: str) -> torch.Tensor:
        """The output itself."""
        return outputs[name]

    def mean_over_data(self, x: torch.Tensor) -> torch.Tensor:
        """Mean over the data-parallel ranks. Its gradient is that of the sum of all ranks' losses: collective in backward too."""
        if self.data_group is None:
            return x
        mean: torch.Tensor = _SumOverData.apply(x, self.data_group) / dist.get_world_size(self.data_group)
        return mean


def _summed(x: torch.Tensor, group: Any) -> torch.Tensor:
    total = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total, group=group)
    return total


class _SumOverData(torch.autograd.Function):  # type: ignore[misc]
    """Sum over ranks whose losses differ: each rank's loss depends on every rank's x."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: Any) -> torch.Tensor:
        ctx.group = group
        return _summed(x, group)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _summed(grads[0], ctx.group), None


class _SumOverShards(torch.autograd.Function):  # type: ignore[misc]
    """Sum over shards; backward each shard's own part, since what follows is computed alike on every rank of the group."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: Any) -> torch.Tensor:
        return _summed(x, group)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grads[0], None


class _JoinShards(torch.autograd.Function):  # type: ignore[misc]
    """Shards of unequal width side by side, padding columns left out; backward each shard's own columns."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: Any, first: int, size: int) -> torch.Tensor:
        own = torch.tensor([first, x.shape[-1]], device=x.device)
        places = [(int(lo), int(width)) for lo, width in _gathered(own, group)]
        widest = max(width for _, width in places)
        shards = _gathered(torch.nn.functional.pad(x, (0, widest - x.shape[-1])), group)
        whole = x.new_zeros(*x.shape[:-1], size)
        for (lo, width), shard in zip(places, shards, strict=True):
            real = max(0, min(width, size - lo))
            whole[..., lo : lo + real] = shard[..., :real]
        ctx.rest = (first, x.shape)
        return whole

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        first, shape = ctx.rest
        mine = grads[0][..., first : first + shape[-1]]
        return torch.nn.functional.pad(mine, (0, shape[-1] - mine.shape[-1])), None, None, None


def _gathered(x: torch.Tensor, group: Any) -> list[torch.Tensor]:
    x = x.contiguous()
    parts = [torch.empty_like(x) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, x, group=group)
    return parts


class VocabularyOps(WholeOps):
    """Outputs `names` hold columns [first, first + n) of a vocabulary of `size` on this rank; columns past `size` are padding.
    Right for uneven shards. The loss is computed alike on every rank of `group`; gradients are each shard's own."""

    def __init__(
        self, group: Any, first: int, size: int, names: Collection[str] = ("logits",), data_group: Any = None
    ) -> None:
        super().__init__(data_group)
        self.group, self.first, self.size, self.names = group, first, size, frozenset(names)

    def token_logprobs(self, outputs: Outputs, labels: torch.Tensor, name: str = "logits") -> torch.Tensor:
        """As WholeOps; the labelled logit comes from the rank that has its column."""
        if name not in self.names:
            return super().token_logprobs(outputs, labels, name)
        logits, real = self._real(outputs, name)
        at = labels - self.first
        mine = (at >= 0) & (at < logits.shape[-1]) & (labels >= 0)
        own = torch.where(mine, logits.gather(-1, at.clamp(0, logits.shape[-1] - 1)[..., None]).squeeze(-1), 0.0)
        found = _SumOverShards.apply(own, self.group) - self._logsumexp(logits, real)
        return torch.where(labels >= 0, found, 0.0)

    def logprob_mean(self, outputs: Outputs, name: str = "logits") -> torch.Tensor:
        """As WholeOps, over the real columns."""
        if name not in self.names:
            return super().logprob_mean(outputs, name)
        logits, real = self._real(outputs, name)
        total: torch.Tensor = _SumOverShards.apply(torch.where(real, logits, 0.0).sum(-1), self.group)
        return total / self.size - self._logsumexp(logits, real)

    def argmax(self, outputs: Outputs, name: str = "logits") -> torch.Tensor:
        """Index in the whole vocabulary; of equal logits the smallest index."""
        if name not in self.names:
            return super().argmax(outputs, name)
        logits, real = self._real(outputs, name)
        value, index = logits.masked_fill(~real, -torch.inf).max(-1)
        values, indices = _gathered(value, self.group), _gathered(index + self.first, self.group)
        return torch.stack(indices).gather(0, torch.stack(values).argmax(0)[None])[0]

    def full(self, outputs: Outputs, name: str) -> torch.Tensor:
        """The whole output on every rank: shards gathered, padding columns left out."""
        if name not in self.names:
            return outputs[name]
        whole: torch.Tensor = _JoinShards.apply(outputs[name], self.group, self.first, self.size)
        return whole

    def _real(self, outputs: Outputs, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits in float32, and which columns are no padding."""
        logits = outputs[name].float()
        return logits, torch.arange(logits.shape[-1], device=logits.device) + self.first < self.size

    def _logsumexp(self, logits: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        masked = logits.masked_fill(~real, -torch.inf)
        largest = masked.detach().amax(-1)
        dist.all_reduce(largest, dist.ReduceOp.MAX, group=self.group)
        total: torch.Tensor = _SumOverShards.apply((masked - largest[..., None]).exp().sum(-1), self.group)
        return total.log() + largest


class PositionOps(WholeOps):
    """Outputs `names` hold this rank's part of the positions, axis 1; `inner` is right for them otherwise. Labels are whole, results too:
    the same on every rank, so each rank's loss is the whole one."""

    def __init__(self, inner: WholeOps, positions: Positions, names: Collection[str]) -> None:
        super().__init__(inner.data_group)
        self.inner, self.positions, self.names = inner, positions, frozenset(names)

    def token_logprobs(self, outputs: Outputs, labels: torch.Tensor, name: str = "logits") -> torch.Tensor:
        """As WholeOps."""
        own = self.positions.own(labels, 1) if name in self.names else labels
        return self._joined(self.inner.token_logprobs(outputs, own, name), name)

    def logprob_mean(self, outputs: Outputs, name: str = "logits") -> torch.Tensor:
        """As WholeOps."""
        return self._joined(self.inner.logprob_mean(outputs, name), name)

    def argmax(self, outputs: Outputs, name: str = "logits") -> torch.Tensor:
        """As WholeOps."""
        return self._joined(self.inner.argmax(outputs, name), name)

    def full(self, outputs: Outputs, name: str) -> torch.Tensor:
        """As WholeOps."""
        return self._joined(self.inner.full(outputs, name), name)

    def _joined(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return self.positions.gather(x, 1) if name in self.names else x
