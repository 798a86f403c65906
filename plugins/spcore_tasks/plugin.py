"""What this package offers."""

from __future__ import annotations

from spcore.components import Component
from spcore.hooks import hookimpl

SPCORE_API = "1.0"


@hookimpl
def spcore_components() -> list[Component]:
    """Task `text-classification`."""
    return [
        Component(
            "task", "text-classification", "spcore_tasks.text_classification:TextClassification",
            "A label, several labels or a number for a text or a pair of texts",
            options="spcore_tasks.options:TextClassificationOptions", aliases=("sequence-classification", "sentiment"),
        )
    ]  # fmt: skip
