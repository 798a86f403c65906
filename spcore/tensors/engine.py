"""`TorchEngine`: what every engine on torch shares, over one primitive.

`sweep(microbatches, fn, backward) -> records` runs each microbatch forward, calls `fn(outputs, batch) -> (scalar or None, record)`
where the outputs are, and backpropagates the scalar. Training, evaluation, annotations, gradients and whole-batch losses are
written once on top of it. An engine of another layout overrides `sweep`, `reduce_gradients` and, where ranks hold parts, the
few methods that say so.

Weights come before the forward pass: each term's weight is summed over all microbatches and ranks, each term is scaled by
coefficient / total, and a plain sum is backpropagated. So no result depends on how a batch was cut.
"""

from __future__ import annotations

import contextlib
import math
import resource
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist

from spcore.interfaces.precision import LossScaling
from spcore.interfaces.strategy import Engine, Place, Plan, StepReport
from spcore.interfaces.task import Annotates, Batch, EvalPart, LossTerm, WholeBatchLoss
from spcore.tensors import rng, state
from spcore.tensors.ops import WholeOps, as_tensors

Outputs = Mapping[str, torch.Tensor]
SweepFn = Callable[[Outputs, Batch], "tuple[torch.Tensor | None, Any]"]

_PROCESS = threading.RLock()
"""Held while an engine computes: generators and thread counts of the process are its own for that time."""


@dataclass
class Scaler:
    """Dynamic loss scaling. scale: what losses are multiplied by. good: steps since the last change."""

    rule: LossScaling | None
    scale: float = 1.0
    good: int = 0

    def update(self, finite: bool) -> None:
        """After a step: grow after `interval` good ones, back off after an overflow."""
        if self.rule is None:
            return
        if not finite:
            self.scale, self.good = self.scale * self.rule.backoff, 0
        else:
            self.good += 1
            if self.good >= self.rule.interval:
                self.scale, self.good = self.scale * self.rule.growth, 0


