"""What torch keeps for the whole process, taken as an engine's own while it computes: thread count and fp32 matrix products.

Everything that changes such state, random generators too (`spcore.tensors.rng`), does so under `LOCK`; so two models train in two
threads, each as if alone. What only reads it (predictions) is `sharing`, and waits where it has been changed.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import Any, Literal

import torch

from spcore.errors import RefusalError

LOCK = threading.RLock()
"""Held while process-wide state of torch is changed."""

Matmul = Literal["ieee", "tf32"]


class _Gate:
    """Threads that rely on the state, and the one, holder of `LOCK`, that has changed it. pool: whether torch has computed with
    several threads here; lost: whether it had in the process that this one was forked from, whose threads are not in this one."""

    def __init__(self) -> None:
        self.free = threading.Condition()
        self.inside, self.owner = 0, 0
        self.pool = self.lost = False

    def forking(self) -> None:
        """No thread is amid a change when the process is copied."""
        LOCK.acquire()
        self.free.acquire()

    def in_parent(self) -> None:
        self.free.release()
        LOCK.release()

    def in_child(self) -> None:
        """The threads that were inside are not here."""
        self.inside, self.lost, self.pool = 0, self.lost or self.pool, False
        self.in_parent()


_GATE = _Gate()
os.register_at_fork(before=_GATE.forking, after_in_parent=_GATE.in_parent, after_in_child=_GATE.in_child)


def ready() -> None:
    """Before this thread computes. Raises RefusalError in a forked process where torch would wait for threads that are not there."""
    with sharing():
        pass


@contextlib.contextmanager
def sharing() -> Iterator[None]:
    """With the process's state as its program has set it, beside others who rely on that, and never while it is changed."""
    me = threading.get_ident()
    with _GATE.free:
        _GATE.free.wait_for(lambda: _GATE.owner in (0, me))
        # A thread's number of CPU threads is settled when it first asks: not by what another has set for a time.
        _check_fork(torch.get_num_threads())
        _GATE.inside += 1
    try:
        yield
    finally:
        with _GATE.free:
            _GATE.inside -= 1
            _GATE.free.notify_all()


@contextlib.contextmanager
def computing(*, matmul: Matmul = "ieee", threads: int | None = None) -> Iterator[None]:
    """Alone in the process, with fp32 products as `matmul` says and so many CPU threads (None: as it is); afterwards as before.

    matmul: "tf32" lets CUDA round the factors of fp32 products to TF32; a CPU's products are fp32 under either.
    """
    with LOCK:
        ready()
        _check_fork(threads or 1)
        with _changing(matmul, threads), _matmul(matmul), _threads(threads), _attention(), plainly():
            yield


@contextlib.contextmanager
def plainly() -> Iterator[None]:
    """Outside of what the caller's own code may be in: inference_mode, no_grad, autocast, a default device."""
    elsewhere = torch.get_default_device().type != "cpu"
    place = torch.device("cpu") if elsewhere else contextlib.nullcontext()  # every call costs more where one is set
    cast = (torch.autocast(kind, enabled=False) for kind in ("cpu", "cuda"))
    with torch.inference_mode(False), torch.enable_grad(), place, next(cast), next(cast):
        yield


def _check_fork(threads: int) -> None:
    if threads > 1 and _GATE.lost:
        raise RefusalError(
            "this process was forked from one that had computed with torch, whose threads are gone here: computing would never end",
            hint='Start it by "spawn", fork before the first model computes, or call torch.set_num_threads(1) in it',
        )
    _GATE.pool = _GATE.pool or threads > 1


@contextlib.contextmanager
def _changing(matmul: Matmul, threads: int | None) -> Iterator[None]:
    """Where there is something to change: once those who rely on it are through, until it is as before."""
    same = all(knob.fp32_precision in (value, "none") for knob, value in _knobs(matmul))
    if (same and threads in (None, torch.get_num_threads())) or _GATE.owner:
        yield
        return
    with _GATE.free:
        _GATE.owner = threading.get_ident()
        _GATE.free.wait_for(lambda: not _GATE.inside)
    try:
        yield
    finally:
        with _GATE.free:
            _GATE.owner = 0
            _GATE.free.notify_all()


def _knobs(matmul: Matmul) -> tuple[tuple[Any, str], ...]:
    # The knobs of the backends, not `set_float32_matmul_precision`: reading that raises where a program has used these.
    return (torch.backends.cuda.matmul, matmul), (torch.backends.mkldnn.matmul, "ieee")


@contextlib.contextmanager
def _matmul(wanted: Matmul) -> Iterator[None]:
    knobs = _knobs(wanted)
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
def _attention() -> Iterator[None]:
    """Without cuDNN's attention, which builds a plan for every shape it meets: with texts of any length that is most steps' time
    (H100, 16 bits: 137 rows a second, not 1,728). torch's own kernels take any shape."""
    kind = torch.backends.cuda
    before = kind.cudnn_sdp_enabled()
    try:
        if before:
            kind.enable_cudnn_sdp(False)
        yield
    finally:
        if before:
            kind.enable_cudnn_sdp(True)


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
