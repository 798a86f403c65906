"""What this package offers."""

from __future__ import annotations

from spcore.components import Component
from spcore.hooks import hookimpl

SPCORE_API = "1.0"
_NEEDS = ("megatron-core>=0.15,<0.17", "psutil>=5.9")


@hookimpl
def spcore_components() -> list[Component]:
    """Data set `megatron-indexed`, command `megatron`."""
    return [
        Component(
            "dataset", "megatron-indexed", "spcore_megatron.indexed:Indexed", "Tokens prepared for Megatron-LM: PREFIX.bin and PREFIX.idx",
            options="spcore_megatron.indexed_options:IndexedOptions", schemes=("megatron",), suffixes=(".idx",), requires=_NEEDS, extra="megatron",
        ),
        Component("command", "megatron", "spcore_megatron.command:app", "Exchange with Megatron-LM.", requires=_NEEDS, extra="megatron"),
    ]  # fmt: skip
