"""What this package offers."""

from __future__ import annotations

from spcore.components import Component
from spcore.hooks import hookimpl

SPCORE_API = "1.0"
_TENSOR_PLANS = {
    "bert": ("BERT", ("roberta", "xlm-roberta", "electra")), "distilbert": ("DISTILBERT", ()), "modernbert": ("MODERNBERT", ()),
    "gpt2": ("GPT2", ()), "t5": ("T5", ()), "bart": ("BART", ("marian",)),
}  # fmt: skip
"""family -> its plan's name, families with the same."""


@hookimpl
def spcore_components() -> list[Component]:
    """Model source `transformers`, command `tokenizer`, bridges `tensor-parallel.FAMILY`."""
    return [
        Component(
            "model", "transformers", "spcore_transformers.model:TransformersModel",
            "A Hub name, a Hugging Face folder, a GGUF file, or a new model of a family",
            options="spcore_transformers.options:TransformersOptions", schemes=("hf", "gguf"), default=True,
        ),
        Component("command", "tokenizer", "spcore_transformers.tokenizer_command:app", "Train a tokenizer on a data set."),
        *(
            Component(
                "bridge", f"tensor-parallel.{family}", f"spcore_transformers.tensor_plans:{name}",
                f"How tensor parallelism cuts {', '.join((family, *same))}", aliases=tuple(f"tensor-parallel.{other}" for other in same),
            )
            for family, (name, same) in _TENSOR_PLANS.items()
        ),
    ]  # fmt: skip
