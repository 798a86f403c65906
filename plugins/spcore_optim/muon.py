"""Muon as a torch optimizer: the momentum of a hidden layer's matrix, orthogonalised; AdamW for everything else.

After Jordan et al. (2024), https://kellerjordan.github.io/posts/muon/, with the step's size matched to AdamW's (Liu et al. 2025, "Muon is scalable
for LLM training", arXiv 2502.16982), so that one learning rate serves both. torch has Muon for matrices alone, and computes it in bfloat16,
which a processor without units for that takes many times as long for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

RULE = "muon"
"""Name of the groups whose matrices are orthogonalised; others are AdamW's."""
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""a, b, c of x -> a x + b x^3 + c x^5, by which Newton-Schulz brings singular values near 1."""
ITERATIONS = 5
SIZE = 0.2
"""Root mean square of an AdamW step at lr 1, about."""


class MuonOptimizer(torch.optim.Optimizer):
    """w -= lr * (0.2 sqrt(max(rows, columns)) * orthogonal(b m + (1 - b) g) + decay * w), m = b m + (1 - b) g, for [rows, columns] matrices
    of groups whose "rule" is RULE; AdamW for the rest.

    params: param groups. momentum: b. betas, eps, adamw: AdamW's. State of a matrix: "momentum", in its format and shape. Matrices
    must be whole: a shard's orthogonalisation is another.
    """

    def __init__(
        self, params: Any, lr: float, momentum: float, betas: tuple[float, float], eps: float, adamw: dict[str, Any]
    ) -> None:
        usual = {"lr": lr, "momentum": momentum, "betas": betas, "eps": eps, "weight_decay": 0.0, "rule": ""}
        super().__init__(params, usual)
        others = [group for group in self.param_groups if group["rule"] != RULE]
        self._adamw = torch.optim.AdamW(others, lr=lr, betas=betas, eps=eps, **adamw) if others else None

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step over all groups; parameters without a gradient stay as they are. Returns the closure's loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        others = [group for group in self.param_groups if group["rule"] != RULE]
        if self._adamw is not None:
            for group in others:  # those of a state that was loaded lack what is AdamW's own
                for key, value in self._adamw.defaults.items():
                    group.setdefault(key, value)
            self._adamw.param_groups, self._adamw.state = others, self.state
            self._adamw.step()
        for group in self.param_groups:
            if group["rule"] == RULE:
                self._update([p for p in group["params"] if p.grad is not None], group)
        return loss

    def _update(self, matrices: list[torch.Tensor], group: dict[str, Any]) -> None:
        lr, kept, decay = group["lr"], group["momentum"], group["weight_decay"]
        by_shape: dict[tuple[int, ...], list[torch.Tensor]] = {}
        for p in matrices:
            if not self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
            by_shape.setdefault(tuple(p.shape), []).append(p)
        for shape, same in by_shape.items():
            grads, moments = [p.grad for p in same], [self.state[p]["momentum"] for p in same]
            torch._foreach_lerp_(moments, grads, 1 - kept)
            directions = orthogonal(torch.stack(torch._foreach_lerp(grads, moments, kept)))
            if decay:
                torch._foreach_mul_(same, 1 - lr * decay)
            step = -lr * SIZE * max(shape) ** 0.5
            torch._foreach_add_(same, [d.to(p.dtype) for d, p in zip(directions, same, strict=True)], alpha=step)


def orthogonal(matrices: torch.Tensor) -> torch.Tensor:
    """[n, rows, columns] -> the same with all singular values of each between about 0.7 and 1.2; in bfloat16 where the device
    multiplies that by itself, else float32."""
    x = matrices.to(_format(matrices.device))
    turned = x.shape[1] > x.shape[2]
    x = x.mT if turned else x
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_(min=1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        squares = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(squares, squares, squares, beta=b, alpha=c), x, beta=a)
    return x.mT if turned else x


def _format(device: torch.device) -> torch.dtype:
    if device.type == "cpu":
        units = torch.cpu.get_capabilities()
        return torch.bfloat16 if units.get("amx_bf16") or units.get("avx512_bf16") else torch.float32
    return torch.bfloat16
