"""The engine of `parallel` whose layers are divided into the stages of a pipeline, beside all that the others do within a stage."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from spcore.interfaces.model import Stages
from spcore.interfaces.strategy import Place, Plan
from spcore.interfaces.task import Batch
from spcore.tensors import state
from spcore.tensors.engine import SweepFn
from spcore.tensors.materialise import LoadReport
from spcore_torch import kernels, stages
from spcore_torch.cutting import Cuts
from spcore_torch.options import ParallelOptions
from spcore_torch.parallel import ParallelEngine
from spcore_torch.schedules import Pipeline, Sweep


class PipelineEngine(ParallelEngine):
    """One rank's stages. stored: which rank of the pipeline answers for which tensors."""

    def __init__(self, plan: Plan, place: Place, options: ParallelOptions) -> None:
        self.count = options.pipeline_parallel * options.chunks
        super().__init__(plan, place, options)
        self.flat = False
        self.has_output = self.rank == options.pipeline_parallel - 1
        self.pipeline = Pipeline(
            self.module, self._states, options.schedule, self.count, self.pipe, self.device,
            getattr(torch, plan.precision.parameter),
        )  # fmt: skip

    def _groups(self, plan: Plan, place: Place, device: str) -> Any:
        group = super()._groups(plan, place, device)
        assert self.mesh is not None, "a pipeline has several ranks"
        self.pipe = self.mesh.get_group("pipeline")
        self.rank = dist.get_rank(self.pipe)
        return group

    def _made(self, plan: Plan, device: torch.device) -> tuple[torch.nn.Module, LoadReport]:
        size = self.options.pipeline_parallel
        parts = stages.build(plan, [self.rank + n * size for n in range(self.options.chunks)], self.count)
        filled = [self._filled(plan, part, device) for part in parts.values()]
        self._cuts = [cuts for _, cuts in filled]
        self.cuts = Cuts.joined(self._cuts)
        module = stages.Chunks(parts)
        self.tied = plan.model.anatomy(plan.head).tied
        buffers = list(dict(module.named_buffers()))
        self.stored = stages.Held(list(self._all(module)), buffers, self.pipe, self.rank, size)
        return module, stages.report_of_all([report for report, _ in filled], self.pipe)

    def _parts(self) -> list[tuple[torch.nn.Module, Cuts]]:
        return list(zip(self.module.parts, self._cuts, strict=True))

    def _all(self, module: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
        """Every parameter of this rank's stages, copies of tied ones too."""
        return {n: p for n, p in module.named_parameters(remove_duplicate=False) if n not in self.tied}

    def own_parameters(self) -> dict[str, torch.nn.Parameter]:
        """Those that this rank answers for."""
        return {name: p for name, p in self._all(self.module).items() if name in self.stored.own}

    # -- training --------------------------------------------------------------------------------------------------

    def _states(self, batch: Batch) -> Mapping[str, tuple[int, ...]]:
        assert isinstance(self.plan.model, Stages), "`check` refuses others"
        inputs: Mapping[str, Any] = batch.inputs
        return self.plan.model.states(inputs, 1 if self.shared is None else self.shared.size)

    def through(
        self, microbatches: Sequence[Batch], fn: SweepFn, backward: bool, *, training: bool | None = None
    ) -> list[Any]:
        """See `ParallelEngine.through`."""
        kernels.refresh(self.products)
        self.module.train(backward if training is None else training)
        scale = self.scaler.scale

        def run(module: torch.nn.Module, states: Mapping[str, torch.Tensor] | None, batch: Batch) -> Any:
            with self.casting():
                return module(states=states, **batch.inputs)

        def finish(outputs: Mapping[str, torch.Tensor], batch: Batch) -> tuple[torch.Tensor | None, Any]:
            with self.casting():
                scalar, record = fn(outputs, batch)
            return (scalar * scale if scalar is not None and scale != 1 else scalar), record

        seed = int(torch.randint(2**62, ()))
        ready = [self.prepared(batch) for batch in microbatches]
        with torch.set_grad_enabled(backward):
            return self.pipeline.run(Sweep(ready, run, finish, seed), backward)

    def _swept(self, microbatches: Sequence[Batch], totals: Mapping[str, float]) -> torch.Tensor:
        """See `TorchEngine`."""
        record = super()._swept(microbatches, totals)
        if not any(totals.values()):  # zeros that only kept the pipeline going
            self.zero_gradients()
        return record

    @property
    def recovers(self) -> bool:
        """Stages wait for each other amid a sweep."""
        return False

    def zero_gradients(self) -> None:
        """Of copies too."""
        super().zero_gradients()
        for p in self.module.parameters():
            p.grad = None

    def reduce_gradients(self) -> None:
        """Over the stages that have copies of a tied parameter, then as without them."""
        self.stored.sum_gradients(self._all(self.module))
        super().reduce_gradients()

    def gradient_norm(self) -> float:
        """See `TorchEngine.gradient_norm`."""
        square = torch.tensor(super().gradient_norm() ** 2, dtype=torch.float64, device=self.device)
        dist.all_reduce(square, group=self.pipe)
        return math.sqrt(float(square))

    def _update(self, lr: float, norm: float) -> None:
        super()._update(lr, norm)
        self.stored.send_values(self._all(self.module))

    # -- what is asked of the whole model --------------------------------------------------------------------------

    def delivered(self, tensors: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
        if self.place.data_rank:  # all pipelines have the same
            return
        mine = {name: tensor for name, tensor in tensors.items() if name in self.stored.own}
        speaks = self._first(self.region, self.shared)
        told = [(name, self.full_shape(name, tensor), tensor.dtype) for name, tensor in mine.items() if speaks]
        yield from self.stored.gathered(told, super().delivered(mine), self.device)

    def parameters(self) -> tuple[int, int]:
        """See `Engine.parameters`."""
        counts = torch.tensor(super().parameters(), device=self.device)
        dist.all_reduce(counts, group=self.pipe)
        every, trainable = counts.tolist()
        return int(every), int(trainable)

    def facts(self) -> Mapping[str, str]:
        """See `Engine.facts`."""
        assert isinstance(self.plan.model, Stages), "`check` refuses others"
        layers = stages.spans(self.plan.model.depth(self.plan.head), self.count)
        return {
            **super().facts(),
            "pipeline": f"{self.options.schedule}, layers {' + '.join(str(len(span)) for span in layers)}",
        }

    @property
    def writes(self) -> bool:
        """Of each stage one rank."""
        return self.place.data_rank == 0 and self._first(self.region, self.shared)

    def _state(self) -> state.Held:
        held = super()._state()
        return replace(held, tensors={name: tensor for name, tensor in held.tensors.items() if name in self.stored.own})

    def load(self, folder: Path) -> None:
        """See `Engine.load`."""
        super().load(folder)
        self.stored.send_values(self._all(self.module))
