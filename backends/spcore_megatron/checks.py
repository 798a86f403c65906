"""What strategy `megatron` refuses."""
from __future__ import annotations
from spcore.interfaces.strategy import Plan, Refusal
from spcore_megatron.options import MegatronOptions


def refusals(plan: Plan, options: MegatronOptions) -> list[Refusal]:
    return []
