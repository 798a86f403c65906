"""Optimizers: which parameters decay, and torch's own implementations over them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from spcore.errors import RefusalError
from spcore.interfaces.optimizer import GroupKey, Optimizer
from spcore_optim.options import AdafactorOptions, AdamWOptions, DecayOptions, LionOptions, SgdOptions

if TYPE_CHECKING:
    import torch

_NORM = re.compile(r"(^|[._])(layer_?norm|rms_?norm|norm\d*|ln(_\w+)?)([._]|$)", re.IGNORECASE)


class _Decaying(Optimizer):
    """Groups by whether a parameter decays: matrices do; vectors (norms, biases) do not."""

    def __init__(self, options: DecayOptions) -> None:
        self._decay, self._without = options.weight_decay, options.no_decay
        self.lr: float = options.lr  # type: ignore[attr-defined]

    def groups(self, name: str, full_shape: tuple[int, ...]) -> GroupKey:
        """See `Optimizer.groups`."""
        free = len(full_shape) < 2 or name.endswith("bias") or bool(_NORM.search(name)) or any(part in name for part in self._without)
        return GroupKey(0.0 if free else self._decay)


class AdamW(_Decaying):
    """torch.optim.AdamW, fused where torch has it."""

    family = "adam"

    def __init__(self, options: AdamWOptions) -> None:
        super().__init__(options)
        self.hyper = {"betas": options.betas, "eps": options.eps}

    def build(self, params: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """See `Optimizer.build`."""
        import torch

        kernel = {"fused": True} if can_fuse(params) else {"foreach": True}
        return torch.optim.AdamW(params, lr=self.lr, **self.hyper, **kernel)


class Adafactor(_Decaying):
    """torch.optim.Adafactor."""

    family = None

    def __init__(self, options: AdafactorOptions) -> None:
        super().__init__(options)
        self.hyper = {"beta2_decay": options.beta2_decay, "d": options.clip_threshold}

    def build(self, params: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """See `Optimizer.build`."""
        import torch

        return torch.optim.Adafactor(params, lr=self.lr, **self.hyper)


class Sgd(_Decaying):
    """torch.optim.SGD, fused where torch has it."""

    family = "sgd"

    def __init__(self, options: SgdOptions) -> None:
        super().__init__(options)
        if options.nesterov and not options.momentum:
            raise RefusalError("optimizer.nesterov: needs momentum, which is 0")
        self.hyper = {"momentum": options.momentum, "nesterov": options.nesterov}

    def build(self, params: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """See `Optimizer.build`."""
        import torch

        kernel = {"fused": True} if can_fuse(params) else {"foreach": True}
        return torch.optim.SGD(params, lr=self.lr, **self.hyper, **kernel)


class Lion(_Decaying):
    """The sign of an interpolation between momentum and gradient."""

    family = None

    def __init__(self, options: LionOptions) -> None:
        super().__init__(options)
        self.hyper = {"betas": options.betas}

    def build(self, params: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """See `Optimizer.build`."""
        from spcore_optim.lion import LionOptimizer

        return LionOptimizer(params, lr=self.lr, betas=self.hyper["betas"])


def can_fuse(params: list[dict[str, Any]]) -> bool:
    """Whether torch has a fused kernel for every parameter: floating point, on a CPU, a GPU or another device it names."""
    every: Iterable[Any] = (p for group in params for p in group["params"])
    return all(p.is_floating_point() and p.device.type in ("cpu", "cuda", "xpu", "mps") for p in every)
