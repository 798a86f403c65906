"""A plugin for tests: strategy `eight-bits` is `single`, which multiplies in 8 bits on a CPU too, where torch does so slowly."""

from __future__ import annotations

from typing import Any

from spcore.components import Component
from spcore.hooks import hookimpl
from spcore.interfaces.strategy import Plan, Refusal
from spcore_torch.single import Single

SPCORE_API = "1.0"


class EightBits(Single):
    def check(self, plan: Plan) -> list[Refusal]:
        return [refusal for refusal in super().check(plan) if "8-bit" not in refusal.reason]


@hookimpl
def spcore_components() -> list[Component]:
    options: Any = "spcore_torch.options:SingleOptions"
    return [Component("strategy", "eight-bits", "precision.eight_bits:EightBits", "8 bits", options=options)]
