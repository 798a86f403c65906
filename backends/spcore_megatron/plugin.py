"""What this package offers."""

from __future__ import annotations

from spcore.components import Component
from spcore.hooks import hookimpl

SPCORE_API = "1.0"


@hookimpl
def spcore_components() -> list[Component]:
    """Strategy `megatron`."""
    return [
        Component(
            "strategy",
            "megatron",
            "spcore_megatron.strategy:Megatron",
            "megatron-core: tensor, sequence, pipeline, context, expert and data parallel",
            options="spcore_megatron.options:MegatronOptions",
            requires=("megatron-core>=0.16,<0.17", "psutil>=5.9"),
            extra="megatron",
        ),
    ]
