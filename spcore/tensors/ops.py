"""`Ops` for outputs that are whole on a rank, and for outputs sharded along the vocabulary (Megatron's, DTensor's)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

Outputs = Mapping[str, torch.Tensor]


def as_tensors(arrays: Mapping[str, Any], device: torch.device | str = "cpu") -> dict[str, torch.Tensor]:
    """numpy arrays (or tensors) as tensors on a device; integers stay what they are."""
    return {k: torch.as_tensor(np.ascontiguousarray(v) if isinstance(v, np.ndarray) else v, device=device) for k, v in arrays.items()}


class WholeOps:
    """Outputs whole on this rank. data_group: the data-parallel process group, None for one process."""

    def __init__(self, data_group: Any = None) -> None:
        self.data_group = data_group

    def token_logprobs(self, outputs: Outputs, labels: torch.Tensor, name: str = "logits") -> torch.Tensor:
        """log p(label), float32, of labels' shape; 0 where a label is below 0. Works row by row chosen, so a batch with few labels
        costs few softmaxes."""
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
        """Mean over the data-parallel ranks, differentiable."""
        if self.data_group is None:
            return x
        return _Sum.apply(x, self.data_group) / dist.get_world_size(self.data_group)


class _Sum(torch.autograd.Function):
    """Sum over a group forward; backward each shard's own part, since what follows is computed alike on every rank."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: Any) -> torch.Tensor:
        total = x.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grads[0], None


class VocabularyOps(WholeOps):
    """Outputs `names` hold columns [first, first + n) of a vocabulary of `size` on this rank; columns past it are padding. Right
    for uneven shards."""

    def __init__(self, group: Any, first: int, size: int, names: Collection[str], data_group: Any = None) -> None:
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
        return torch.where(labels >= 0, _Sum.apply(own, self.group) - self._logsumexp(logits, real), 0.0)

    def logprob_mean(self, outputs: Outputs, name: str = "logits") -> torch.Tensor:
        """As WholeOps, over the real columns."""
        if name not in self.names:
            return super().logprob_mean(outputs, name)
        logits, real = self._real(outputs, name)
        total = _Sum.apply(torch.where(real, logits, 0.0).sum(-1), self.group)
        return total / self.size - self._logsumexp(logits, real)

    def argmax(self, outputs: Outputs, name: str = "logits") -> torch.Tensor:
        """Index in the whole vocabulary; of equal logits the smallest index."""
        if name not in self.names:
            return super().argmax(outputs, name)
        logits, real = self._real(outputs, name)
        value, index = logits.masked_fill(~real, -torch.inf).max(-1)
        values, indices = self._gather(value), self._gather(index + self.first)
        return torch.stack(indices).gather(0, torch.stack(values).argmax(0)[None])[0]

    def full(self, outputs: Outputs, name: str) -> torch.Tensor:
        """The whole output: shards gathered, padding cut; for evaluation (no gradient flows)."""
        if name not in self.names:
            return outputs[name]
        widths = self._gather(torch.tensor([outputs[name].shape[-1]]))
        widest = max(int(w) for w in widths)
        padded = torch.nn.functional.pad(outputs[name].detach(), (0, widest - outputs[name].shape[-1]))
        shards = [shard[..., : int(w)] for shard, w in zip(self._gather(padded), widths, strict=True)]
        return torch.cat(shards, -1)[..., : self.size]

    def _real(self, outputs: Outputs, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        logits = outputs[name].float()
        return logits, torch.arange(logits.shape[-1], device=logits.device) + self.first < self.size

    def _logsumexp(self, logits: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        masked = logits.masked_fill(~real, -torch.inf)
        largest = masked.detach().amax(-1)
        dist.all_reduce(largest, dist.ReduceOp.MAX, group=self.group)
        return _Sum.apply((masked - largest[..., None]).exp().sum(-1), self.group).log() + largest

    def _gather(self, x: torch.Tensor) -> list[torch.Tensor]:
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size(self.group))]
        dist.all_gather(parts, x.contiguous(), group=self.group)
        return parts
