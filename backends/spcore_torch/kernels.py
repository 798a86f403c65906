"""How linear layers multiply: the fastest fp32 kernel that is verified fp32-grade on this processor, or low-precision products
with fp32 master weights.

torch's default fp32 product on a CPU is MKL's, which is slow on some processors (2.2 times slower than oneDNN's on AMD EPYC);
`torch.set_float32_matmul_precision("medium")` would switch, but for the whole process, and permits bf16 by name. Here each
`nn.Linear` of a module is given a `forward` that calls the chosen kernel, forward and backward; names, parameters and hooks stay.
A step of generating multiplies a row or a few, which is another choice: then what counts is how fast weights come from memory.
"""

from __future__ import annotations

import functools
import json
import logging
import platform
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from spcore.errors import OutputError
from spcore.features import cache_folder, fingerprint
from spcore.files import write_text
from spcore.interfaces.precision import Fp8Recipe
from spcore_torch import eight_bits

log = logging.getLogger("slimpajama.torch")
Product = Callable[[torch.Tensor, torch.Tensor, "torch.Tensor | None"], torch.Tensor]
"""(x [n, i], weight [o, i], bias [o] or None) -> [n, o]; either may be a transposed view."""
FP32_GRADE = 2e-6
"""Largest relative error (Frobenius) against float64 that counts as fp32: MKL has 3e-7 to 8e-7, oneDNN 4e-7 to 1.2e-6, bf16 2e-3."""


