"""What torch keeps for the whole process, taken as an engine's own while it computes: thread count and fp32 matrix products.

Everything that changes such state, random generators too (`spcore.tensors.rng`), does so under `LOCK`; so two models train in two
threads, each as if alone.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Literal

import torch

LOCK = threading.RLock()
"""Held while process-wide state of torch is changed."""

Matmul = Literal["ieee", "tf32"]


@contextlib.contextmanager
def computing(*, matmul: Matmul = "ieee", threads: int | None = None) -> Iterator[None]:
    """Alone in the process, with fp32 products as `matmul` says and so many CPU threads (None: as it is); afterwards as before.

    matmul: "tf32" lets CUDA round the factors of fp32 products to TF32; a CPU's products are fp32 under either.
    """
    with LOCK, _matmul(matmul), _threads(threads):
        yield


@contextlib.contextmanager
def _matmul(wanted: Matmul) -> Iterator[None]:
    # The knobs of the backends, not `set_float32_matmul_precision`: reading that raises where a program has used these.
    knobs = ((torch.backends.cuda.matmul, wanted), (torch.backends.mkldnn.matmul, "ieee"))
    before = [knob.fp32_precision for knob, _ in knobs]
    try:
        for (knob, value), was in zip(knobs, before, strict=True):
            if was != value:
                knob.fp32_precision = value
        yield
    finally:
        for (knob, _), was in zip(knobs, before, strict=True):
            if knob.fp32_precision != was:
                knob.fp32_precision = was


@contextlib.contextmanager
def _threads(wanted: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        if wanted is not None and wanted != before:
            torch.set_num_threads(wanted)
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)
