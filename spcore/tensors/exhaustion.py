"""Memory that is exhausted: how torch says so, and what a person can do about it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from spcore.errors import RunError
from spcore.interfaces.task import Batch


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device, or the process, has no more memory."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)  # torch's allocator on a CPU


def too_large(device: torch.device, batches: Sequence[Batch], setting: str) -> RunError:
    """What a person reads where a sweep that cannot be repeated ran out of memory. setting: which makes batches smaller."""
    rows = max((len({i for i in batch.feature_ids.ravel().tolist() if i >= 0}) for batch in batches), default=1)
    tokens = max((a.size for batch in batches for a in batch.inputs.values()), default=1)
    half = (rows if setting == "train.micro_batch_size" else tokens) // 2
    said = f"{device}: not enough memory for a batch of {rows} features, {tokens} padded tokens"
    return RunError(said, hint=f"Try {setting}={max(1, half)}")
