"""Strategy `single`: one process, one device."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from spcore.errors import RefusalError
from spcore.interfaces.strategy import Engine, Layout, ParallelStrategy, Place, Plan, Refusal
from spcore.interfaces.task import Batch
from spcore.tensors.engine import SweepFn, TorchEngine
from spcore.tensors.flat import can_flatten, flatten
from spcore.tensors.materialise import materialise
from spcore_torch import kernels
from spcore_torch.options import SingleOptions


class Single(ParallelStrategy):
    """One process that holds everything."""

    inline = True

    def __init__(self, options: SingleOptions) -> None:
        self.options = options

    def layout(self, world_size: int) -> Layout:
        """One process. Raises RefusalError for more."""
        if world_size != 1:
            raise RefusalError(f"strategy 'single' runs one process, asked for {world_size}; use a parallel strategy, or launch.processes=1")
        return Layout({"data": 1})

    def check(self, plan: Plan) -> list[Refusal]:
        """See `ParallelStrategy.check`."""
        return refusals(plan)

    def engine(self, plan: Plan, place: Place) -> Engine:
        """See `ParallelStrategy.engine`."""
        return SingleEngine(plan, replace(place, device=resolve_device(plan.device)), self.options)


def resolve_device(name: str) -> str:
    """ "auto" is the first CUDA device where there is one, else the CPU."""
    if name == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    return "cuda:0" if name == "cuda" else name


def refusals(plan: Plan) -> list[Refusal]:
    """What PyTorch's eager engines cannot honour of a plan."""
    found, precision, device = [], plan.precision, resolve_device(plan.device)
    if device.startswith("cuda"):
        index = int(device.partition(":")[2])
        if not torch.cuda.is_available() or index >= torch.cuda.device_count():
            found.append(Refusal(f"device {plan.device!r}", f"torch sees {torch.cuda.device_count()} CUDA devices", "use device=cpu"))
            return found
    if precision.fp8 is not None:
        found.append(Refusal(f"precision {precision.name!r}", "8-bit products are not in PyTorch's eager engines", "use precision=bf16"))
    if precision.matmul == "tf32" and not (device.startswith("cuda") and torch.cuda.get_device_capability(device)[0] >= 8):
        found.append(Refusal(f"precision {precision.name!r}", f"device {device!r} has no TF32 products", "use precision=fp32 or bf16"))
    if (precision.parameter, precision.state) != ("float32", "float32"):
        found.append(Refusal(f"precision {precision.name!r}", "parameters and optimizer state other than float32 are not supported here"))
    if plan.pack is not None and not plan.model.anatomy(plan.head).packs:
        found.append(Refusal(f"data.pack {plan.pack}", f"family {plan.model.family!r} does not keep packed texts apart", "leave data.pack out"))
    if plan.deterministic and device.startswith("cuda"):
        found.append(Refusal("train.deterministic", "not yet checked on CUDA by this strategy", "use device=cpu, where it holds always"))
    return found


class SingleEngine(TorchEngine):
    """The engine of `single`."""

    def __init__(self, plan: Plan, place: Place, options: SingleOptions) -> None:
        device = torch.device(place.device)
        module = plan.model.build(plan.head, plan.precision.parameter)
        self.report = materialise(module, plan.model, plan.head, plan.seed, device)
        self.compute = _compute_dtype(plan)
        self.kernel = kernels.install(module, self.compute) if device.type == "cpu" and self.compute != torch.float16 else "default"
        super().__init__(plan, place, module)
        self.threads = options.threads
        self.flat = options.flatten == "auto" and plan.model.anatomy(plan.head).packs

    def prepared(self, batch: Batch) -> Batch:
        """Without padding where the model keeps segments apart."""
        return super().prepared(flatten(batch, self.plan.head) if self.flat and can_flatten(batch) else batch)

    def sweep(self, microbatches: Sequence[Batch], fn: SweepFn, backward: bool) -> list[Any]:
        """Under the precision policy."""
        with precision_context(self.device, self.compute, self.plan.precision.matmul):
            return super().sweep(microbatches, fn, backward)

    def facts(self) -> Mapping[str, str]:
        """See `Engine.facts`."""
        made = [n for n in self.report.initialised if n in dict(self.module.named_parameters())]
        new = sorted({name.rpartition(".")[0] for name in made})
        return {
            "device": str(self.device), "threads": str(self.threads or torch.get_num_threads()),
            "precision": self.plan.precision.name, "linear kernel": self.kernel,
            "padding": "none: microbatches are fed flat" if self.flat else "rows are padded",
            "new parameters": ", ".join(new[:4]) + (", ..." if len(new) > 4 else "") or "none",
        }  # fmt: skip

    def close(self) -> None:
        """See `Engine.close`."""
        kernels.uninstall(self.module)
        super().close()


def _compute_dtype(plan: Plan) -> torch.dtype | None:
    """The format of products where it is not the parameters'."""
    return None if plan.precision.compute == "float32" else getattr(torch, plan.precision.compute)


@contextlib.contextmanager
def precision_context(device: torch.device, compute: torch.dtype | None, matmul: str) -> Iterator[None]:
    """Autocast to the compute format; TF32 products on CUDA where the policy has them, for this time only."""
    before = torch.backends.cuda.matmul.allow_tf32
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = matmul == "tf32"
    try:
        with torch.autocast(device.type, compute, enabled=compute is not None):
            yield
    finally:
        if device.type == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = before


