"""What this package offers: one line for each value of `policies.py`."""

from __future__ import annotations

from spcore.components import Component
from spcore.hooks import hookimpl

SPCORE_API = "1.0"
_POLICIES = {
    "fp32": ("FP32", "float32, fp32-grade products", ("float32", "32")),
    "tf32": ("TF32", "float32 with TF32 products on a GPU", ()),
    "bf16": ("BF16", "bfloat16 products, float32 parameters", ("bfloat16", "bf16-mixed")),
    "fp16": ("FP16", "float16 products, float32 parameters, loss scaling", ("float16", "fp16-mixed")),
    "fp8": ("FP8", "8-bit products where engine and GPU have them, else bfloat16, float32 parameters", ("float8",)),
}
"""name -> (value in `policies.py`, summary, aliases)."""


@hookimpl
def spcore_components() -> list[Component]:
    """Precisions fp32, tf32, bf16, fp16, fp8."""
    return [
        Component(
            "precision", name, f"spcore_precision.policies:{value}", summary, aliases=aliases, default=name == "fp32"
        )
        for name, (value, summary, aliases) in _POLICIES.items()
    ]
