"""Strategy `ddp`: every process holds the whole model and works on its part of each step; gradients are summed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch.distributed as dist

from spcore.interfaces.strategy import Engine, Layout, ParallelStrategy, Place, Plan, Refusal
from spcore.tensors.groups import device_of, group_of
from spcore_torch.options import SingleOptions
from spcore_torch.reducer import Reducer
from spcore_torch.single import SingleEngine, refusals


class DataParallel(ParallelStrategy):
    """Any number of processes, one axis."""

    decodes = True

    def __init__(self, options: SingleOptions) -> None:
        self.options = options

    def layout(self, world_size: int) -> Layout:
        """All processes along the data axis."""
        return Layout({"data": world_size})

    def options_for(self, axes: Mapping[str, int]) -> Mapping[str, Any] | None:
        """See `ParallelStrategy.options_for`."""
        return {} if axes.keys() == {"dp"} else None

    def check(self, plan: Plan) -> list[Refusal]:
        """See `ParallelStrategy.check`."""
        found = refusals(plan, self.options)
        size = plan.layout.world_size
        if plan.device not in ("auto", "cpu", "cuda"):
            found.append(Refusal(f"device {plan.device!r}", "each process has a device of its own", "use device=cuda"))
        if plan.global_batch_size < size:
            why = f"{size} processes share a step, some would have nothing to do"
            hint = f"make it {size} or more, or start fewer processes"
            found.append(Refusal(f"train.global_batch_size {plan.global_batch_size}", why, hint))
        return found

    def engine(self, plan: Plan, place: Place) -> Engine:
        """See `ParallelStrategy.engine`."""
        return DataParallelEngine(plan, place, self.options)


class DataParallelEngine(SingleEngine):
    """The engine of `ddp`. Every rank loads the same weights from disk and updates them alike, so none are sent."""

    def __init__(self, plan: Plan, place: Place, options: SingleOptions) -> None:
        device = device_of(plan, place)
        self._held = contextlib.ExitStack()
        group = None
        if place.world_size > 1:  # a process that is alone needs none
            self._held.enter_context(group_of(place, device))
            group = self._groups(plan, place, device)
        super().__init__(plan, place, options, device=device, data_group=group)
        self.reducer = Reducer(self.own.values(), group) if group is not None else None

    def _groups(self, plan: Plan, place: Place, device: str) -> Any:
        """Of several processes: the group of those that share a step's rows, None where one has all of them."""
        return dist.group.WORLD

    @contextlib.contextmanager
    def synchronising(self, last: bool) -> Iterator[None]:
        """See `TorchEngine.synchronising`."""
        if self.reducer is not None:
            self.reducer.arm(last)
        yield

    def reduce_gradients(self) -> None:
        """See `TorchEngine.reduce_gradients`."""
        if self.reducer is not None:
            self.reducer.finish()

    def close(self) -> None:
        """See `Engine.close`."""
        if self.reducer is not None:
            self.reducer.close()
        super().close()
        self._held.close()
