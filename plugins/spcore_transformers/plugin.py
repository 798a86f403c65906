"""What this package offers."""

from __future__ import annotations

from spcore.components import Component
from spcore.hooks import hookimpl

SPCORE_API = "1.0"


@hookimpl
def spcore_components() -> list[Component]:
    """Model source `transformers`, command `tokenizer`."""
    return [
        Component(
            "model", "transformers", "spcore_transformers.model:TransformersModel",
            "A Hub name, a Hugging Face folder, a GGUF file, or a new model of a family",
            options="spcore_transformers.options:TransformersOptions", schemes=("hf", "gguf"), default=True,
        ),
        Component("command", "tokenizer", "spcore_transformers.tokenizer_command:app", "Train a tokenizer on a data set."),
    ]  # fmt: skip
