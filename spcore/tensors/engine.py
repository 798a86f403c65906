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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from spcore.errors import OutOfMemory
from spcore.interfaces.strategy import Engine, Pending, Place, Plan, StepReport
from spcore.interfaces.task import Annotates, Batch, EvalPart, LossTerm, WholeBatchLoss
from spcore.tensors import process, rng, sharding, state
from spcore.tensors.exhaustion import out_of_memory, too_large
from spcore.tensors.materialise import named_parameters
from spcore.tensors.ops import WholeOps, as_tensors
from spcore.tensors.stepping import Scaler, scaled_step
from spcore.tensors.wholebatch import backward_whole

Outputs = Mapping[str, torch.Tensor]
SweepFn = Callable[[Outputs, Batch], tuple[torch.Tensor | None, Any]]


class TorchEngine(Engine):
    """One process, or one of several that each hold the whole model, or a part of each parameter (a DTensor).

    module: built and with values. data_group: the process group of data-parallel ranks, None for one process.
    threads: CPU threads while it computes, None: as the process has them.
    own: this rank's parameters by Hugging Face name, each once, as the module has them between steps. shards: by the same names, what
    the optimizer updates and norms are taken of, with gradients once `reduce_gradients` is through; parts share the parameter's memory.
    """

    speaks = True
    """Of ranks that hold the same outputs, the one whose figures count."""
    has_output = True
    """Whether outputs and losses come about on this rank."""

    def __init__(
        self, plan: Plan, place: Place, module: torch.nn.Module, *, data_group: Any = None, threads: int | None = None
    ) -> None:
        self.plan, self.place, self.module, self.data_group, self.threads = plan, place, module, data_group, threads
        self.device = torch.device(place.device)
        self.task, self.ops = plan.task, WholeOps(data_group)
        self.tied = plan.model.anatomy(plan.head).tied
        # Walking a module's tree at each step costs more than what is done to it.
        self.own = self.own_parameters()
        self.shards = {name: self.shard(p) for name, p in self.own.items()}
        self.held = tuple(self.shards.values())
        self.optimizer = self.build_optimizer() if plan.optimizer is not None else None
        self.scaler = Scaler.of(plan.precision.loss_scaling)
        self.staging = state.Staging()
        self.random = rng.seeded(rng.address(plan.seed, "rank", place.rank), self.device)

    # -- the primitive, and what other layouts override ------------------------------------------------------------

    def sweep(
        self, microbatches: Sequence[Batch], fn: SweepFn, backward: bool, *, training: bool | None = None
    ) -> list[Any]:
        """Run microbatches in order; see the module. The loss scale is applied here. training: whether the module is in training
        mode (dropout), by default as `backward` says."""
        records = []
        training = backward if training is None else training
        if self.module.training is not training:
            self.module.train(training)
        for n, batch in enumerate(microbatches):
            last = n == len(microbatches) - 1
            with torch.set_grad_enabled(backward), self.synchronising(backward and last):
                ready = self.prepared(batch)
                with self.casting():
                    outputs = self.forward(ready)
                    scalar, record = fn(outputs, ready)
                if backward:
                    assert scalar is not None, "a backward sweep needs a scalar"
                    self.backpropagate(scalar, outputs)
            records.append(record)
        return records

    def backpropagate(self, scalar: torch.Tensor, outputs: Outputs) -> None:
        """Backward from a microbatch's scalar. outputs: of its forward pass, for engines whose ranks meet in every backward pass."""
        if scalar.requires_grad:  # nothing to learn where no term has weight
            (scalar * self.scaler.scale if self.scaler.scale != 1 else scalar).backward()

    def prepared(self, batch: Batch) -> Batch:
        """A batch with the engine's tensors."""
        inputs, targets = (as_tensors(arrays, self.device) for arrays in (batch.inputs, batch.targets))
        return replace(batch, inputs=inputs, targets=targets)

    def forward(self, batch: Batch) -> Outputs:
        """Outputs of a prepared batch."""
        outputs: Outputs = self.module(**batch.inputs)
        return outputs

    def casting(self) -> contextlib.AbstractContextManager[Any]:
        """Round forward and loss, not round backward: autocast."""
        return contextlib.nullcontext()

    def synchronising(self, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Round each microbatch; `last` on the last of a backward sweep."""
        return contextlib.nullcontext()

    def shard(self, parameter: torch.nn.Parameter) -> torch.nn.Parameter:
        """What the optimizer updates of a parameter: the parameter, or this rank's part of a DTensor as a plain tensor: elementwise
        optimizers need no more, and run their quickest kernels."""
        if not isinstance(parameter, DTensor):
            return parameter
        return torch.nn.Parameter(sharding.part(parameter), parameter.requires_grad)

    def delivered(self, tensors: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
        """(name, whole tensor) on the writer, of tensors that are laid out as the parameters of their names are; all ranks drain it."""
        for name, tensor in tensors.items():
            whole = sharding.whole(sharding.alike(self.own[name], tensor) if name in self.own else tensor)
            if self.place.is_writer:
                yield name, whole

    def reduce_gradients(self) -> None:
        """Sum gradients over data-parallel ranks, into `shards`."""

    def all_reduce(self, vector: torch.Tensor) -> torch.Tensor:
        """Sum of a float64 CPU vector over all ranks."""
        if not self.together:
            return vector
        moved = vector.to(self.device)
        dist.all_reduce(moved)
        return moved.cpu()

    @property
    def together(self) -> bool:
        """Whether there are other ranks."""
        return self.place.world_size > 1 and dist.is_initialized()

    # -- training --------------------------------------------------------------------------------------------------

    def train_step(self, microbatches: Sequence[Batch], lr: float, step: int) -> StepReport:
        """See `Engine.train_step`."""
        with self.owned():
            totals, positions = self._totals(microbatches)
            sums, weighted = self._swept(microbatches, totals).tolist()
            terms = {t: s / totals[t] if totals[t] else 0.0 for t, s in zip(self.task.terms, sums, strict=True)}
            loss = math.fsum(w / totals[t] for t, w in zip(self.task.terms, weighted, strict=True) if totals[t])
            scale = self.scaler.scale
            norm = self.gradient_norm() / scale
            finite = math.isfinite(norm) and math.isfinite(loss)
            if finite:
                self.staging.settle()
                self._update(lr, norm)
            self.scaler.update(finite)
            lost = () if finite else self._nonfinite(terms)
            return StepReport(
                loss, terms, totals, norm, applied=finite, loss_scale=scale, nonfinite=lost, positions=positions
            )

    def _swept(self, microbatches: Sequence[Batch], totals: Mapping[str, float]) -> torch.Tensor:
        """Gradients summed over ranks, and the record of the step, see `_backward`. Raises OutOfMemory on every rank alike where one
        had not enough: before anything but gradients and random draws, which are put back, has changed."""
        before = rng.capture(self.device)
        self.zero_gradients()
        record, short = torch.zeros(2, len(self.task.terms), dtype=torch.float64), 0.0
        try:
            record = self._backward(microbatches, totals)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            if not self.recovers:
                raise too_large(self.device, microbatches, "train.micro_batch_size") from error
            short = 1.0
        if short:  # out here, where the error's frames no longer hold what filled the memory
            self.zero_gradients()
        self.reduce_gradients()
        if not isinstance(self.task, WholeBatchLoss):  # whose record is of all ranks already
            every = self.all_reduce(torch.cat([record.flatten(), record.new_tensor([short])]))
            record, short = every[:-1].view(2, -1), float(every[-1])
        if short:
            self.zero_gradients()
            rng.restore(before, self.device)
            raise OutOfMemory(f"{self.device}: not enough memory for the microbatches of a step")
        return record

    @property
    def recovers(self) -> bool:
        """Whether ranks meet again where one runs out of memory in a backward sweep: not where the sweep itself is collective."""
        return not self.together or not isinstance(self.task, WholeBatchLoss)

    def fed(self, batch: Batch) -> int:
        """Positions that the module is fed for a batch, padding included."""
        return int(batch.inputs["input_ids"].size) if "input_ids" in batch.inputs else 0

    def _totals(self, microbatches: Sequence[Batch]) -> tuple[dict[str, float], int]:
        """Each term's weight, and the positions fed, over all microbatches and data-parallel ranks."""
        lost = [term for term in self.task.terms for batch in microbatches if term not in batch.weights]
        assert not lost, f"a batch has no weight for loss term {lost[0]!r}: collate gives one for every term"
        own = [math.fsum(batch.weights[term] for batch in microbatches) for term in self.task.terms]
        vector = torch.tensor([*own, sum(map(self.fed, microbatches))], dtype=torch.float64)
        if self.data_group is not None:
            vector = vector.to(self.device)
            dist.all_reduce(vector, group=self.data_group)
        *weights, positions = vector.tolist()
        return dict(zip(self.task.terms, weights, strict=True)), int(positions)

    def _backward(self, microbatches: Sequence[Batch], totals: Mapping[str, float]) -> torch.Tensor:
        """Gradients of this rank's part; float64 CPU [2, terms]: the terms' sums, without and with coefficients; of this rank, but
        of everything for a loss over the whole batch."""

        def scaled(terms: Sequence[LossTerm]) -> tuple[torch.Tensor, torch.Tensor]:
            zero = torch.zeros((), dtype=torch.float64, device=self.device)
            sums, weighted = dict.fromkeys(self.task.terms, zero), dict.fromkeys(self.task.terms, zero)
            scalar = zero.float()
            for term in terms:
                assert term.name in sums, f"loss term {term.name!r} is none of the task's: {', '.join(self.task.terms)}"
                value = term.sum.detach().double()
                sums[term.name], weighted[term.name] = value, value * term.coefficient
                if totals[term.name]:
                    scalar = scalar + term.sum.float() * (term.coefficient / totals[term.name])
            return scalar, torch.stack([*sums.values(), *weighted.values()]).view(2, -1)

        if isinstance(self.task, WholeBatchLoss):
            return backward_whole(self, microbatches, scaled)
        records = self.sweep(microbatches, lambda out, batch: scaled(self.task.loss(out, batch, self.ops)), True)
        if records and self.speaks and self.has_output:
            return torch.stack(records).sum(0).cpu()
        return torch.zeros(2, len(self.task.terms), dtype=torch.float64)

    def zero_gradients(self) -> None:
        """Before a step."""
        for p in self.held:
            p.grad = None

    def gradient_norm(self) -> float:
        """Norm of all gradients together, of the whole model."""
        return math.sqrt(self.squares([p.grad for p in self.held if p.grad is not None]))

    def squares(self, grads: Sequence[torch.Tensor]) -> float:
        """The sum of the squares of all entries."""
        if not grads:
            return 0.0
        if self.device.type == "cpu" and all(g.is_contiguous() for g in grads):
            # A product with itself goes by all threads; torch's norm of a large tensor by one.
            return math.fsum(torch.stack([torch.dot(g.view(-1), g.view(-1)) for g in grads]).tolist())
        norms = torch._foreach_norm(list(grads))
        return float(torch.linalg.vector_norm(torch.stack([n.float() for n in norms]))) ** 2

    def _update(self, lr: float, norm: float) -> None:
        assert self.optimizer is not None, "an engine that trains has an optimizer"
        clip = self.plan.clip_norm
        factor = min(1.0, clip / (norm + 1e-6)) if clip is not None else 1.0
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)
        scaled_step(self.optimizer, factor / self.scaler.scale)

    def named_gradients(self) -> Iterator[tuple[str, torch.Tensor]]:
        """(Hugging Face name, gradient) of what this rank has of each parameter, where there is one."""
        yield from ((name, p.grad) for name, p in self.shards.items() if p.grad is not None)

    def _nonfinite(self, terms: Mapping[str, float]) -> tuple[str, ...]:
        """What was not finite, over all ranks."""
        named = [f"loss {name!r}" for name, value in terms.items() if not math.isfinite(value)]
        for name, gradient in self.named_gradients():
            if not bool(torch.isfinite(gradient).all()):
                named.append(f"gradient of {name}")
        every = [name for rank in self.collect(named, everywhere=True) or [] for name in rank]
        return tuple(dict.fromkeys(every)) or ("gradient norm",)

    def gradients(self, microbatches: Sequence[Batch]) -> Iterator[tuple[str, torch.Tensor]]:
        """See `spcore.interfaces.strategy.Gradients`."""
        with self.owned():
            self._swept(microbatches, self._totals(microbatches)[0])
        found = {name: gradient.detach() for name, gradient in self.named_gradients()}
        for name, gradient in self.delivered(found):
            yield name, gradient.float().cpu() / self.scaler.scale
        self.zero_gradients()

    # -- evaluation ------------------------------------------------------------------------------------------------

    def eval_step(
        self, microbatches: Sequence[Batch], method: Literal["reduce", "annotate"] = "reduce"
    ) -> EvalPart | None:
        """See `Engine.eval_step`."""
        work = self._annotated if method == "annotate" else self.task.reduce

        def reduced(outputs: Outputs, batch: Batch) -> tuple[None, EvalPart]:
            return None, work(outputs, batch, self.ops)

        with self.owned():
            try:
                parts: list[EvalPart] = self.sweep(microbatches, reduced, False)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                raise too_large(self.device, microbatches, "eval.batch_tokens") from error
        if not (self.has_output and self.speaks):
            return None
        sums: dict[str, float] = {}
        for part in parts:
            for name, value in part.sums.items():
                sums[name] = sums.get(name, 0.0) + float(value)
        return EvalPart(sums, [row for part in parts for row in part.rows])

    def _annotated(self, outputs: Outputs, batch: Batch, ops: Any) -> EvalPart:
        """A row for each feature, however many sequences it has."""
        assert isinstance(self.task, Annotates), "only a task that annotates is asked to"
        figures = self.task.annotate(outputs, batch, ops)
        ids = dict.fromkeys(int(i) for i in batch.feature_ids.ravel() if i >= 0)
        rows = [{"feature_id": i, **{name: v[n] for name, v in figures.items()}} for n, i in enumerate(ids)]
        return EvalPart({}, rows)

    # -- together --------------------------------------------------------------------------------------------------

    def agree(self, code: int) -> int:
        """See `Engine.agree`."""
        if not self.together:
            return code
        value = torch.tensor([code], device=self.device)
        dist.all_reduce(value, dist.ReduceOp.MAX)
        return int(value)

    def collect(self, obj: Any, *, everywhere: bool = False) -> list[Any] | None:
        """See `Engine.collect`."""
        if not self.together:
            return [obj]
        every: list[Any] = [None] * self.place.world_size
        dist.all_gather_object(every, obj)
        return every if everywhere or self.place.is_writer else None

    # -- state -----------------------------------------------------------------------------------------------------

    def own_parameters(self) -> dict[str, torch.nn.Parameter]:
        """This rank's parameters by Hugging Face name, each once."""
        return named_parameters(self.module, self.tied)

    def build_optimizer(self) -> torch.optim.Optimizer:
        """The optimizer over this rank's trainable parameters, grouped by name and whole shape."""
        assert self.plan.optimizer is not None
        groups: dict[Any, list[torch.nn.Parameter]] = {}
        for name, parameter in self.own.items():
            if parameter.requires_grad:
                key = self.plan.optimizer.groups(name, self.full_shape(name, parameter))
                groups.setdefault(key, []).append(self.shards[name])
        lr = self.plan.optimizer.lr
        return self.plan.optimizer.build([key.group(ps, lr) for key, ps in groups.items()])

    def full_shape(self, name: str, parameter: torch.Tensor) -> tuple[int, ...]:
        """The whole parameter's shape, which a DTensor says too."""
        return tuple(parameter.shape)

    def _state_file(self, folder: Path) -> Path:
        return folder / f"rank-{self.place.rank:05d}.safetensors"

    def _state(self) -> state.Held:
        kept = self.module.state_dict()
        buffers = {
            name: b for name, b in self.module.named_buffers() if name in kept
        }  # others are computed, not learned
        tensors = {**self.own, **buffers}
        return state.Held(tensors, self.shards, self.optimizer, self.scaler, self.random, self.writes)

    @property
    def writes(self) -> bool:
        """Whether this rank stores what it holds whole, of those that hold the same."""
        return self.place.is_writer

    def save(self, folder: Path) -> Pending:
        """See `Engine.save`."""
        return state.save(self._state_file(folder), self._state(), self.staging)

    def load(self, folder: Path) -> None:
        """See `Engine.load`. A rank that the saving run had not goes on with generators of its own."""
        self.staging.settle()
        state.load(folder, self._state_file(folder), self._state())

    def weights(self, which: Literal["model", "adapter"] = "model") -> Iterator[tuple[str, torch.Tensor]]:
        """See `Engine.weights`."""
        trainable = {name for name, p in self.own.items() if p.requires_grad}
        every = {name: sharding.part(t) for name, t in self.module.state_dict().items() if name not in self.tied}
        for name, tensor in self.delivered({n: t for n, t in every.items() if which == "model" or n in trainable}):
            yield name, tensor.cpu().contiguous()

    def parameters(self) -> tuple[int, int]:
        """See `Engine.parameters`."""
        every = self.own.values()
        return sum(p.numel() for p in every), sum(p.numel() for p in every if p.requires_grad)

    def peak_memory(self) -> int:
        """See `Engine.peak_memory`."""
        if self.device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self.device))
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

    @contextlib.contextmanager
    def owned(self) -> Iterator[None]:
        """The process's random generators, thread count and fp32 products, the engine's own while it computes."""
        alone = process.computing(matmul=self.plan.precision.matmul, threads=self.threads)
        with alone, rng.swapped(self.random, self.device):
            yield

    def close(self) -> None:
        """See `Engine.close`."""
        self.optimizer, self.staging = None, state.Staging()
        self.held, self.own, self.shards = (), {}, {}
        self.module = torch.nn.Module()
