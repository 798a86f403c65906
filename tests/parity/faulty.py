"""A plugin for tests: strategy `faulty` is `ddp` with one fault."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch

from spcore.components import Component
from spcore.hooks import hookimpl
from spcore.interfaces.strategy import Engine, Place, Plan
from spcore.interfaces.task import Batch
from spcore.tensors import rng
from spcore.tensors.engine import Outputs
from spcore_torch.ddp import DataParallel, DataParallelEngine
from spcore_torch.options import SingleOptions

SPCORE_API = "1.0"
Fault = Literal[
    "none", "loss", "microbatches", "unreduced", "rows", "drawn", "drawn elsewhere", "masks", "clipping", "evaluation"
]


class FaultyOptions(SingleOptions):
    fault: Fault = "none"


class Faulty(DataParallel):
    options: FaultyOptions

    def engine(self, plan: Plan, place: Place) -> Engine:
        return FaultyEngine(plan, place, self.options, self.options.fault)


class FaultyEngine(DataParallelEngine):
    """fault: "loss": averaged by each rank over its own tokens, then over ranks. "microbatches": gradients are averaged over them.
    "unreduced": one parameter's gradient is each rank's own. "rows": every rank takes the first part. "drawn", "drawn elsewhere": one
    weight of the first rank, of another, has a value of its own. "masks": all ranks draw the same. "clipping": is left out.
    "evaluation": the first rank's rows alone."""

    def __init__(self, plan: Plan, place: Place, options: SingleOptions, fault: Fault) -> None:
        super().__init__(plan, place, options)
        self.fault = fault
        if fault == "rows":
            self.place = replace(self.place, data_rank=0)
        if fault == "masks":
            self.random = rng.seeded(rng.address(plan.seed, "rank", 0), self.device)
        if (fault, place.rank) in (("drawn", 0), ("drawn elsewhere", 1)):
            with torch.no_grad():
                next(p for p in self.held if p.ndim == 2)[7, 3] += 1e-3

    def _totals(self, microbatches: Sequence[Batch]) -> tuple[dict[str, float], int]:
        totals, positions = super()._totals(microbatches)
        if self.fault == "loss":
            own = {term: sum(batch.weights[term] for batch in microbatches) for term in totals}
            return {term: weight * self.place.data_size for term, weight in own.items()}, positions
        self.count = len(microbatches)
        return totals, positions

    def backpropagate(self, scalar: torch.Tensor, outputs: Outputs) -> None:
        super().backpropagate(scalar / self.count if self.fault == "microbatches" else scalar, outputs)

    def reduce_gradients(self) -> None:
        first = self.held[3]
        own = None if first.grad is None else first.grad.clone()
        super().reduce_gradients()
        if self.fault == "unreduced":
            first.grad = own

    def _update(self, lr: float, norm: float) -> None:
        super()._update(lr, 0.0 if self.fault == "clipping" else norm)

    def eval_step(self, microbatches: Sequence[Batch], method: Any = "reduce") -> Any:
        part = super().eval_step(microbatches, method)
        return part if self.fault != "evaluation" or self.place.rank == 0 else None


@hookimpl
def spcore_components() -> list[Component]:
    return [Component("strategy", "faulty", "parity.faulty:Faulty", "Wrong", options="parity.faulty:FaultyOptions")]
