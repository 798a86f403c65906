"""Random generators of a process as tensors: captured, restored, swapped in and out, safe to store."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator

import torch

from spcore.tensors.process import LOCK

State = dict[str, torch.Tensor]
"""Generator -> its state, uint8 [bytes]: "cpu", and "cuda" for a module on a CUDA device."""


def address(*parts: object) -> int:
    """A seed from what it belongs to: crc32 of the parts, joined by "/"."""
    return zlib.crc32("/".join(map(str, parts)).encode())


def capture(device: torch.device) -> State:
    """The state of the generators that a module on `device` draws from."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore(state: State, device: torch.device) -> None:
    """Set what `capture` took; a generator that the state lacks stays as it is."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def seeded(seed: int, device: torch.device) -> State:
    """The state that seeding gives; the process's own is left as it is."""
    with LOCK:
        before = capture(device)
        try:
            torch.manual_seed(seed)
            return capture(device)
        finally:
            restore(before, device)


@contextlib.contextmanager
def drawing(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Draw from a seed, on the CPU and on `device`; the process's own generators are put back."""
    with LOCK:
        before = capture(device or torch.device("cpu"))
        try:
            torch.default_generator.manual_seed(seed)
            if "cuda" in before:
                torch.cuda.manual_seed(seed)
            yield
        finally:
            restore(before, device or torch.device("cpu"))


@contextlib.contextmanager
def swapped(state: State, device: torch.device) -> Iterator[None]:
    """Run with `state`, which is brought up to date in place; the process's own is put back."""
    with LOCK:
        before = capture(device)
        restore(state, device)
        try:
            yield
        finally:
            state.update(capture(device))
            restore(before, device)
