"""Where a process computes, and the default process group, for engines of several processes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
import torch.distributed as dist

from spcore.errors import RefusalError
from spcore.interfaces.strategy import Place, Plan


def device_of(plan: Plan, place: Place) -> str:
    """A process's device: "auto" is a GPU each where there are any. Raises RefusalError where a node has too few."""
    if plan.device == "cpu" or not torch.cuda.is_available():
        return "cpu"
    if place.local_rank >= torch.cuda.device_count():
        raise RefusalError(
            f"process {place.local_rank} of this node has no GPU: torch sees {torch.cuda.device_count()}; "
            "start fewer processes, or use device=cpu"
        )
    return f"cuda:{place.local_rank}"


@contextlib.contextmanager
def group_of(place: Place, device: str) -> Iterator[None]:
    """The default process group: the one that is there, else one made from the environment that launchers set, or of a process that is
    alone."""
    if dist.is_initialized():
        yield
        return
    backend = "nccl" if device.startswith("cuda") else "gloo"
    store = dist.HashStore() if place.world_size == 1 else None
    dist.init_process_group(backend, rank=place.rank, world_size=place.world_size, store=store)
    try:
        yield
    finally:
        dist.destroy_process_group()
