"""A plugin for tests: strategy `twice` is `parallel`, and the bias behind a matrix whose inputs are cut is added by every rank."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from spcore.components import Component
from spcore.hooks import hookimpl
from spcore.interfaces.strategy import Engine, Place, Plan
from spcore_torch import styles
from spcore_torch.parallel import Parallel

SPCORE_API = "1.0"


class Twice(Parallel):
    def engine(self, plan: Plan, place: Place) -> Engine:
        plain = styles.Row.around

        def around(style: styles.Row, module: nn.Module, inner: Any) -> Any:
            once = plain(style, module, inner)

            def forward(x: torch.Tensor) -> torch.Tensor:
                y: torch.Tensor = once(x)
                return y if module.bias is None else y + module.bias

            return forward

        styles.Row.around = around  # type: ignore[method-assign]
        try:
            return super().engine(plan, place)
        finally:
            styles.Row.around = plain  # type: ignore[method-assign]


@hookimpl
def spcore_components() -> list[Component]:
    options = "spcore_torch.options:ParallelOptions"
    return [Component("strategy", "twice", "parity.twice:Twice", "Wrong", options=options)]
