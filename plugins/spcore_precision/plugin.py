"""What this package offers."""

from __future__ import annotations

from spcore.components import Component
from spcore.hooks import hookimpl

SPCORE_API = "1.0"


@hookimpl
def spcore_components() -> list[Component]:
    """Precisions fp32, tf32, bf16, fp16."""
    return [
        Component("precision", "fp32", "spcore_precision.policies:FP32", "float32, fp32-grade products", aliases=("float32",)),
        Component("precision", "tf32", "spcore_precision.policies:TF32", "float32 with TF32 products on a GPU"),
        Component("precision", "bf16", "spcore_precision.policies:BF16", "bfloat16 products, float32 parameters", aliases=("bfloat16",)),
        Component("precision", "fp16", "spcore_precision.policies:FP16", "float16 products, loss scaling", aliases=("float16",)),
    ]
