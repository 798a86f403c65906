"""Kinds `optimizer` and `schedule`. Engines ask an optimizer for its groups and build it over their own parameters; the
trainer asks a schedule for each step's factor.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class GroupKey:
    """Parameters with equal keys share a group. weight_decay: per step, times lr. lr_scale: multiplies the step's lr. rule: the
    optimizer's own name for how it updates the group, where it has several ways."""

    weight_decay: float = 0.0
    lr_scale: float = 1.0
    rule: str = ""

    def group(self, params: list[Any], lr: float) -> dict[str, Any]:
        """The torch param group of these parameters. lr: the base learning rate."""
        return {
            "params": params,
            "weight_decay": self.weight_decay,
            "lr": lr * self.lr_scale,
            "lr_scale": self.lr_scale,
            "rule": self.rule,
        }


class Optimizer(ABC):
    """family: what engines with optimizers of their own ask for ("adam", "sgd"), None = only `build` will do.
    lr: base learning rate, per step, before schedule. hyper: the family's numbers under torch's names (betas, eps).
    elementwise: whether what becomes of an element depends on nothing but that element's own values and gradients, so that a shard of
    a parameter may be updated as if it were one; engines that shard parameters refuse what is not."""

    family: str | None
    elementwise: bool = False
    lr: float
    hyper: Mapping[str, Any]

    @abstractmethod
    def groups(self, name: str, full_shape: tuple[int, ...]) -> GroupKey:
        """The group of a parameter, by its Hugging Face name and its whole shape (not a shard's)."""

    @abstractmethod
    def build(self, params: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """A torch optimizer over param groups {"params", "weight_decay", "lr", "lr_scale", "rule"}; the engine sets "lr"
        each step. Uses fused kernels where torch has them for the parameters' device."""


class Schedule(ABC):
    """Pure: no state, no torch."""

    @abstractmethod
    def factor(self, step: int, total: int) -> float:
        """What multiplies the base learning rate at step `step` (from 0) of `total`."""
