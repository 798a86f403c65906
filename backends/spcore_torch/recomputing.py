"""Activation checkpointing: what a layer's backward pass needs is not kept from its forward pass but computed again (Chen et al., 2016,
arXiv 1604.06174), by `torch.utils.checkpoint`, layer by layer.

"full" keeps the layer's inputs alone; "selective" also the results of its large matrix products and of fused attention, and computes the
cheap rest anew (Korthikanti et al., 2022, arXiv 2205.05198). Random draws are those of the first time, ranks' own ones too, so gradients
are the same with dropout on.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from spcore.interfaces.model import Anatomy
from spcore.interfaces.strategy import Plan, Refusal

How = Literal["none", "full", "selective"]
Again = Callable[[], contextlib.AbstractContextManager[None]]
"""Called before a layer's forward pass; gives a context in which whatever the pass reads beside its inputs is as it was then."""


def stacks(anatomy: Anatomy) -> list[str]:
    """Full paths of the lists of layers."""
    below = [path for path in (anatomy.layers, anatomy.encoder_layers) if path]
    return [f"{anatomy.base}.{path}" if anatomy.base else path for path in below]


def layers(module: nn.Module, anatomy: Anatomy) -> list[nn.Module]:
    """The layers of a module, those alone of a stage of a pipeline."""
    every = [layer for path in stacks(anatomy) for layer in module.get_submodule(path).children()]
    return [layer for layer in every if next(layer.parameters(), None) is not None]


def refusals(plan: Plan, how: How) -> list[Refusal]:
    """Whether there are layers to do it by."""
    if how == "none" or stacks(plan.model.anatomy(plan.head)):
        return []
    why = f"where the layers of family {plan.model.family!r} lie is not known"
    return [Refusal(f"strategy.activation_checkpointing {how}", why, "leave it out")]


@functools.cache
def _kept() -> frozenset[Any]:
    """Operations whose results "selective" keeps: large products, and attention that never holds its scores. Not small products by batch,
    which are attention's scores: those grow with the square of the length."""
    aten = torch.ops.aten
    found = [aten.mm.default, aten.addmm.default]
    found += [getattr(aten, name).default for name in _FUSED if hasattr(aten, name)]
    if hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        found.append(torch.ops.mkldnn._linear_pointwise.default)
    return frozenset(found)


_FUSED = (
    "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention", "_scaled_dot_product_cudnn_attention",
)  # fmt: skip


def _policy(_: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operation in _kept() else CheckpointPolicy.PREFER_RECOMPUTE


class _Forward:
    """Stands as a layer's `forward`."""

    def __init__(self, inner: Callable[..., Any], how: How, again: Sequence[Again]) -> None:
        self.inner, self.how, self.again = inner, how, again

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As the layer's own."""
        if not torch.is_grad_enabled():
            return self.inner(*args, **kwargs)
        # What a model reads of context variables is no more there in the backward pass.
        run = functools.partial(contextvars.copy_context().run, self.inner)
        return checkpoint(run, *args, use_reentrant=False, context_fn=self._contexts, **kwargs)

    def _contexts(self) -> tuple[contextlib.AbstractContextManager[Any], contextlib.AbstractContextManager[Any]]:
        """Round the first time and the second."""
        first, second = (
            create_selective_checkpoint_contexts(_policy)
            if self.how == "selective"
            else (contextlib.nullcontext(), contextlib.nullcontext())
        )
        return first, _all([*(again() for again in self.again), second])


@contextlib.contextmanager
def _all(contexts: Sequence[contextlib.AbstractContextManager[Any]]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for context in contexts:
            stack.enter_context(context)
        yield


def install(found: Iterable[nn.Module], how: How, again: Sequence[Again] = ()) -> None:
    """Have layers compute again what they do not keep."""
    if how != "none":
        for layer in found:
            layer.forward = _Forward(layer.forward, how, again)


def uninstall(module: nn.Module) -> None:
    """Take back what `install` gave."""
    for layer in module.modules():
        given = layer.__dict__.get("forward")
        if isinstance(given, _Forward):
            layer.forward = given.inner