class TorchEngine(Engine):
    """One process, or one of several that each hold the whole model. data_group: the process group of data-parallel ranks."""

    speaks = True
    """Of ranks that hold the same outputs, the one whose figures count."""
    has_output = True

    def __init__(self, plan: Plan, place: Place, module: torch.nn.Module, *, data_group: Any = None) -> None:
        self.plan, self.place, self.module, self.data_group = plan, place, module, data_group
        self.device = torch.device(place.device)
        self.task, self.ops = plan.task, WholeOps(data_group)
        self.optimizer = self.build_optimizer() if plan.optimizer is not None else None
        rule = plan.precision.loss_scaling
        self.scaler = Scaler(rule, rule.initial if rule else 1.0)
        self.random = rng.seeded(plan.seed * 2**16 + place.rank, self.device)
        self.threads: int | None = None

    # -- the primitive, and what other layouts override ------------------------------------------------------------

    def sweep(self, microbatches: Sequence[Batch], fn: SweepFn, backward: bool) -> list[Any]:
        """Run microbatches in order; see the module. The loss scale is applied here."""
        records = []
        self.module.train(backward)
        for n, batch in enumerate(microbatches):
            with torch.set_grad_enabled(backward), self.synchronising(backward and n == len(microbatches) - 1):
                ready = self.prepared(batch)
                scalar, record = fn(self.forward(ready), ready)
                if backward:
                    assert scalar is not None, "a backward sweep needs a scalar"
                    if scalar.requires_grad:  # nothing to learn from where every row is filler
                        (scalar * self.scaler.scale if self.scaler.scale != 1 else scalar).backward()
            records.append(record)
        return records

    def prepared(self, batch: Batch) -> Batch:
        """A batch with the engine's tensors."""
        return replace(batch, inputs=as_tensors(batch.inputs, self.device), targets=as_tensors(batch.targets, self.device))

    def forward(self, batch: Batch) -> Outputs:
        """Outputs of a prepared batch."""
        outputs: Outputs = self.module(**batch.inputs)
        return outputs

    def synchronising(self, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Round each microbatch; `last` on the last of a backward sweep."""
        return contextlib.nullcontext()

    def reduce_gradients(self) -> None:
        """Sum gradients over data-parallel ranks."""

    def all_reduce(self, vector: torch.Tensor) -> torch.Tensor:
        """Sum of a float64 CPU vector over all ranks."""
        if dist.is_initialized() and self.place.world_size > 1:
            moved = vector.to(self.device)
            dist.all_reduce(moved)
            return moved.cpu()
        return vector

    # -- training --------------------------------------------------------------------------------------------------

    def train_step(self, microbatches: Sequence[Batch], lr: float, step: int) -> StepReport:
        """See `Engine.train_step`."""
        with self.owned():
            totals = self._totals(microbatches)
            self.zero_gradients()
            records, coefficients = self._backward(microbatches, totals)
            terms = {t: s / totals[t] if totals[t] else 0.0 for t, s in zip(self.task.terms, records.tolist(), strict=True)}
            loss = sum(coefficients.get(t, 1.0) * value for t, value in terms.items())
            self.reduce_gradients()
            norm = self.gradient_norm() / self.scaler.scale
            finite = math.isfinite(norm) and math.isfinite(loss)
            scale = self.scaler.scale
            if finite:
                self._update(lr, norm)
            self.scaler.update(finite)
            lost = () if finite else self._nonfinite(terms)
            return StepReport(loss, terms, totals, norm, applied=finite, loss_scale=scale, nonfinite=lost)

    def _totals(self, microbatches: Sequence[Batch]) -> dict[str, float]:
        own = [sum(batch.weights.get(term, 0.0) for batch in microbatches) for term in self.task.terms]
        vector = torch.tensor(own, dtype=torch.float64)
        if self.data_group is not None:
            vector = vector.to(self.device)
            dist.all_reduce(vector, group=self.data_group)
        return dict(zip(self.task.terms, vector.tolist(), strict=True))

    def _backward(self, microbatches: Sequence[Batch], totals: Mapping[str, float]) -> tuple[torch.Tensor, dict[str, float]]:
        """Gradients of a step; the terms' sums over everything, float64, and their coefficients."""
        coefficients: dict[str, float] = {}

        def scaled(terms: Sequence[LossTerm]) -> tuple[torch.Tensor, torch.Tensor]:
            sums = dict.fromkeys(self.task.terms, torch.zeros((), device=self.device))
            scalar = torch.zeros((), device=self.device)
            for term in terms:
                coefficients[term.name] = term.coefficient
                sums[term.name] = term.sum.detach()
                if totals[term.name]:
                    scalar = scalar + term.sum.float() * (term.coefficient / totals[term.name])
            return scalar, torch.stack([sums[t].double() for t in self.task.terms])

        if isinstance(self.task, WholeBatchLoss):
            from spcore.tensors.wholebatch import backward_whole

            sums = backward_whole(self, microbatches, scaled)
            return sums, coefficients
        records = self.sweep(microbatches, lambda outputs, batch: scaled(self.task.loss(outputs, batch, self.ops)), True)
        own = torch.stack(records).sum(0).cpu() if records and self.speaks and self.has_output else torch.zeros(len(self.task.terms)).double()
        return self.all_reduce(own), coefficients

    def zero_gradients(self) -> None:
        """Before a step."""
        self.module.zero_grad(set_to_none=True)

    def gradient_norm(self) -> float:
        """Norm of all gradients together, of the whole model."""
        grads = [p.grad for p in self.module.parameters() if p.grad is not None]
        if not grads:
            return 0.0
        norms = torch._foreach_norm(grads)
        return float(torch.linalg.vector_norm(torch.stack([n.float() for n in norms])))

    def _update(self, lr: float, norm: float) -> None:
        assert self.optimizer is not None, "an engine that trains has an optimizer"
        clip = self.plan.clip_norm
        factor = min(1.0, clip / (norm + 1e-6)) if clip is not None else 1.0
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)
        scaled_step(self.optimizer, factor / self.scaler.scale)

    def _nonfinite(self, terms: Mapping[str, float]) -> tuple[str, ...]:
        named = [f"loss {name!r}" for name, value in terms.items() if not math.isfinite(value)]
        for name, p in self.module.named_parameters():
            if p.grad is not None and not bool(torch.isfinite(p.grad).all()):
                named.append(f"gradient of {name}")
        return tuple(named) or ("gradient norm",)

    def gradients(self, microbatches: Sequence[Batch]) -> Iterator[tuple[str, torch.Tensor]]:
        """See `Gradients`."""
        with self.owned():
            self.zero_gradients()
            self._backward(microbatches, self._totals(microbatches))
            self.reduce_gradients()
            found = [(n, p.grad) for n, p in self.module.named_parameters()]
        for name, grad in found:
            if grad is not None and self.place.is_writer:
                yield name, grad.detach().float().cpu() / self.scaler.scale
        self.zero_gradients()

    # -- evaluation ------------------------------------------------------------------------------------------------

    def eval_step(self, microbatches: Sequence[Batch], method: Literal["reduce", "annotate"] = "reduce") -> EvalPart | None:
        """See `Engine.eval_step`."""
        if method == "annotate":
            assert isinstance(self.task, Annotates), "only a task that annotates is asked to"
        work = self._annotations if method == "annotate" else self.task.reduce

        def reduced(outputs: Outputs, batch: Batch) -> tuple[None, EvalPart]:
            return None, work(outputs, batch, self.ops)

        with self.owned():
            parts: list[EvalPart] = self.sweep(microbatches, reduced, False)
        if not (self.has_output and self.speaks):
            return None
        sums: dict[str, float] = {}
        for part in parts:
            for name, value in part.sums.items():
                sums[name] = sums.get(name, 0.0) + float(value)
        return EvalPart(sums, [row for part in parts for row in part.rows])

    def _annotations(self, outputs: Outputs, batch: Batch, ops: Any) -> EvalPart:
        assert isinstance(self.task, Annotates)
        figures = self.task.annotate(outputs, batch, ops)
        ids = [int(i) for i in batch.feature_ids.ravel() if i >= 0]
        rows = [{"feature_id": i, **{name: values[n] for name, values in figures.items()}} for n, i in enumerate(ids)]
        return EvalPart({}, rows)

    # -- together --------------------------------------------------------------------------------------------------

    def agree(self, code: int) -> int:
        """See `Engine.agree`."""
        if not dist.is_initialized() or self.place.world_size == 1:
            return code
        value = torch.tensor([code], device=self.device)
        dist.all_reduce(value, dist.ReduceOp.MAX)
        return int(value)

    def collect(self, obj: Any, *, everywhere: bool = False) -> list[Any] | None:
        """See `Engine.collect`."""
        if not dist.is_initialized() or self.place.world_size == 1:
            return [obj]
        every: list[Any] = [None] * self.place.world_size
        dist.all_gather_object(every, obj)
        return every if everywhere or self.place.is_writer else None

    # -- state -----------------------------------------------------------------------------------------------------

    def build_optimizer(self) -> torch.optim.Optimizer:
        """The optimizer over this module's trainable parameters, grouped by name and whole shape."""
        assert self.plan.optimizer is not None
        groups: dict[Any, list[torch.nn.Parameter]] = {}
        for name, parameter in self.module.named_parameters():
            if parameter.requires_grad:
                groups.setdefault(self.plan.optimizer.groups(name, self.full_shape(name, parameter)), []).append(parameter)
        lr = self.plan.optimizer.lr
        return self.plan.optimizer.build(
            [{"params": ps, "weight_decay": key.weight_decay, "lr": lr * key.lr_scale, "lr_scale": key.lr_scale} for key, ps in groups.items()]
        )

    def full_shape(self, name: str, parameter: torch.Tensor) -> tuple[int, ...]:
        """The whole parameter's shape, where this rank holds a shard."""
        return tuple(parameter.shape)

    def save(self, folder: Path) -> state.Done:
        """See `Engine.save`."""
        state.save(folder / f"rank-{self.place.rank:05d}.safetensors", self.module, self.optimizer, self.scaler, self.random)
        return state.Done()

    def load(self, folder: Path) -> None:
        """See `Engine.load`."""
        state.load(folder / f"rank-{self.place.rank:05d}.safetensors", self.module, self.optimizer, self.scaler, self.random)

    def weights(self, which: Literal["model", "adapter"] = "model") -> Iterator[tuple[str, torch.Tensor]]:
        """See `Engine.weights`."""
        tied = self.plan.model.anatomy(self.plan.head).tied
        trainable = {name for name, p in self.module.named_parameters() if p.requires_grad}
        for name, tensor in self.module.state_dict().items():
            if name not in tied and (which == "model" or name in trainable) and self.place.is_writer:
                yield name, tensor.detach().cpu()

    def parameters(self) -> tuple[int, int]:
        """See `Engine.parameters`."""
        every = list(self.module.parameters())
        return sum(p.numel() for p in every), sum(p.numel() for p in every if p.requires_grad)

    def peak_memory(self) -> int:
        """See `Engine.peak_memory`."""
        if self.device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self.device))
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

    @contextlib.contextmanager
    def owned(self) -> Iterator[None]:
        """The process's random generators and thread count, the engine's own while it computes."""
        with _PROCESS:
            before = torch.get_num_threads()
            if self.threads is not None and self.threads != before:
                torch.set_num_threads(self.threads)
            try:
                with rng.swapped(self.random, self.device):
                    yield
            finally:
                if torch.get_num_threads() != before:
                    torch.set_num_threads(before)

    def close(self) -> None:
        """See `Engine.close`."""
        self.optimizer = None
        self.module = torch.nn.Module()


def scaled_step(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """An optimizer step with all gradients multiplied by `factor`. Fused optimizers do that in their own pass over memory (the
    attribute that GradScaler uses, a divisor); else gradients are scaled in place first."""
    if factor == 1.0:
        optimizer.step()
        return
    grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    if grads and getattr(optimizer, "_step_supports_amp_scaling", False):
        device = grads[0].device
        optimizer.grad_scale = torch.tensor(1.0 / factor, device=device)  # type: ignore[attr-defined]
        optimizer.found_inf = torch.zeros((), device=device)  # type: ignore[attr-defined]
        try:
            optimizer.step()
        finally:
            del optimizer.grad_scale, optimizer.found_inf  # type: ignore[attr-defined]
        return
    if grads:
        torch._foreach_mul_(grads, factor)
    optimizer.step()
