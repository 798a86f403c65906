"""What an optimizer step needs around it: dynamic loss scaling, and gradients scaled inside the update."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from spcore.errors import RunError
from spcore.interfaces.precision import LossScaling

SMALLEST_SCALE = 2.0**-14
"""A loss scale below this helps nothing: float16's own smallest normal number."""


@dataclass
class Scaler:
    """Dynamic loss scaling. rule: None for none. scale: what losses are multiplied by. good: steps since the last change."""

    rule: LossScaling | None = None
    scale: float = 1.0
    good: int = 0

    @classmethod
    def of(cls, rule: LossScaling | None) -> Scaler:
        """At its start."""
        return cls(rule, rule.initial if rule is not None else 1.0)

    def update(self, finite: bool) -> None:
        """After a step: back off after an overflow, grow after `interval` good ones. Raises RunError where no scale helps."""
        if self.rule is None:
            return
        if not finite:
            self.scale, self.good = self.scale * self.rule.backoff, 0
            if self.scale < SMALLEST_SCALE:
                raise no_scale_helps(self.scale)
        else:
            self.good += 1
            if self.good >= self.rule.interval:
                self.scale, self.good = self.scale * self.rule.growth, 0


def no_scale_helps(scale: float) -> RunError:
    """Where gradients overflow under any loss scale."""
    return RunError(
        f"loss scale fell to {scale:.3g}: gradients are not finite at any scale",
        hint="Lower optimizer.lr, or use precision=bf16",
    )


def scaled_step(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """An optimizer step with all gradients multiplied by `factor`. Fused optimizers do that in their own pass over memory (the
    attribute that torch's GradScaler uses, a divisor); else gradients are scaled in place first."""
    grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    if factor == 1.0 or not grads:
        optimizer.step()
    elif getattr(optimizer, "_step_supports_amp_scaling", False):
        device = grads[0].device
        optimizer.grad_scale = torch.tensor(1.0 / factor, device=device)  # type: ignore[attr-defined]
        optimizer.found_inf = torch.zeros((), device=device)  # type: ignore[attr-defined]
        try:
            optimizer.step()
        finally:
            del optimizer.grad_scale, optimizer.found_inf  # type: ignore[attr-defined]
    else:
        torch._foreach_mul_(grads, factor)
        optimizer.step()
