"""Schedules: pure functions of step and total, to the bit those of transformers' functions of the same names at every step."""

from __future__ import annotations

import math
from abc import abstractmethod

from spcore.interfaces.optimizer import Schedule
from spcore_optim.options import CosineOptions, LinearOptions, WarmupOptions, WsdOptions


class Warmed(Schedule):
    """Up in a straight line from 0 over the warm-up (0 at step 0: transformers' first step does not move), then `after`."""

    def __init__(self, options: WarmupOptions) -> None:
        self._warmup = options.warmup

    def factor(self, step: int, total: int) -> float:
        """See `Schedule.factor`."""
        warmup = steps_of(self._warmup, total)
        return step / warmup if step < warmup else self.after(step - warmup, total - warmup)

    @abstractmethod
    def after(self, step: int, total: int) -> float:
        """The factor at step `step` (from 0) of the `total` steps that follow the warm-up."""


class Linear(Warmed):
    """After the warm-up down in a straight line to `minimum`."""

    def __init__(self, options: LinearOptions) -> None:
        super().__init__(options)
        self._minimum = options.minimum

    def after(self, step: int, total: int) -> float:
        """See `Warmed.after`."""
        return above(self._minimum, max(0.0, (total - step) / max(1, total)))


class Cosine(Warmed):
    """After the warm-up down along half a cosine to `minimum` (Loshchilov and Hutter, 2017)."""

    def __init__(self, options: CosineOptions) -> None:
        super().__init__(options)
        self._minimum = options.minimum

    def after(self, step: int, total: int) -> float:
        """See `Warmed.after`."""
        return above(self._minimum, half_cosine(step, total))


class Constant(Warmed):
    """After the warm-up always 1."""

    def after(self, step: int, total: int) -> float:
        """See `Warmed.after`."""
        return 1.0


class Wsd(Schedule):
    """Warm-up from `minimum`, stable, decay along half a cosine back to `minimum` (Hu et al., 2024, MiniCPM)."""

    def __init__(self, options: WsdOptions) -> None:
        self._options = options

    def factor(self, step: int, total: int) -> float:
        """See `Schedule.factor`. Where warm-up and decay, in steps, do not both fit, the decay is the shorter for it."""
        warmup = steps_of(self._options.warmup, total)
        decay = min(steps_of(self._options.decay, total), total - warmup)
        if step < warmup:
            return above(self._options.minimum, step / warmup)
        if step < total - decay:
            return 1.0
        return above(self._options.minimum, half_cosine(step - (total - decay), decay))


def steps_of(length: float, total: int) -> int:
    """A length in steps: as given if 1 or more, else a share of the run, rounded up as transformers rounds `warmup_steps`."""
    return int(length) if length >= 1 else math.ceil(length * total)


def half_cosine(step: int, total: int) -> float:
    """From 1 at step 0 to 0 at step `total` and after."""
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, step / max(1, total))))


def above(minimum: float, factor: float) -> float:
    """A factor from 0 to 1 as one from `minimum` to 1."""
    return factor * (1.0 - minimum) + minimum
