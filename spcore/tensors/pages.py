"""Weights in large pages of memory.

A step of generating reads every weight once, and these are more small pages (4 KiB) than a processor remembers the places of. Linux gives
2 MiB at a time to those who ask, where it is not switched off (`admin-guide/mm/transhuge` in its documentation).
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable

import torch

_ALIGNED = 64
"""Bytes; what torch's own allocator keeps to."""
_LEAST = 2**23
"""Bytes in all from which on it is worth while: less lies in caches."""


def lay_out(tensors: Iterable[torch.Tensor]) -> None:
    """Give tensors on the CPU that hold nothing yet memory side by side, in large pages where the system has them: few tensors fill such a
    page by themselves. Each has a storage of its own still; the memory is given back with the last of them. Elsewhere, and where it is
    refused, they stay where they are. Called by `materialise`."""
    places, size = [], 0
    for tensor in tensors:
        if tensor.device.type == "cpu" and tensor.numel():
            places.append((tensor, size))
            size += -(-tensor.numel() * tensor.element_size() // _ALIGNED) * _ALIGNED
    if size < _LEAST or not hasattr(mmap, "MADV_HUGEPAGE"):
        return
    try:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory.madvise(mmap.MADV_HUGEPAGE)
    except OSError:  # no room side by side, or a kernel that was built without
        return
    for tensor, begin in places:
        flat = torch.frombuffer(memory, dtype=tensor.dtype, count=tensor.numel(), offset=begin)
        tensor.data = flat.view(tensor.shape)
