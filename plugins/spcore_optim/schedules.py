"""Schedules: pure functions of step and total, equal to transformers' at every step."""

from __future__ import annotations

import math

from spcore.interfaces.optimizer import Schedule
from spcore_optim.options import ConstantOptions, CosineOptions, LinearOptions, WsdOptions


def steps_of(length: float, total: int) -> int:
    """A length in steps: as given if 1 or more, else a share of the run, rounded up as transformers rounds warm-up ratios."""
    return int(length) if length >= 1 else math.ceil(length * total)


class Linear(Schedule):
    """Up over the warm-up, then down in a straight line."""

    def __init__(self, options: LinearOptions) -> None:
        self.options = options

    def factor(self, step: int, total: int) -> float:
        """See `Schedule.factor`."""
        warmup = steps_of(self.options.warmup, total)
        if step < warmup:
            return step / warmup
        left = max(0.0, (total - step) / max(1, total - warmup))
        return self.options.minimum + (1 - self.options.minimum) * left


class Cosine(Schedule):
    """Up over the warm-up, then down along half a cosine (Loshchilov and Hutter, 2017)."""

    def __init__(self, options: CosineOptions) -> None:
        self.options = options

    def factor(self, step: int, total: int) -> float:
        """See `Schedule.factor`."""
        warmup = steps_of(self.options.warmup, total)
        if step < warmup:
            return step / warmup
        done = min(1.0, (step - warmup) / max(1, total - warmup))
        return self.options.minimum + (1 - self.options.minimum) * 0.5 * (1 + math.cos(math.pi * done))


class Constant(Schedule):
    """Up over the warm-up, then constant."""

    def __init__(self, options: ConstantOptions) -> None:
        self.options = options

    def factor(self, step: int, total: int) -> float:
        """See `Schedule.factor`."""
        warmup = steps_of(self.options.warmup, total)
        return step / warmup if step < warmup else 1.0


class Wsd(Schedule):
    """Up over the warm-up, constant, then down along half a cosine at the end (Hu et al., 2024)."""

    def __init__(self, options: WsdOptions) -> None:
        self.options = options

    def factor(self, step: int, total: int) -> float:
        """See `Schedule.factor`."""
        warmup = steps_of(self.options.warmup, total)
        decay = min(steps_of(self.options.decay, total), total - warmup)
        if step < warmup:
            return step / warmup
        if step < total - decay:
            return 1.0
        done = min(1.0, (step - (total - decay)) / max(1, decay))
        return self.options.minimum + (1 - self.options.minimum) * 0.5 * (1 + math.cos(math.pi * done))
