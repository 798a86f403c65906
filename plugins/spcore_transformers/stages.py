"""A module cut down to one stage of a pipeline, without its family's code being rewritten.

The backbone's own forward pass still runs: it makes masks and positions from the inputs, which every stage is given, and loops over
its layers. Only the parts of other stages are gone: what stands in the place of embeddings gives zeros of the right shape, the layer
before the stage's first gives the states that the stage received instead of what came in, other layers give what came in.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from spcore.interfaces.model import Anatomy


@dataclass
class Received:
    """hidden: [S, L, H], what the stage before gave for the microbatch that is being run; None on the first stage."""

    hidden: torch.Tensor | None = None


class _Nothing:
    """Stands as the forward of what feeds the first layer: zeros [..., H] for ids [...], or for states [..., any width]."""

    def __init__(self, received: Received) -> None:
        self.received = received

    def __call__(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Their values reach no output."""
        hidden = self.received.hidden
        assert hidden is not None, "a stage that is not the first receives states"
        given = next(x for x in (*args, *kwargs.values()) if isinstance(x, torch.Tensor))
        shape = given.shape[:-1] if given.is_floating_point() else given.shape
        return hidden.new_zeros(()).expand(*shape, hidden.shape[-1])


def _same(*args: Any, **_: Any) -> Any:
    """Stands as the forward of what a later stage does: what came in."""
    return args[0]


class _Elsewhere(nn.Module):  # type: ignore[misc]
    """Stands for a layer of another stage. enters: where it is the one before this stage's first."""

    def __init__(self, layer: nn.Module, enters: Received | None) -> None:
        super().__init__()
        self.enters = enters
        for name in ("attention_type", "layer_idx"):  # which loops over layers read
            if hasattr(layer, name):
                setattr(self, name, getattr(layer, name))

    def forward(self, hidden: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        """[S, L, H], or as the backbone laid the rows out."""
        if self.enters is None:
            return hidden
        assert self.enters.hidden is not None, "a stage that is not the first receives states"
        return self.enters.hidden.view(hidden.shape)


def cut(module: nn.Module, anatomy: Anatomy, layers: range) -> Received:
    """Leave what a stage with these layers needs, in place. A tied tensor that an alias of this stage needs stays under its owner's name.
    Returns where the forward pass finds what it received."""
    assert anatomy.layers is not None, "`depth` refuses what has no list of layers"
    received, base = Received(), module.get_submodule(anatomy.base)
    every = base.get_submodule(anatomy.layers)
    first, last = layers.start == 0, layers.stop == len(every)
    if not last:
        for path in anatomy.head:
            _put(module, path, nn.Module())
    for n, layer in enumerate(every):
        if n not in layers:
            every[n] = _Elsewhere(layer, received if n == layers.start - 1 else None)
    left = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    kept = {owner for alias, owner in anatomy.tied.items() if alias in left}
    before, after = _around(base, anatomy.layers)
    for path in [] if first else before:
        _hollow(base, path, _Nothing(received), {_below(owner, anatomy.base) for owner in kept})
    for path in [] if last else after:
        _hollow(base, path, _same, set())
    return received


def _below(name: str, base: str) -> str:
    return name.removeprefix(f"{base}.")


def _put(root: nn.Module, path: str, part: nn.Module) -> None:
    above, _, name = path.rpartition(".")
    root.get_submodule(above)._modules[name] = part


def _around(base: nn.Module, layers: str) -> tuple[list[str], list[str]]:
    """Paths of what has parameters and stands before the layers, and after them, at any height."""
    before: list[str] = []
    after: list[str] = []
    names = layers.split(".")
    for depth, name in enumerate(names):
        above = ".".join(names[:depth])
        found = before
        for child, part in base.get_submodule(above).named_children():
            if child == name:
                found = after
            elif next(part.parameters(), None) is not None:
                found.append(f"{above}.{child}" if above else child)
    return before, after


def _hollow(base: nn.Module, path: str, forward: Any, kept: Collection[str]) -> None:
    """Have a part do `forward` and hold of its tensors only those of `kept` (names below base), under their names."""
    part = base.get_submodule(path)
    mine = {name.removeprefix(f"{path}.") for name in kept if name.startswith(f"{path}.")}
    if not mine:
        part = nn.Module()
        _put(base, path, part)
    for below, module in list(part.named_modules()):
        names = {name: f"{below}.{name}" if below else name for name in [*module._parameters, *module._modules]}
        for name, full in names.items():
            if any(wanted == full or wanted.startswith(f"{full}.") for wanted in mine):
                continue
            delattr(module, name)
        if not module._parameters:
            module._buffers.clear()
    part.forward = forward
