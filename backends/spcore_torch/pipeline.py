"""The engine of `parallel` whose layers are divided into the stages of a pipeline, and what it refuses."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist

from spcore.errors import RefusalError
from spcore.interfaces.model import Stages
from spcore.interfaces.strategy import BatchRule, Pending, Place, Plan, Refusal
from spcore.interfaces.task import Batch
from spcore.tensors import state
from spcore.tensors.engine import SweepFn, TorchEngine
from spcore.tensors.materialise import LoadReport, materialise
from spcore_torch import kernels, stages
from spcore_torch.ddp import device_of, group_of
from spcore_torch.options import ParallelOptions, SingleOptions
from spcore_torch.reducer import Reducer
from spcore_torch.schedules import Pipeline, Sweep
from spcore_torch.single import SingleEngine

AXIS = "pipeline"


def pipeline_refusals(plan: Plan, options: ParallelOptions) -> list[Refusal]:
    """What a pipeline cannot honour of a plan."""
    size, chunks = options.pipeline_parallel, options.chunks
    subject, found = f"strategy.pipeline_parallel {size}", []
    if options.schedule == "interleaved" and (chunks == 1 or size == 1):
        why = "each of several processes has several stages under it"
        hint = "make strategy.chunks 2 or more" if size > 1 else "make strategy.pipeline_parallel 2 or more, or leave schedule out"
        found.append(Refusal("strategy.schedule interleaved", why, hint))
    elif options.schedule != "interleaved" and chunks > 1:
        why = f"under schedule {options.schedule!r} a process has one stage"
        found.append(Refusal(f"strategy.chunks {chunks}", why, "use strategy.schedule=interleaved"))
    if size == 1:
        return found
    if not isinstance(plan.model, Stages):
        why = f"model family {plan.model.family!r} cannot be cut into stages: its plugin has not the ability"
        return [*found, Refusal(subject, why, "use strategy=ddp or fsdp")]
    try:
        depth = plan.model.depth(plan.head)
    except RefusalError as error:
        return [*found, Refusal(subject, error.message, "use strategy=ddp or fsdp")]
    if size * chunks > depth:
        each = f" of {chunks} stages each" if chunks > 1 else ""
        why = f"{size} processes{each}, and the model has {depth} layers"
        found.append(Refusal(subject, why, f"make it {depth // chunks} or less" if depth >= 2 * chunks else "leave it out"))
    return found


def pipeline_rule(plan: Plan) -> BatchRule:
    """Microbatches of one shape, and as many as there are stages at a time, or some would stand idle."""
    size = plan.layout.axes.get(AXIS, 1)
    return BatchRule(equal_length="step", count_multiple=size) if size > 1 else BatchRule()


class PipelineEngine(SingleEngine):
    """One rank's stages of a pipeline, beside as many pipelines as there are data ranks."""

    def __init__(self, plan: Plan, place: Place, options: ParallelOptions) -> None:
        self.options = options
        device = device_of(plan, place)
        self._held = contextlib.ExitStack()
        self._held.enter_context(group_of(place, device))
        self.size = plan.layout.axes[AXIS]
        self.rank = place.rank % self.size
        mesh = dist.init_device_mesh(device.partition(":")[0], (place.data_size, self.size), mesh_dim_names=("data", AXIS))
        self.pipe = mesh.get_group(AXIS)
        data = mesh.get_group("data") if place.data_size > 1 else None
        single = SingleOptions(flatten="never", threads=options.threads)
        super().__init__(plan, place, single, device=device, data_group=data)
        assert isinstance(plan.model, Stages), "`check` refuses others"
        self.pipeline = Pipeline(
            self.module, plan.model, options.schedule, self.size * options.chunks, self.pipe, self.device,
            getattr(torch, plan.precision.parameter),
        )  # fmt: skip
        self.speaks = self.has_output = self.rank == self.size - 1
        self.reducer = Reducer(self.own_parameters().values(), data) if data is not None else None

    def _build(self, plan: Plan, device: torch.device, alone: bool) -> None:
        mine = [self.rank + n * self.size for n in range(self.options.chunks)]
        module = stages.build(plan, mine, self.size * self.options.chunks)
        reports = [materialise(part, plan.model, plan.head, plan.seed, device) for part in module.parts]
        self.tied = plan.model.anatomy(plan.head).tied
        buffers = list(dict(module.named_buffers()))
        self.stored = stages.Held(list(self._all(module)), buffers, self.pipe, self.rank, self.size)
        self.report = self._joined(reports)
        self._ready(module, plan, device)

    def _joined(self, reports: Sequence[LoadReport]) -> LoadReport:
        """What all stages together took from the model's weights."""
        every: list[Any] = [None] * self.size
        dist.all_gather_object(every, [vars(report) for report in reports], group=self.pipe)
        found = [report for rank in every for report in rank]
        loaded = dict.fromkeys(name for report in found for name in report["loaded"])
        unused = set.intersection(*(set(report["unused"]) for report in found))
        return LoadReport(
            list(loaded), list(dict.fromkeys(n for report in found for n in report["initialised"] if n not in loaded)), sorted(unused)
        )

    def _all(self, module: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
        """Every parameter of this rank's stages, copies of tied ones too."""
        return {n: p for n, p in module.named_parameters(remove_duplicate=False) if n not in self.tied}

    def own_parameters(self) -> dict[str, torch.nn.Parameter]:
        """Those that this rank answers for."""
        return {name: p for name, p in self._all(self.module).items() if self.stored.answers(name)}

    # -- training --------------------------------------------------------------------------------------------------

    def sweep(
        self, microbatches: Sequence[Batch], fn: SweepFn, backward: bool, *, training: bool | None = None
    ) -> list[Any]:
        """See `TorchEngine.sweep`."""
        kernels.refresh(self.products)
        self.module.train(backward if training is None else training)
        scale = self.scaler.scale

        def run(module: torch.nn.Module, states: Mapping[str, torch.Tensor] | None, batch: Batch) -> Any:
            with self.casting():
                return module(states, **batch.inputs)

        def finish(outputs: Mapping[str, torch.Tensor], batch: Batch) -> tuple[torch.Tensor | None, Any]:
            with self.casting():
                scalar, record = fn(outputs, batch)
            return (scalar * scale if scalar is not None and scale != 1 else scalar), record

        seed = int(torch.randint(2**62, ()))
        ready = [self.prepared(batch) for batch in microbatches]
        with torch.set_grad_enabled(backward):
            return self.pipeline.run(Sweep(ready, run, finish, seed), backward)

    def _backward(self, microbatches: Sequence[Batch], totals: Mapping[str, float]) -> torch.Tensor:
        """See `TorchEngine`."""
        record = super()._backward(microbatches, totals)
        if not any(totals.values()):  # zeros that only kept the pipeline going
            self.zero_gradients()
        return record

    @property
    def recovers(self) -> bool:
        """Stages wait for each other amid a sweep."""
        return False

    def reduce_gradients(self) -> None:
        """Over copies of tied parameters, then over data ranks."""
        self.stored.sum_gradients(self._all(self.module))
        if self.reducer is not None:
            self.reducer.finish()

    def gradient_norm(self) -> float:
        """See `TorchEngine.gradient_norm`."""
        square = torch.tensor(super().gradient_norm() ** 2, dtype=torch.float64, device=self.device)
        dist.all_reduce(square, group=self.pipe)
        return math.sqrt(float(square))

    def _update(self, lr: float, norm: float) -> None:
        super()._update(lr, norm)
        self.stored.send_values(self._all(self.module))

    # -- what is asked of the whole model --------------------------------------------------------------------------

    def gradients(self, microbatches: Sequence[Batch]) -> Iterator[tuple[str, torch.Tensor]]:
        """See `spcore.interfaces.strategy.Gradients`."""
        with self.owned():
            self._swept(microbatches, self._totals(microbatches)[0])
        found = {name: p.grad for name, p in self.own_parameters().items() if p.grad is not None}
        yield from self._whole(found, lambda grad: grad.float() / self.scaler.scale)
        self.zero_gradients()

    def weights(self, which: Literal["model", "adapter"] = "model") -> Iterator[tuple[str, torch.Tensor]]:
        """See `Engine.weights`."""
        trainable = {name for name, p in self.own_parameters().items() if p.requires_grad}
        every = {n: t for n, t in self.module.state_dict().items() if n not in self.tied}
        yield from self._whole({n: t for n, t in every.items() if which == "model" or n in trainable}, lambda tensor: tensor)

    def _whole(self, tensors: Mapping[str, torch.Tensor], change: Any) -> Iterator[tuple[str, torch.Tensor]]:
        """Every stage's tensors, on the writer; of one pipeline, for all have the same."""
        if self.place.data_rank == 0:
            yield from self.stored.gathered(tensors, self.device, change)

    def parameters(self) -> tuple[int, int]:
        """See `Engine.parameters`."""
        counts = torch.tensor(super().parameters(), device=self.device)
        dist.all_reduce(counts, group=self.pipe)
        every, trainable = counts.tolist()
        return int(every), int(trainable)

    def facts(self) -> Mapping[str, str]:
        """See `Engine.facts`."""
        layers = stages.spans(self.plan.model.depth(self.plan.head), self.size * self.options.chunks)  # type: ignore[attr-defined]
        said = f"{self.options.schedule}, layers {' + '.join(str(len(span)) for span in layers)}"
        return {**super().facts(), "pipeline": said}

    # -- state -----------------------------------------------------------------------------------------------------

    def _stored_tensors(self) -> dict[str, torch.Tensor]:
        return {**self.own_parameters(), **dict(self.module.named_buffers())}

    def save(self, folder: Path) -> Pending:
        """Each stage's share once, by the first pipeline; random generators of every rank."""
        tensors = self._stored_tensors() if self.place.data_rank == 0 else {}
        optimizer = self.optimizer if self.place.data_rank == 0 else None
        return state.save(self._state_file(folder), tensors, optimizer, self.scaler, self.random)

    def load(self, folder: Path) -> None:
        """See `Engine.load`."""
        shared = folder / f"rank-{self.rank:05d}.safetensors"
        state.load(shared, self._stored_tensors(), self.optimizer, self.scaler, self.random)
        if self.place.data_rank:
            state.load(self._state_file(folder), {}, None, self.scaler, self.random)
        self.stored.send_values(self._all(self.module))

    def close(self) -> None:
        """See `Engine.close`."""
        if self.reducer is not None:
            self.reducer.close()
        super().close()
        self._held.close()
