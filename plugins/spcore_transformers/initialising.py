"""Values for the tensors of one leaf module, as its family gives them when a model is made from nothing."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

from spcore.errors import RefusalError

_CUSTOM = "_spcore_custom_head"


def mark_custom(head: nn.Module) -> None:
    """Note on every module of a custom head that it is one: a family may have a module named `head` too."""
    for module in head.modules():
        setattr(module, _CUSTOM, True)


def is_custom(module: nn.Module) -> bool:
    """Whether a module is of a custom head."""
    return bool(getattr(module, _CUSTOM, False))


def initialise_custom(module: nn.Module, path: str) -> None:
    """By its own `reset_parameters`. Raises RefusalError where it has tensors and no such method."""
    if callable(reset := getattr(module, "reset_parameters", None)):
        _blank(module)
        reset()
        _check(module, path, "its reset_parameters() leaves")
    elif _tensors(module):
        raise RefusalError(
            f"custom head: {type(module).__name__} at {path!r} has parameters and no reset_parameters()",
            hint="Give it one: heads are made without storage and initialised afterwards",
        )


def initialise_family(module: nn.Module, path: str, whole: Any) -> None:
    """By transformers' `_init_weights`, called on the leaf and then on each module above it: some families (ModernBERT, GPT-2,
    T5) initialise a layer from the module that holds it. whole: the model without storage, where `path` is the leaf's.

    Above the leaf everything stays without storage, so this costs no memory. Raises RefusalError where a tensor is left over.
    """
    _blank(module)
    whole._init_weights(module)
    for above in _grafted(module, path, whole):
        whole._init_weights(above)
    if _unset(module) and callable(reset := getattr(module, "reset_parameters", None)):
        reset()
    _check(module, path, f"family {whole.config.model_type!r} in transformers does not initialise")


def _grafted(module: nn.Module, path: str, whole: nn.Module) -> Iterator[nn.Module]:
    """Copies of the modules above `path`, nearest first, with `module` in its place; the originals are left alone."""
    names = path.split(".") if path else []
    below = module
    for n in reversed(range(len(names))):
        above = copy.copy(whole.get_submodule(".".join(names[:n])))
        above.__dict__ = dict(above.__dict__)
        above._modules = {**above._modules, names[n]: below}
        yield above
        below = above


def _tensors(module: nn.Module) -> list[tuple[str, torch.Tensor]]:
    own: Iterable[tuple[str, torch.Tensor]] = (
        *module.named_parameters(recurse=False), *module.named_buffers(recurse=False)
    )  # fmt: skip
    return [(name, tensor) for name, tensor in own if tensor.numel()]


def _blank(module: nn.Module) -> None:
    """Fill with what no initialisation gives, so that what is left out shows."""
    with torch.no_grad():
        for _, tensor in _tensors(module):
            if tensor.is_floating_point():
                tensor.fill_(torch.nan)
            elif tensor.dtype != torch.bool:
                tensor.fill_(torch.iinfo(tensor.dtype).min)


def _unset(module: nn.Module) -> list[str]:
    """Names of tensors that `_blank` filled and nobody has filled since."""
    left = []
    for name, tensor in _tensors(module):
        if tensor.is_floating_point():
            blank = bool(torch.isnan(tensor).any())
        else:
            blank = tensor.dtype != torch.bool and bool((tensor == torch.iinfo(tensor.dtype).min).any())
        if blank:
            left.append(name)
    return left


def _check(module: nn.Module, path: str, what: str) -> None:
    left = _unset(module)
    if left:
        raise RefusalError(f"model: {what} {left[0]!r} of {type(module).__name__} at {path!r}")
