"""What this package offers."""

from __future__ import annotations

from spcore.components import Component
from spcore.hooks import hookimpl

SPCORE_API = "1.0"
_NEEDS = ("megatron-core>=0.16,<0.17", "psutil>=5.9")
_FAMILIES = {
    "llama": ("llama:LLAMA", ("mistral", "qwen2", "qwen3")), "gpt2": ("gpt2:GPT2", ()), "bert": ("bert:BERT", ()),
    "roberta": ("bert:ROBERTA", ("xlm-roberta",)), "t5": ("t5:T5", ()), "mixtral": ("moe:MOE", ("qwen2_moe", "qwen3_moe")),
}  # fmt: skip
"""model_type -> its `Family`, those with the same."""


@hookimpl
def spcore_components() -> list[Component]:
    """Strategy `megatron`, bridges `megatron.FAMILY`, data set `megatron-indexed`, command `megatron`."""
    return [
        Component(
            "strategy",
            "megatron",
            "spcore_megatron.strategy:Megatron",
            "megatron-core: tensor, sequence, pipeline, context, expert and data parallel",
            options="spcore_megatron.options:MegatronOptions",
            requires=_NEEDS,
            extra="megatron",
        ),
        Component(
            "dataset",
            "megatron-indexed",
            "spcore_megatron.indexed:Indexed",
            "Tokens prepared for Megatron-LM: PREFIX.bin and PREFIX.idx",
            options="spcore_megatron.indexed_options:IndexedOptions",
            schemes=("megatron",),
            suffixes=(".idx",),
            requires=_NEEDS,
            extra="megatron",
        ),
        Component(
            "command",
            "megatron",
            "spcore_megatron.command:app",
            "Exchange with Megatron-LM.",
            requires=_NEEDS,
            extra="megatron",
        ),
        *(
            Component(
                "bridge",
                f"megatron.{family}",
                f"spcore_megatron.families.{value}",
                f"Weight map and layers of {', '.join((family, *same))} for Megatron",
                aliases=tuple(f"megatron.{other}" for other in same),
            )
            for family, (value, same) in _FAMILIES.items()
        ),
    ]
