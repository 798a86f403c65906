"""Gradients summed over ranks in buckets, each as soon as it is whole, while the backward pass goes on.

torch's DistributedDataParallel does the like and does not fit here: it takes means (rule: plain sums), waits for parameters that a
rank's part leaves out, and cannot go on after a rank ran out of memory half way through a backward pass.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist

BUCKET_BYTES = 25 * 2**20
"""Of gradients in one message: enough to use the network's breadth, few enough for the first to leave early."""


class Reducer:
    """Over the parameters of one module. Buckets are made and sent in one order, the same on every rank: that in which backward
    passes finish gradients, from the module's end."""

    def __init__(self, parameters: Iterable[torch.nn.Parameter], group: Any, bucket_bytes: int = BUCKET_BYTES) -> None:
        self.group = group
        self._buckets: list[list[torch.nn.Parameter]] = []
        self._bucket_of: dict[torch.nn.Parameter, int] = {}
        room, kind = 0, None
        for parameter in reversed([p for p in parameters if p.requires_grad]):
            size = parameter.numel() * parameter.element_size()
            if size > room or parameter.dtype != kind:
                self._buckets.append([])
                room, kind = bucket_bytes, parameter.dtype
            self._buckets[-1].append(parameter)
            self._bucket_of[parameter] = len(self._buckets) - 1
            room -= size
        self._hooks = [p.register_post_accumulate_grad_hook(self._ready) for p in self._bucket_of]
        self._armed = False
        self._begin()

    def _begin(self) -> None:
        self._waiting = [len(bucket) for bucket in self._buckets]
        self._sent: list[tuple[torch.Tensor, Any]] = []

    def arm(self, last: bool) -> None:
        """Before a microbatch: whether its backward pass finishes the gradients."""
        self._armed = last

    def _ready(self, parameter: torch.nn.Parameter) -> None:
        if self._armed:
            self._waiting[self._bucket_of[parameter]] -= 1
            while len(self._sent) < len(self._buckets) and not self._waiting[len(self._sent)]:
                self._send()

    def _send(self) -> None:
        """The next bucket. A gradient that this rank has not counts as zeros: another may have it."""
        bucket = self._buckets[len(self._sent)]
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in bucket]
        flat = grads[0].reshape(-1) if len(grads) == 1 else torch.cat([g.reshape(-1) for g in grads])
        self._sent.append((flat, dist.all_reduce(flat, group=self.group, async_op=True)))

    def finish(self) -> None:
        """Send what is left, wait, and give every parameter the sum. One that has no gradient on any rank gets none: it is none of
        the optimizer's business, as in one process."""
        self._armed = False
        present = torch.tensor([p.grad is not None for p in self._bucket_of], dtype=torch.uint8)
        device = next(iter(self._bucket_of)).device
        present = present.to(device)
        while len(self._sent) < len(self._buckets):
            self._send()
        dist.all_reduce(present, dist.ReduceOp.MAX, group=self.group)
        known = iter(present.tolist())
        for bucket, (flat, work) in zip(self._buckets, self._sent, strict=True):
            work.wait()
            at = 0
            for parameter in bucket:
                there = next(known)
                parameter.grad = flat[at : at + parameter.numel()].view_as(parameter) if there else None
                at += parameter.numel()
        self._begin()

    def close(self) -> None:
        """Take the hooks off the parameters."""
        for hook in self._hooks:
            hook.remove()
