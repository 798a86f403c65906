"""What this package offers."""

from __future__ import annotations

from spcore.components import Component
from spcore.hooks import hookimpl

SPCORE_API = "1.0"


@hookimpl
def spcore_components() -> list[Component]:
    """Model source `transformers`."""
    return [
        Component(
            "model", "transformers", "spcore_transformers.model:TransformersModel", "A Hub name or a Hugging Face folder",
            options="spcore_transformers.options:TransformersOptions", schemes=("hf",), default=True,
        )
    ]  # fmt: skip
