"""Kind `precision`: which number formats a run uses. A frozen value that acts on nothing; engines read it.

To add a policy: a `PrecisionPolicy(...)` in a module of your plugin and a `Component("precision", "my-policy",
"package.module:POLICY", ...)` that points at it, or at a function of options that returns one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Dtype = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class LossScaling:
    """Dynamic scaling of the loss (Micikevicius et al., 2018): the scale starts at `initial`, is multiplied by `backoff`
    on a step whose gradients overflow (the step is left out) and by `growth` after `interval` steps without one."""

    initial: float = 65536.0
    growth: float = 2.0
    backoff: float = 0.5
    interval: int = 2000


@dataclass(frozen=True)
class Fp8Recipe:
    """How 8-bit matrix products scale. format: "e4m3", or "hybrid" (e5m2 for gradients); scaling: what shares a scale."""

    format: Literal["e4m3", "hybrid"] = "hybrid"
    scaling: Literal["tensor", "row", "block"] = "tensor"


@dataclass(frozen=True)
class PrecisionPolicy:
    """name: as in a recipe. parameter: format the optimizer updates. compute: of matrix products and activations.
    reduction: of gradients across ranks. state: of optimizer state. matmul: what fp32 products may become on hardware
    that has it: "ieee" (fp32-grade, verified), "tf32". Softmax, norms and losses are float32 whatever `compute` is."""

    name: str
    parameter: Dtype = "float32"
    compute: Dtype = "float32"
    reduction: Dtype = "float32"
    state: Dtype = "float32"
    matmul: Literal["ieee", "tf32"] = "ieee"
    loss_scaling: LossScaling | None = None
    fp8: Fp8Recipe | None = None
