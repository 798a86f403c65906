"""A precision policy, an optimizer and a schedule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from spcore.interfaces.optimizer import GroupKey, Optimizer, Schedule
from spcore.interfaces.precision import LossScaling, PrecisionPolicy
from spcore.testing.options import FakeOptimizerOptions

if TYPE_CHECKING:
    import torch

FAKE_PRECISION = PrecisionPolicy("fake", compute="float16", loss_scaling=LossScaling(initial=1024.0, interval=10))


class FakeOptimizer(Optimizer):
    """Kind `optimizer`: plain gradient descent; matrices decay, vectors do not."""

    family = "sgd"
    elementwise = True

    def __init__(self, options: FakeOptimizerOptions | None = None) -> None:
        self.options = options or FakeOptimizerOptions.model_validate({})
        self.lr = self.options.lr
        self.hyper: Mapping[str, Any] = {"momentum": 0.0}

    def groups(self, name: str, full_shape: tuple[int, ...]) -> GroupKey:
        """Two groups, by dimensions."""
        return GroupKey(self.options.weight_decay if len(full_shape) > 1 else 0.0)

    def build(self, params: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """torch's SGD."""
        import torch

        return torch.optim.SGD(params, lr=self.lr, momentum=self.hyper["momentum"])


class FakeSchedule(Schedule):
    """Kind `schedule`: from 1 down to 1 / total."""

    def factor(self, step: int, total: int) -> float:
        """1 - step / total."""
        return 1.0 - step / total
