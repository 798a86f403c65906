"""Optimizers: which parameters decay, and which implementation runs over them. torch is imported by `build` alone."""

from __future__ import annotations

import fnmatch
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from spcore.interfaces.optimizer import GroupKey, Optimizer
from spcore_optim.options import AdafactorOptions, AdamWOptions, DecayOptions, LionOptions, MuonOptions, SgdOptions

if TYPE_CHECKING:
    import torch

_NORM = re.compile(r"(^|\.)([^.]*norm[^.]*|ln(_[^.]*)?)\.", re.IGNORECASE)
"""A module whose name has "norm" in it, or GPT-2's ln_1, ln_f."""
_BIAS = re.compile(r"bias(\.|$)")
"""A bias, also one that is a module's only weight (T5's relative_attention_bias) or lies stacked (one row an expert)."""
_LAYER = re.compile(r"\.\d+\.")
_TABLE = re.compile(r"embed|wte|wpe", re.IGNORECASE)
"""A table of rows that are looked up, each a vector of its own."""
_FUSED = frozenset({"cpu", "cuda", "hpu", "mps", "mtia", "xpu"})
"""Device types for which torch has fused AdamW and SGD, in every floating-point format."""


class Decaying(Optimizer):
    """Groups by whether a parameter decays: matrices do; norms, biases and other vectors do not, as in transformers' Trainer.

    The whole shape decides, not a shard's: a matrix sharded to one row still decays.
    """

    def __init__(self, options: DecayOptions) -> None:
        self.lr = options.lr
        self._decay = options.weight_decay
        self._without = [f"*{pattern}*" for pattern in options.no_decay]

    def groups(self, name: str, full_shape: tuple[int, ...]) -> GroupKey:
        """See `Optimizer.groups`."""
        exempt = (
            len(full_shape) < 2
            or _BIAS.search(name) is not None
            or _NORM.search(name) is not None
            or any(fnmatch.fnmatchcase(name, pattern) for pattern in self._without)
        )
        return GroupKey(0.0 if exempt else self._decay)


class AdamW(Decaying):
    """torch.optim.AdamW, fused where torch has it."""

    family = "adam"
    elementwise = True

    def __init__(self, options: AdamWOptions) -> None:
        super().__init__(options)
        self.hyper = {"betas": options.betas, "eps": options.eps}

    def build(self, params: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """See `Optimizer.build`."""
        import torch

        return torch.optim.AdamW(params, lr=self.lr, **self.hyper, **kernel(params, shards=True))


class Adafactor(Decaying):
    """torch.optim.Adafactor: its steps are lr times a parameter's root mean square, lr at most 1 / sqrt(step)."""

    family = None

    def __init__(self, options: AdafactorOptions) -> None:
        super().__init__(options)
        self.hyper = {"beta2_decay": options.beta2_decay, "eps": (None, options.eps), "d": options.clip_threshold}

    def build(self, params: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """See `Optimizer.build`. One tensor at a time: all at once would take the memory that Adafactor saves."""
        import torch

        return torch.optim.Adafactor(params, lr=self.lr, **self.hyper)


class Sgd(Decaying):
    """torch.optim.SGD, fused where torch has it; its weight decay is coupled: part of the gradient, so of the momentum."""

    family = "sgd"
    elementwise = True

    def __init__(self, options: SgdOptions) -> None:
        super().__init__(options)
        self.hyper = {"momentum": options.momentum, "nesterov": options.nesterov}

    def build(self, params: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """See `Optimizer.build`."""
        import torch

        return torch.optim.SGD(params, lr=self.lr, **self.hyper, **kernel(params, shards=False))


class Lion(Decaying):
    """The sign of an interpolation between momentum and gradient; half of AdamW's state."""

    family = None
    elementwise = True

    def __init__(self, options: LionOptions) -> None:
        super().__init__(options)
        self.hyper = {"betas": options.betas}

    def build(self, params: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """See `Optimizer.build`."""
        from spcore_optim.lion import LionOptimizer

        return LionOptimizer(params, lr=self.lr, **self.hyper)


class Muon(Decaying):
    """Orthogonalised momentum for the matrices of numbered layers, AdamW for embeddings, heads, norms and biases."""

    family = None

    def __init__(self, options: MuonOptions) -> None:
        super().__init__(options)
        self.hyper = {"momentum": options.momentum, "betas": options.betas, "eps": options.eps}

    def groups(self, name: str, full_shape: tuple[int, ...]) -> GroupKey:
        """See `Optimizer.groups`."""
        key = super().groups(name, full_shape)
        hidden = len(full_shape) == 2 and _LAYER.search(name) and not _BIAS.search(name) and not _TABLE.search(name)
        return replace(key, rule="muon") if hidden else key

    def build(self, params: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """See `Optimizer.build`."""
        from spcore_optim.muon import RULE, MuonOptimizer

        others = [group for group in params if group.get("rule") != RULE]
        return MuonOptimizer(params, lr=self.lr, **self.hyper, adamw=kernel(others, shards=False))


def kernel(params: list[dict[str, Any]], *, shards: bool) -> dict[str, bool]:
    """The argument that chooses torch's fastest kernel for all of these param groups: fused, else one call for many tensors.

    shards: whether the fused kernel takes DTensors, which AdamW's does and SGD's (torch 2.13) does not.
    """
    from torch import Tensor
    from torch.nn import Parameter

    every = [p for group in params for p in group["params"]]
    fused = all(
        p.is_floating_point() and p.device.type in _FUSED and (shards or type(p) in (Tensor, Parameter)) for p in every
    )
    return {"fused": True} if fused else {"foreach": True}