def _default(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    # A plain product for transposed weights: torch's linear has no quick bfloat16 path for those.
    return F.linear(x, weight, bias) if bias is not None else x @ weight.t()


def _onednn(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def _vector(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """One row, as a matrix by a vector."""
    found = torch.mv(weight, x[0]) if bias is None else torch.addmv(bias, weight, x[0])
    return found[None]


_BLOCK, _SMALL = 8, 2**18
"""Rows of a weight in one product; numbers of a weight that a cache holds, where copying is cheap."""


def _blocks(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """A few rows, as a batch of products of 8 rows of the weight each, which read it where it lies; one large product copies it first, which
    takes as long as reading it. The result is a transposed view."""
    outputs, inputs = weight.shape
    if outputs % _BLOCK or weight.numel() < _SMALL or not weight.is_contiguous():
        return _default(x, weight, bias)
    parts = weight.view(-1, _BLOCK, inputs)
    found = torch.bmm(parts, x.contiguous().t().expand(len(parts), -1, -1)).view(outputs, len(x)).t()
    return found if bias is None else found.add_(bias)


def candidates() -> dict[str, Product]:
    """Kernels that this build of torch has, by name."""
    found: dict[str, Product] = {"default": _default}
    if torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        found["onednn"] = _onednn
    return found


FEW = (1, 2, 4, 8, 16)
"""Numbers of rows for which a kernel is chosen, each for what lies between it and the next."""
_LEAD = 0.9
"""Share of the default's time that another kernel may take: a lead that noise could make is none."""
_MANY = 24
"""Rows from which on a product is one like others."""
_COPIES = 16
"""Of 12.6 MB of weights each."""


def row_candidates(rows: int) -> dict[str, Product]:
    """Those for x of so many rows."""
    return {**candidates(), **({"vector": _vector} if rows == 1 else {"blocks": _blocks})}


def _emulated(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """A 16-bit product on a processor that has none: the same operands, multiplied and summed in float32 by the fp32 kernel, the
    result rounded. That is what 16-bit units do, and torch's own fallback is some 20 times slower."""
    product = candidates()[fp32_kernel()[0]]
    with torch.autocast("cpu", enabled=False):  # which would round to bfloat16 again
        return product(x.float(), weight.float(), None if bias is None else bias.float()).to(x.dtype)


_UNITS = {
    torch.bfloat16: {"avx512_bf16", "amx_bf16", "bf16"},
    torch.float16: {"avx512_fp16", "amx_fp16", "asimdhp"},
}
"""Flags of processors, Intel's, AMD's and Arm's, that multiply a format by themselves."""


def has_units(compute: torch.dtype) -> bool:
    """Whether the processor multiplies a 16-bit format by itself."""
    try:
        return not _UNITS[compute].isdisjoint(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return False


_MEASURING = threading.Lock()
Figures = dict[str, tuple[float, float]]
"""name -> (relative error, seconds)."""


def fp32_kernel() -> tuple[str, Figures]:
    """The name of the fastest verified kernel on this CPU, and what it was chosen by. Measured once on a machine for a version
    of torch and a number of threads, then remembered on disk: a choice that changed from run to run would change their bits."""
    with _MEASURING:
        return _remembered(None, torch.get_num_threads())


def row_kernel(rows: int) -> tuple[str, Figures]:
    """The same of `row_candidates`. rows: one of `FEW`."""
    with _MEASURING:
        return _remembered(rows, torch.get_num_threads())


@functools.lru_cache(maxsize=32)
def _remembered(rows: int | None, threads: int) -> tuple[str, Figures]:
    what = "fp32" if rows is None else f"fp32-{rows}-rows"
    known = candidates() if rows is None else row_candidates(rows)
    asked = fingerprint(cpu_name(), torch.__version__, threads, sorted(known))
    file = cache_folder() / f"{what}-kernel-{asked[:12]}.json"
    try:
        stored = json.loads(file.read_text())
        if stored["best"] in known:
            return stored["best"], {name: tuple(pair) for name, pair in stored["figures"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass  # not measured yet, or not readable: measure
    best, figures = _chosen(_measure() if rows is None else _measure_rows(rows))
    shown = ", ".join(f"{n}: error {e:.1e}, {s * 1e3:.2f} ms" for n, (e, s) in figures.items())
    log.info("%s matrix products by %s (%s)", what, best, shown)
    try:
        write_text(file, json.dumps({"best": best, "figures": figures, "cpu": cpu_name(), "torch": torch.__version__}))
    except OutputError as error:
        log.debug("the choice of kernel is not remembered: %s", error)
    return best, figures


def cpu_name() -> str:
    """The processor, as the system names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return " ".join(
        sorted(
            {
                line.partition(":")[2].strip()
                for line in lines
                if line.startswith(("model name", "cpu family", "model\t"))
            }
        )
    )


def _chosen(figures: Figures) -> tuple[str, Figures]:
    verified = [name for name in figures if figures[name][0] <= FP32_GRADE]
    best = min(verified, key=lambda name: figures[name][1], default="default")
    if figures[best][1] > _LEAD * figures["default"][1]:
        best = "default"
    return best, figures


def _measure() -> Figures:
    """Error and time of each kernel over the three products of a linear layer. Of interleaved repetitions the quickest counts:
    what else the machine does only ever adds."""
    generator = torch.Generator().manual_seed(1)
    x, weight, grad = (torch.randn(*shape, generator=generator) for shape in ((192, 384), (768, 384), (192, 768)))
    exact = [x.double() @ weight.double().t(), grad.double() @ weight.double(), grad.double().t() @ x.double()]
    errors: dict[str, float] = {}
    times: dict[str, float] = {}
    with torch.no_grad():
        for _ in range(40):  # on a busy machine too, some are undisturbed
            for name, product in candidates().items():
                began = time.perf_counter()
                results = _products(product, x, weight, grad)
                times[name] = min(times.get(name, 1e9), time.perf_counter() - began)
                if name not in errors:
                    errors[name] = max(float((r - e).norm() / e.norm()) for r, e in zip(results, exact, strict=True))
    return {name: (errors[name], times[name]) for name in errors}


def _measure_rows(rows: int) -> Figures:
    """Error and time of each kernel for a few rows, over more weights than caches hold: a step of generating reads each once."""
    generator = torch.Generator().manual_seed(1)
    made = [
        (torch.rand(rows, i, generator=generator) - 0.5, torch.rand(o, i, generator=generator) - 0.5)
        for o, i in ((2048, 768), (768, 2048))
    ]
    fed = [(x, weight.clone()) for _ in range(_COPIES) for x, weight in made]
    exact = fed[0][0].double() @ fed[0][1].double().t()
    errors: dict[str, float] = {}
    times: dict[str, float] = {}
    with torch.no_grad():
        for _ in range(5):
            for name, product in row_candidates(rows).items():
                began = time.perf_counter()
                for x, weight in fed:
                    product(x, weight, None)
                times[name] = min(times.get(name, 1e9), time.perf_counter() - began)
                if name not in errors:
                    errors[name] = float((product(*fed[0], None) - exact).norm() / exact.norm())
    return {name: (errors[name], times[name]) for name in errors}


def _products(product: Product, x: torch.Tensor, weight: torch.Tensor, grad: torch.Tensor) -> list[torch.Tensor]:
    """The three products of a linear layer: forward, gradient of the input, gradient of the weight."""
    return [product(x, weight, None), product(grad, weight.t(), None), product(grad.t(), x.t(), None)]


def _forward(x: torch.Tensor, used: torch.Tensor, bias: torch.Tensor | None, product: Product) -> torch.Tensor:
    bias = None if bias is None else bias.to(used.dtype)
    if x.dim() == 2 and x.dtype == used.dtype:  # a step of generating has hundreds of such calls
        return product(x, used, bias)
    # What other code is given lies as its own products would.
    return product(x.reshape(-1, x.shape[-1]).to(used.dtype), used, bias).contiguous().view(*x.shape[:-1], -1)


class _Linear(torch.autograd.Function):  # type: ignore[misc]
    """x @ weight.T + bias by a chosen product, in `used`'s format: the weight, or a copy of it. kept: which of the two is held until the
    backward pass, where the weight is cast again. backward: the product whose first operand is a gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        used: torch.Tensor,
        kept: torch.Tensor,
        product: Product,
        backward: Product,
    ) -> torch.Tensor:
        rows = x.reshape(-1, x.shape[-1]).to(used.dtype)
        ctx.save_for_backward(rows, kept)
        ctx.rest = (x.shape, x.dtype, weight.dtype, backward)
        return _forward(rows, used, bias, product).view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        rows, kept = ctx.saved_tensors
        shape, x_dtype, dtype, product = ctx.rest
        used = kept.to(rows.dtype)
        grad = grads[0].reshape(-1, grads[0].shape[-1]).to(used.dtype)
        needs = ctx.needs_input_grad
        of_x = product(grad, used.t(), None).to(x_dtype).view(shape) if needs[0] else None
        of_weight = product(grad.t(), rows.t(), None).to(dtype) if needs[1] else None
        # Torch adds 16-bit numbers in float32 by itself, and rounds once, as the products are rounded.
        of_bias = grad.sum(0).to(dtype) if needs[2] else None
        return of_x, of_weight, of_bias, None, None, None, None


class Forward:
    """Stands as a linear layer's `forward`. The low-precision copy of the weight is made anew when the weight has changed; fused
    optimizers change it without a trace in its version, so `refresh` says so too. keeps: whether the copy outlives the call; not where
    the weight itself does not, but is gathered from shards for each pass: it would defeat that. backward: the product whose first operand
    is a gradient, where it is another."""

    def __init__(
        self,
        linear: nn.Linear,
        product: Product,
        dtype: torch.dtype | None,
        keeps: bool = True,
        few: Sequence[Product] = (),
        backward: Product | None = None,
    ) -> None:
        self.linear, self.product, self.dtype, self.keeps = linear, product, dtype, keeps
        self.backward = backward or product
        self.few = few  # by number of rows, from none on
        self.low: torch.Tensor | None = None
        self.version = -1  # of the weight that `low` was made from; -1 after an optimizer's step

    def over(self, linear: nn.Linear) -> Forward:
        """See `Multiplies`."""
        return Forward(linear, self.product, self.dtype, self.keeps, self.few, self.backward)

    def __call__(self, x: torch.Tensor, *, biased: bool = True) -> torch.Tensor:
        """As `nn.Linear.forward`; of a few rows [n, i] without a gradient the result may be a transposed view. biased: False for the
        product alone, whose bias another adds."""
        weight, bias = self.linear.weight, self.linear.bias if biased else None
        if not torch.is_grad_enabled():
            rows, used = x.numel() // x.shape[-1], weight if self.dtype is None else self._used(weight)
            return _forward(x, used, bias, self.few[rows] if rows < len(self.few) else self.product)
        used = self._used(weight)
        kept = used if self.keeps else weight.detach()
        result: torch.Tensor = _Linear.apply(x, weight, bias, used, kept, self.product, self.backward)
        return result

    def _used(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight in the format of products, without history."""
        if self.dtype is None or not self.keeps:
            return weight.detach() if self.dtype is None else weight.detach().to(self.dtype)
        if self.low is None or self.version != weight._version:
            # Never a tensor of inference_mode, which training could not save or write to.
            with torch.inference_mode(False), torch.no_grad():
                self.low = weight.to(self.dtype) if self.low is None else self.low.copy_(weight)
            self.version = weight._version
        return self.low


def install(
    module: nn.Module, compute: torch.dtype | None, device: torch.device, *, keeps: bool = True, steps: bool = False,
    fp8: Fp8Recipe | None = None,
) -> str:  # fmt: skip
    """Give the linear layers of a module on a CPU the best product; compute None: fp32. Other devices keep torch's own, under
    autocast, unless weights' low-precision copies are not to be kept. steps: the module also generates, a row or a few at a time. fp8: products
    are of 8 bits, whatever the device. Returns the kernel's name."""
    if fp8 is not None:
        return _install_eight_bits(module, compute, fp8, keeps)
    product: Product = _default
    few: list[Product] = []
    if device.type != "cpu":
        if compute is None or keeps:
            return "default"
        name = "default"  # by our own function, as autocast keeps the copies that it makes
    elif compute is None:
        name = fp32_kernel()[0]
        product = candidates()[name]
        chosen = {rows: row_kernel(rows)[0] for rows in FEW} if steps else {}
        if {name, *chosen.values()} == {"default"}:
            return name
        for rows in range(_MANY if steps else 0):
            size = max((n for n in FEW if n <= rows), default=FEW[0])
            few.append(row_candidates(size)[chosen[size]])
    else:
        name, product = ("default", _default) if has_units(compute) else ("emulated", _emulated)
    for linear in module.modules():
        if type(linear) is nn.Linear and linear.weight.dtype == torch.float32:
            linear.forward = Forward(linear, product, compute, keeps, few)
    return name


def _install_eight_bits(module: nn.Module, compute: torch.dtype | None, fp8: Fp8Recipe, keeps: bool) -> str:
    forward, backward = eight_bits.products(fp8)
    linears = [linear for linear in module.modules() if type(linear) is nn.Linear]
    narrow = [linear for linear in linears if eight_bits.fits(linear)]
    for linear in narrow:
        linear.forward = Forward(linear, forward, compute, keeps, backward=backward)
    return f"8 bits in {len(narrow)} of {len(linears)} linear layers"


def installed(module: nn.Module) -> tuple[Forward, ...]:
    """What `install` gave."""
    given = (linear.__dict__.get("forward") for linear in module.modules())
    return tuple(forward for forward in given if isinstance(forward, Forward))


def refresh(forwards: Iterable[Forward]) -> None:
    """Have the low-precision copies of weights made anew when they are next needed."""
    for forward in forwards:
        forward.version = -1


def uninstall(module: nn.Module) -> None:
    """Take back what `install` gave."""
    for linear in module.modules():
        if isinstance(linear.__dict__.get("forward"), Forward):
            del linear.forward
