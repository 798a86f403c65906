"""A plugin that adds a family to tensor parallelism, as the documentation has it."""

from __future__ import annotations

from spcore.components import Component
from spcore.hooks import hookimpl
from spcore.interfaces.bridge import Cut, TensorPlan

SPCORE_API = "1.0"
PLAN = TensorPlan(
    {
        **{f"decoder.layers.*.self_attn.{name}": Cut("column", "head") for name in ("q_proj", "k_proj", "v_proj")},
        "decoder.layers.*.self_attn.out_proj": Cut("row", "head"),
        "decoder.layers.*.fc1": Cut("column"),
        "decoder.layers.*.fc2": Cut("row"),
    },
    divided={"decoder.layers.*.self_attn": ("num_heads",)},
    positions=False,
)


@hookimpl
def spcore_components() -> list[Component]:
    """The plan."""
    return [
        Component("bridge", "tensor-parallel.opt", "exact.opt_plugin:PLAN", "How tensor parallelism cuts OPT"),
    ]
