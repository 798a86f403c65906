"""Lion as a torch optimizer (Chen et al., 2023, "Symbolic discovery of optimization algorithms", algorithm 2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


class LionOptimizer(torch.optim.Optimizer):
    """w -= lr * (sign(b1 m + (1 - b1) g) + decay w); m = b2 m + (1 - b2) g. lr per step; betas (b1, b2)."""

    def __init__(self, params: Any, lr: float, betas: tuple[float, float]) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step over all groups."""
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
        lr, (mix, decay), shrink = group["lr"], group["betas"], group["weight_decay"]
        for p in parameters:
            if not self.state[p]:
                self.state[p]["exp_avg"] = torch.zeros_like(p)
        grads = [p.grad for p in parameters]
        moments = [self.state[p]["exp_avg"] for p in parameters]
        updates = torch._foreach_lerp(moments, grads, 1 - mix)
        torch._foreach_sign_(updates)
        if shrink:
            torch._foreach_mul_(parameters, 1 - lr * shrink)
        torch._foreach_add_(parameters, updates, alpha=-lr)
        torch._foreach_lerp_(moments, grads, 1 - decay)
