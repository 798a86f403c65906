"""The policies: frozen values that act on nothing; engines read them. What each field means: `spcore.interfaces.precision`.

A new policy is one value here and one line in `plugin.py` that points at it; nothing else knows their names.
"""

from __future__ import annotations

from spcore.interfaces.precision import Fp8Recipe, LossScaling, PrecisionPolicy

FP32 = PrecisionPolicy("fp32")
"""Everything in float32, matrix products by kernels verified fp32-grade."""

TF32 = PrecisionPolicy("tf32", matmul="tf32")
"""float32 with TF32 products (10 bits of mantissa) on GPUs that have them."""

BF16 = PrecisionPolicy("bf16", compute="bfloat16")
"""float32 parameters, bfloat16 products: float32's range, so losses are not scaled."""

FP16 = PrecisionPolicy("fp16", compute="float16", loss_scaling=LossScaling())
"""float32 parameters, float16 products; the loss is scaled, since float16 has a small range."""

FP8 = PrecisionPolicy("fp8", compute="bfloat16", fp8=Fp8Recipe())
"""float32 parameters, 8-bit products with a scale a tensor (e4m3, gradients e5m2), all else in bfloat16; for engines and GPUs that have them."""
