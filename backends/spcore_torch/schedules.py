"""A sweep over microbatches through the stages of a pipeline, by torch's schedules.

Their public `step` cuts whole tensors into microbatches; ours have inputs and targets of many shapes, and every rank of a pipeline has
them. So what is cut is a range of numbers, by which each stage finds its microbatch; only what passes between layers is sent.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe, ScheduleInterleaved1F1B

from spcore.interfaces.task import Batch
from spcore.tensors import rng
from spcore_torch.stages import Chunks

Name = Literal["gpipe", "1f1b", "interleaved"]
Run = Callable[[torch.nn.Module, Mapping[str, torch.Tensor] | None, Batch], Mapping[str, torch.Tensor]]
Finish = Callable[[Mapping[str, torch.Tensor], Batch], tuple[torch.Tensor | None, Any]]
States = Callable[[Batch], Mapping[str, tuple[int, ...]]]
KEPT = 4
"""Schedules that are kept: each has a buffer for every microbatch's states."""


class Sweep:
    """What runs through the pipeline now. finish: see `TorchEngine.sweep`, with the loss scale applied; run: a stage's module, called in
    the engine's ways. seed: of its random draws, which do not depend on the order in which stages and microbatches come."""

    def __init__(self, batches: Sequence[Batch], run: Run, finish: Finish, seed: int) -> None:
        self.batches, self.run, self.finish, self.seed = batches, run, finish, seed
        self.records: dict[int, Any] = {}
        self.failed: Exception | None = None


class _Stage(torch.nn.Module):  # type: ignore[misc]
    """One stage as torch calls it: forward(states..., index=) -> states, or the scalar."""

    def __init__(self, pipeline: Pipeline, number: int, module: torch.nn.Module) -> None:
        super().__init__()
        self.pipeline, self.number, self.module = [pipeline], number, module

    def forward(self, *given: torch.Tensor, index: torch.Tensor) -> Any:
        """index: int64 [1]. The first stage is given it for states."""
        pipeline = self.pipeline[0]
        sweep = pipeline.sweep
        assert sweep is not None, "schedules run inside a sweep"
        try:
            return self._one(pipeline, sweep, given, int(index))
        except Exception as error:  # torch tells of it in its own words
            sweep.failed = error
            raise

    def _one(self, pipeline: Pipeline, sweep: Sweep, given: tuple[torch.Tensor, ...], n: int) -> Any:
        batch = sweep.batches[n]
        names = pipeline.states(batch)
        states = None if self.number == 0 else dict(zip(names, given, strict=True))
        with rng.drawing(rng.address(sweep.seed, self.number, n), pipeline.device):
            found = sweep.run(self.module, states, batch)
            if self.number < pipeline.count - 1:
                return tuple(found[name].to(pipeline.dtype).contiguous() for name in names)
            scalar, sweep.records[n] = sweep.finish(found, batch)
        # A scalar that depends on nothing, for there is nothing to learn, still ends the pipeline.
        end = given[0].flatten()[:0].sum() if self.number else torch.zeros((), device=pipeline.device)
        return end if scalar is None else scalar + end


class Pipeline:
    """The stages of a rank, of `count` in all, over the ranks of `group`. states: name -> shape of what passes between stages for a
    prepared batch, dtype: theirs."""

    def __init__(
        self,
        chunks: Chunks,
        states: States,
        schedule: Name,
        count: int,
        group: Any,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.states, self.schedule, self.count, self.group = states, schedule, count, group
        self.device, self.dtype, self.size = device, dtype, torch.distributed.get_world_size(group)
        self.stages = {
            number: _Stage(self, number, part) for number, part in zip(chunks.numbers, chunks.parts, strict=True)
        }
        self.sweep: Sweep | None = None
        self._ready: OrderedDict[Any, Any] = OrderedDict()

    def run(self, sweep: Sweep, backward: bool) -> list[Any]:
        """Carry out a sweep; its records, on the last stage's rank, else nothing. Microbatches of one shape go together."""
        self.sweep = sweep
        shapes = [tuple(self.states(batch).values()) for batch in sweep.batches]
        try:
            for shape in dict.fromkeys(shapes):
                numbers = [n for n, found in enumerate(shapes) if found == shape]
                for part in self._parts(numbers):
                    self._step(part, shape, backward)
        except RuntimeError as error:
            if sweep.failed is not None:
                raise sweep.failed from error
            raise
        finally:
            self.sweep = None
        return [sweep.records[n] for n in range(len(shapes))] if self.count - 1 in self.stages else []

    def _parts(self, numbers: list[int]) -> list[list[int]]:
        """Interleaved, microbatches come in rounds of as many as there are ranks; what is over is a round of its own."""
        whole = len(numbers) // self.size * self.size
        if self.schedule != "interleaved" or whole in (0, len(numbers)):
            return [numbers]
        return [numbers[:whole], numbers[whole:]]

    def _step(self, numbers: list[int], shape: tuple[tuple[int, ...], ...], backward: bool) -> None:
        schedule = self._scheduled(len(numbers), shape, backward)
        index = torch.tensor(numbers)
        given: dict[str, Any] = {"index": index}
        if self.count - 1 in self.stages:
            given["target"] = index
        go = schedule.step if backward else schedule.eval
        go(*([index] if 0 in self.stages else []), return_outputs=False, **given)

    def _scheduled(self, count: int, shape: tuple[tuple[int, ...], ...], backward: bool) -> Any:
        """A schedule for so many microbatches with states of such shapes, made once while it is in use."""
        key = (count, shape, backward)
        if key not in self._ready:
            while len(self._ready) >= KEPT:
                self._ready.popitem(last=False)
            self._ready[key] = self._made(count, shape)
        self._ready.move_to_end(key)
        return self._ready[key]

    def _made(self, count: int, shape: tuple[tuple[int, ...], ...]) -> Any:
        # All shapes are given, or torch would run each stage once more to find out.
        index = torch.empty(1, dtype=torch.int64, device="meta")
        states = tuple(torch.empty(s, dtype=self.dtype, device="meta", requires_grad=True) for s in shape)
        scalar = torch.empty((), device="meta", requires_grad=True)
        stages = [
            PipelineStage(
                stage, number, self.count, self.device, input_args=states if number else index,
                output_args=states if number < self.count - 1 else scalar, group=self.group,
            )
            for number, stage in self.stages.items()
        ]  # fmt: skip
        settings: Any = {"loss_fn": lambda scalar, index: scalar, "scale_grads": False}
        if self.schedule == "interleaved":
            return ScheduleInterleaved1F1B(stages, count, **settings)
        # Fewer microbatches than stages cannot alternate; then the two do the same.
        kind = Schedule1F1B if self.schedule == "1f1b" and count >= self.count else ScheduleGPipe
        return kind(stages[0], count, **settings)
