"""The stages of a pipeline that lie on one rank: which layers they have, their modules, their names and values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist

from spcore.interfaces.model import Stages
from spcore.interfaces.strategy import Plan


def spans(depth: int, stages: int) -> list[range]:
    """Layers of each stage: as equal as can be, the first stages longer, for the last has the head."""
    size, longer = divmod(depth, stages)
    ends = [n * size + min(n, longer) for n in range(stages + 1)]
    return [range(first, end) for first, end in zip(ends, ends[1:], strict=False)]


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


def build(plan: Plan, numbers: Sequence[int], stages: int) -> Chunks:
    """The modules of these stages, of so many, without values."""
    assert isinstance(plan.model, Stages), "`check` refuses others"
    layers, parts = spans(plan.model.depth(plan.head), stages), {}
    for number in numbers:
        parts[number] = plan.model.build(plan.head, plan.precision.parameter)
        plan.model.stage(parts[number], plan.head, layers[number])
    return Chunks(parts)


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
        return dist.get_global_rank(self.group, rank)

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
        self, tensors: Mapping[str, torch.Tensor], device: torch.device, change: Callable[[torch.Tensor], torch.Tensor]
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """(name, CPU tensor) of every rank's tensors, on the pipeline's first rank; each once, stage after stage. Collective over the
        pipeline: all drain it. change: what is done to a tensor before it is sent."""
        mine = {name: change(tensor.detach()).contiguous() for name, tensor in tensors.items() if self.answers(name)}
        shapes: list[Any] = [None] * self.size
        told = {name: (tensor.shape, tensor.dtype) for name, tensor in mine.items()}
        dist.all_gather_object(shapes, told, group=self.group)
        if self.rank == 0:
            yield from ((name, tensor.cpu()) for name, tensor in mine.items())
        for holder in range(1, self.size):
            for name, (shape, dtype) in shapes[holder].items():
                if self.rank == holder:
                    dist.send(mine[name], self._peer(0), group=self.group)
                elif self.rank == 0:
                    tensor = torch.empty(shape, dtype=dtype, device=device)
                    dist.recv(tensor, self._peer(holder), group=self.group)
                    yield name, tensor.cpu()

    def answers(self, name: str) -> bool:
        """Whether this rank speaks for a tensor."""
        return name in self.own
