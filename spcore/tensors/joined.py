"""Several linear layers that read the same input as one.

A step of generating is hundreds of products of a row or a few, each of which has a price of its own beside the weights that it reads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from spcore.tensors.pages import adjoining


@runtime_checkable
class Multiplies(Protocol):
    """What a backend may give a linear layer as its `forward`, and can give another one just so."""

    def over(self, linear: nn.Linear) -> Callable[..., torch.Tensor]:
        """The same for another layer."""
        ...


def joined(linears: Sequence[nn.Module]) -> nn.Linear | None:
    """One layer [sum of outputs, inputs] that reads the weights of several where they are, if they lie side by side and are multiplied
    alike. None else: where a hook, an adapter or a shard stands in the place of one, too. Called by decoders, for models that are not
    trained."""
    if any(type(linear) is not nn.Linear or linear._forward_hooks or linear._forward_pre_hooks for linear in linears):
        return None
    stated: list[Any] = [linear.__dict__.get("forward") for linear in linears]
    if len({type(forward) for forward in stated}) > 1 or not isinstance(stated[0], Multiplies | None):
        return None
    weight = adjoining([linear.weight for linear in linears])
    biases = [linear.bias for linear in linears if linear.bias is not None]
    bias = adjoining(biases) if len(biases) == len(linears) else None
    if weight is None or (biases and bias is None):
        return None
    made = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta", dtype=weight.dtype)
    made.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        made.bias = nn.Parameter(bias, requires_grad=False)
    if stated[0] is not None:
        made.forward = stated[0].over(made)
    return made
