"""Random generators of a process as tensors: captured, restored, swapped in and out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


def capture(device: torch.device) -> dict[str, torch.Tensor]:
    """The state of torch's generators that a module on `device` draws from."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore(state: dict[str, torch.Tensor], device: torch.device) -> None:
    """Set what `capture` took."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)


def seeded(seed: int, device: torch.device) -> dict[str, torch.Tensor]:
    """The state that seeding gives; the process's own state is left as it is."""
    before = capture(device)
    try:
        torch.manual_seed(seed)
        return capture(device)
    finally:
        restore(before, device)


@contextlib.contextmanager
def swapped(state: dict[str, torch.Tensor], device: torch.device) -> Iterator[None]:
    """Run with `state`, which is updated in place; the process's own is put back."""
    before = capture(device)
    restore(state, device)
    try:
        yield
    finally:
        state.update(capture(device))
        restore(before, device)
