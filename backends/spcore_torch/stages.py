"""The stages of a pipeline: which layers they have, what is refused, and the modules, names and values of those that lie on one rank."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist

from spcore.errors import RefusalError
from spcore.interfaces.model import Stages
from spcore.interfaces.strategy import Plan, Refusal
from spcore.tensors.materialise import LoadReport
from spcore_torch.options import ParallelOptions


def spans(depth: int, stages: int) -> list[range]:
    """Layers of each stage: as equal as can be, the first stages longer, for the last has the head."""
    size, longer = divmod(depth, stages)
    ends = [n * size + min(n, longer) for n in range(stages + 1)]
    return [range(first, end) for first, end in itertools.pairwise(ends)]


class Chunks(torch.nn.Module):  # type: ignore[misc]
    """The stages of a rank as one module; parameters have the names of the whole model's. parts: stage number -> module."""

    def __init__(self, parts: Mapping[int, torch.nn.Module]) -> None:
        super().__init__()
        self.numbers = tuple(parts)
        self.parts = torch.nn.ModuleList(parts.values())

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """As of `nn.Module`, without the stage's own place."""
        for part in self.parts:
            yield from part.named_parameters(*args, **kwargs)

    def named_buffers(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, torch.Tensor]]:
        """As `named_parameters`."""
        for part in self.parts:
            yield from part.named_buffers(*args, **kwargs)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As `named_parameters`; of a name that several stages have, the first's."""
        found: dict[str, Any] = {}
        for part in self.parts:
            found = {**part.state_dict(*args, **kwargs), **found}
        return found


def build(plan: Plan, numbers: Sequence[int], stages: int) -> dict[int, torch.nn.Module]:
    """Stage -> its module, without storage, of these of so many stages."""
    assert isinstance(plan.model, Stages), "`check` refuses others"
    layers, parts = spans(plan.model.depth(plan.head), stages), {}
    for number in numbers:
        parts[number] = plan.model.build(plan.head, plan.precision.parameter)
        plan.model.stage(parts[number], plan.head, layers[number])
    return parts


def refusals(plan: Plan, options: ParallelOptions) -> list[Refusal]:
    """What a pipeline cannot honour of a plan."""
    size, chunks, found = options.pipeline_parallel, options.chunks, []
    if options.schedule == "interleaved" and (chunks == 1 or size == 1):
        hint = "make strategy.chunks 2 or more" if size > 1 else "set strategy.pipeline_parallel, or leave it out"
        found.append(
            Refusal("strategy.schedule interleaved", "each of several processes has several stages under it", hint)
        )
    elif options.schedule != "interleaved" and chunks > 1:
        why = f"under schedule {options.schedule!r} a process has one stage"
        found.append(Refusal(f"strategy.chunks {chunks}", why, "use strategy.schedule=interleaved"))
    if size == 1:
        return found
    subject, instead = f"strategy.pipeline_parallel {size}", "use strategy=ddp or fsdp"
    if not isinstance(plan.model, Stages):
        why = f"model family {plan.model.family!r} cannot be cut into stages: its plugin has not the ability"
        return [*found, Refusal(subject, why, instead)]
    try:
        depth = plan.model.depth(plan.head)
    except RefusalError as error:
        return [*found, Refusal(subject, error.message, instead)]
    if size * chunks > depth:
        each = f" of {chunks} stages each" if chunks > 1 else ""
        most = depth // chunks
        hint = f"make it {most} or less" if most > 1 else instead
        found.append(Refusal(subject, f"that many processes{each}, and the model has {depth} layers", hint))
    return found


def report_of_all(mine: Sequence[LoadReport], group: Any) -> LoadReport:
    """What all stages together took from the model's weights. Collective over a pipeline."""
    every: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(every, [vars(report) for report in mine], group=group)
    found = [report for rank in every for report in rank]
    loaded, made = (dict.fromkeys(n for report in found for n in report[key]) for key in ("loaded", "initialised"))
    unused = set.intersection(*(set(report["unused"]) for report in found))
    return LoadReport(list(loaded), [name for name in made if name not in loaded], sorted(unused))


class Held:
    """Which rank of a pipeline has which tensors, asked once.

    own: names that this rank answers for: of a tensor that several stages have, the first of them does. copies: name -> ranks, of this
    rank's parameters that others have too (tied ones); gradients go to the first, and values come from it.
    """

    def __init__(self, parameters: Sequence[str], buffers: Sequence[str], group: Any, rank: int, size: int) -> None:
        self.group, self.rank, self.size = group, rank, size
        every: list[Any] = [None] * size
        dist.all_gather_object(every, [*parameters, *buffers], group=group)
        holders: dict[str, list[int]] = {}
        for holder, found in enumerate(every):
            for name in found:
                holders.setdefault(name, []).append(holder)
        self.own = frozenset(name for name, ranks in holders.items() if ranks[0] == rank)
        self.copies = {name: holders[name] for name in parameters if len(holders[name]) > 1}

    def _peer(self, rank: int) -> int:
        return int(dist.get_global_rank(self.group, rank))

    def sum_gradients(self, parameters: Mapping[str, torch.nn.Parameter]) -> None:
        """Add the copies' gradients to that of the rank that answers; copies have none afterwards."""
        for name, (first, *rest) in self.copies.items():
            for holder in rest:
                if self.rank == holder:
                    parameter = parameters[name]
                    mine = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                    dist.send(mine.contiguous(), self._peer(first), group=self.group)
                    parameter.grad = None
                elif self.rank == first:
                    parameter = parameters[name]
                    theirs = torch.empty_like(parameter, memory_format=torch.contiguous_format)
                    dist.recv(theirs, self._peer(holder), group=self.group)
                    parameter.grad = theirs if parameter.grad is None else parameter.grad.add_(theirs)

    def send_values(self, parameters: Mapping[str, torch.nn.Parameter]) -> None:
        """Make copies equal to what the rank that answers has."""
        for name, (first, *rest) in self.copies.items():
            for holder in rest:
                if self.rank == first:
                    dist.send(parameters[name].detach(), self._peer(holder), group=self.group)
                elif self.rank == holder:
                    dist.recv(parameters[name].detach(), self._peer(first), group=self.group)

    def gathered(
        self,
        told: Sequence[tuple[str, tuple[int, ...], torch.dtype]],
        found: Iterator[tuple[str, torch.Tensor]],
        device: torch.device,
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """What every rank found, on the pipeline's first, stage after stage. Collective over the pipeline: all drain it. told: name, shape
        and dtype of what `found` will give."""
        every: list[Any] = [None] * self.size
        dist.all_gather_object(every, list(told), group=self.group)
        for name, tensor in found:
            if self.rank == 0:
                yield name, tensor
            else:
                dist.send(tensor.contiguous(), self._peer(0), group=self.group)
        for holder in range(1, self.size) if self.rank == 0 else ():
            for name, shape, dtype in every[holder]:
                tensor = torch.empty(shape, dtype=dtype, device=device)
                dist.recv(tensor, self._peer(holder), group=self.group)
                yield name, tensor
