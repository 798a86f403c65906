"""Lion as a torch optimizer (Chen et al., 2023, "Symbolic discovery of optimization algorithms", algorithm 2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


class LionOptimizer(torch.optim.Optimizer):
    """w -= lr * (sign(b1 * m + (1 - b1) * g) + decay * w), then m = b2 * m + (1 - b2) * g, with m = 0 at the start.

    params: tensors or param groups. lr: per step. betas: (b1, b2). weight_decay: per step, times lr, in the group.
    State of a parameter: "exp_avg", m, in the parameter's format and shape. One call for all tensors of a group.
    """

    def __init__(self, params: Any, lr: float, betas: tuple[float, float], weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step over all groups; parameters without a gradient stay as they are. Returns the closure's loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            held = [p for p in group["params"] if p.grad is not None]
            if held:
                self._update(held, group)
        return loss

    def _update(self, parameters: list[torch.Tensor], group: dict[str, Any]) -> None:
        lr, (share, kept), decay = group["lr"], group["betas"], group["weight_decay"]
        for p in parameters:
            if not self.state[p]:
                self.state[p]["exp_avg"] = torch.zeros_like(p)
        grads = [p.grad for p in parameters]
        moments = [self.state[p]["exp_avg"] for p in parameters]
        updates = torch._foreach_lerp(moments, grads, 1 - share)
        torch._foreach_sign_(updates)
        if decay:
            torch._foreach_mul_(parameters, 1 - lr * decay)
        torch._foreach_add_(parameters, updates, alpha=-lr)
        torch._foreach_lerp_(moments, grads, 1 - kept)
