"""Weights in large pages of memory.

A step of generating reads every weight once, and these are more small pages (4 KiB) than a processor remembers the places of. Linux gives
2 MiB at a time to those who ask, where it is not switched off (`admin-guide/mm/transhuge` in its documentation).
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterable, Sequence

import torch

_ALIGNED = 64
"""Bytes; what torch's own allocator keeps to."""
_LEAST = 2**23
"""Bytes in all from which on it is worth while: less lies in caches."""


def lay_out(tensors: Iterable[torch.Tensor]) -> None:
    """Give tensors on the CPU that hold nothing yet memory side by side, in large pages where the system has them: few tensors fill such a
    page by themselves. Each has a storage of its own still; the memory is given back with the last of them. Elsewhere, and where it is
    refused, they stay where they are. Called by `materialise` and by caches that grow."""
    places, size = [], 0
    # Matrices first: those of one module, of which some have a bias, are neighbours then (`adjoining`).
    for tensor in sorted(tensors, key=lambda t: t.dim() < 2):
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


def adjoining(tensors: Sequence[torch.Tensor]) -> torch.Tensor | None:
    """Tensors on the CPU as one, end to end along their first dimension, if that is how they lie in memory: [sum of n, ...] of the same
    numbers, which it keeps alive. Else None. Called by `joined`."""
    first = tensors[0]
    kinds = {(tensor.dtype, tensor.shape[1:], tensor.device.type, tensor.is_contiguous()) for tensor in tensors}
    if kinds != {(first.dtype, first.shape[1:], "cpu", True)} or not first.nbytes:
        return None
    ends = [tensor.data_ptr() + tensor.nbytes for tensor in tensors]
    if any(end != following.data_ptr() for end, following in zip(ends, tensors[1:], strict=False)):
        return None
    memory = (ctypes.c_byte * (ends[-1] - first.data_ptr())).from_address(first.data_ptr())
    memory.of = [tensor.detach() for tensor in tensors]  # type: ignore[attr-defined]
    return torch.frombuffer(memory, dtype=first.dtype).view(-1, *first.shape[1:])
