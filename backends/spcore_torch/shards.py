"""What tensor-parallel layers say to each other: collectives with their gradients, and the random draws of either side.

Between the layers every rank of the axis "tensor" holds the same activations, or, under sequence parallelism, its part of the positions
(axis 1). Inside a region that is cut, each holds its own heads or columns. What enters a region, and what leaves it, is summed over the
ranks in one direction of the pass (Shoeybi et al., 2019; for positions Korthikanti et al., 2022).
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist


def summed(x: torch.Tensor, group: Any) -> torch.Tensor:
    """The sum over ranks, in memory of its own."""
    total = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total, group=group)
    return total


def joined(x: torch.Tensor, group: Any, axis: int, size: int) -> torch.Tensor:
    """All ranks' pieces of an axis of `size`, dealt as torch.chunk does, side by side."""
    ranks = dist.get_world_size(group)
    each = -(-size // ranks)
    own = x.movedim(axis, 0)
    if len(own) < each:
        own = torch.cat([own, own.new_zeros(each - len(own), *own.shape[1:])])
    every = own.new_empty(ranks * each, *own.shape[1:])
    dist.all_gather_single(every, own.contiguous(), group=group)
    return every[:size].movedim(0, axis)


def own(x: torch.Tensor, group: Any, axis: int) -> torch.Tensor:
    """This rank's piece of an axis."""
    ranks, rank, size = dist.get_world_size(group), dist.get_rank(group), x.shape[axis]
    each = -(-size // ranks)
    first = min(rank * each, size)
    return x.narrow(axis, first, min(each, size - first))


def scattered(x: torch.Tensor, group: Any, axis: int) -> torch.Tensor:
    """This rank's piece of the sum over ranks."""
    ranks, rank, size = dist.get_world_size(group), dist.get_rank(group), x.shape[axis]
    each = -(-size // ranks)
    whole = x.movedim(axis, 0)
    if size < ranks * each:
        whole = torch.cat([whole, whole.new_zeros(ranks * each - size, *whole.shape[1:])])
    piece = whole.new_empty(each, *whole.shape[1:])
    dist.reduce_scatter_single(piece, whole.contiguous(), group=group)
    return piece[: max(0, min(each, size - rank * each))].movedim(0, axis)


class Enter(torch.autograd.Function):  # type: ignore[misc]
    """A replicated tensor into a region: every rank's columns have a part of its gradient."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: Any) -> torch.Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        return summed(grads[0], ctx.group), None


class Leave(torch.autograd.Function):  # type: ignore[misc]
    """Partial sums out of a region, summed: what follows is computed alike on all ranks."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: Any) -> torch.Tensor:
        return summed(x, group)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        return grads[0], None


class Split(torch.autograd.Function):  # type: ignore[misc]
    """A replicated tensor to each rank's piece of it."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: Any, axis: int) -> torch.Tensor:
        ctx.rest = (group, axis, x.shape[axis])
        return own(x, group, axis).contiguous()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        group, axis, size = ctx.rest
        return joined(grads[0], group, axis, size), None, None


class Join(torch.autograd.Function):  # type: ignore[misc]
    """Pieces to a replicated tensor: what follows is computed alike on all ranks."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: Any, axis: int, size: int) -> torch.Tensor:
        ctx.rest = (group, axis)
        return joined(x, group, axis, size)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        group, axis = ctx.rest
        return own(grads[0], group, axis).contiguous(), None, None, None


class Gather(Join):
    """Each rank's positions into a region: all positions, whose gradient is a part of theirs on every rank."""

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        group, axis = ctx.rest
        return scattered(grads[0], group, axis), None, None, None


class Scatter(torch.autograd.Function):  # type: ignore[misc]
    """Partial sums of all positions out of a region: each rank's positions, summed."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: Any, axis: int) -> torch.Tensor:
        ctx.rest = (group, axis, x.shape[axis])
        return scattered(x, group, axis)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        group, axis, size = ctx.rest
        return joined(grads[0], group, axis, size), None, None


class Draws:
    """Random draws of ranks that hold the same activations. Outside of regions all draw the same; inside, each its own, from a seed that
    the common generator gives: so what is replayed from the generator's state is replayed whole."""

    def __init__(self, rank: int, device: torch.device) -> None:
        self.rank, self.device, self.on = rank, device, False
        self._common: tuple[torch.Tensor, torch.Tensor | None] | None = None

    def apart(self) -> None:
        """From here on each rank for itself; does nothing where that is so."""
        if not self.on or self._common is not None:
            return
        seed = int(torch.randint(2**62, ()))
        cuda = torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None
        self._common = torch.get_rng_state(), cuda
        torch.default_generator.manual_seed(seed + self.rank)
        if cuda is not None:
            torch.cuda.manual_seed(seed + self.rank)

    def together(self) -> None:
        """All alike again."""
        if self._common is not None:
            cpu, cuda = self._common
            self._common = None
            torch.set_rng_state(cpu)
            if cuda is not None:
                torch.cuda.set_rng_state(cuda, self.device)

    def again(self) -> contextlib.AbstractContextManager[None]:
        """See `spcore_torch.recomputing.Again`. A pass that ends early leaves nothing behind."""
        then = self._common

        @contextlib.contextmanager
        def as_then() -> Iterator[None]:
            now, self._common = self._common, then
            try:
                yield
            finally:
                self._common = now

        return as_then()


class Region:
    """The cut layers of one module, as one rank of the group `group` sees them. positions: all that a forward pass has, where ranks hold
    their parts between the layers; None where they hold all of them. generates: text is made, token by token: positions stay together, and
    every rank is given all logits."""

    def __init__(self, group: Any, device: torch.device, *, sequence: bool) -> None:
        self.group, self.sequence = group, sequence
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        self.draws = Draws(self.rank, device)
        self.positions: int | None = None
        self.generates = False
        self._entered: dict[int, tuple[weakref.ref[torch.Tensor], weakref.ref[torch.Tensor]]] = {}

    def enter(self, x: torch.Tensor, *, whole: bool = False) -> torch.Tensor:
        """What a cut layer is fed for `x`. Layers that read one tensor (query, key and value) read one result: one message. whole: all
        ranks hold all of its positions in any case (an encoder's, read by a decoder's layers)."""
        known = self._entered.get(id(x))
        if known is not None and known[0]() is x and (found := known[1]()) is not None:
            return found
        if self.positions is None or whole:
            entered: torch.Tensor = Enter.apply(x, self.group)
        else:
            entered = Gather.apply(x, self.group, 1, self.positions)
        self._entered = {n: pair for n, pair in self._entered.items() if pair[0]() is not None}
        self._entered[id(x)] = weakref.ref(x), weakref.ref(entered)
        self._entered[id(entered)] = weakref.ref(entered), weakref.ref(entered)
        return entered

    def apart(self) -> None:
        """What is drawn from here to `leave` is drawn on cut activations."""
        if self.positions is None:  # else all between the layers is cut
            self.draws.apart()

    def leave(self, x: torch.Tensor) -> torch.Tensor:
        """The sum of the ranks' products."""
        if self.positions is None:
            self.draws.together()
            left: torch.Tensor = Leave.apply(x, self.group)
        else:
            left = Scatter.apply(x, self.group, 1)
        return left

    def divide(self, hidden: torch.Tensor) -> torch.Tensor:
        """Before the first layer: this rank's positions."""
        if self.generates:
            return hidden
        self.positions = hidden.shape[1]
        self.draws.apart()
        divided: torch.Tensor = Split.apply(hidden, self.group, 1)
        return divided

    def unite(self, hidden: torch.Tensor) -> torch.Tensor:
        """After the last layer: all positions."""
        if self.positions is None:
            return hidden
        united: torch.Tensor = Join.apply(hidden, self.group, 1, self.positions)
        self.positions = None
        self.draws.together()
        return united

    def again(self) -> contextlib.AbstractContextManager[None]:
        """See `Draws.again`: of the draws and of the positions."""
        then, draws = self.positions, self.draws.again()

        @contextlib.contextmanager
        def as_then() -> Iterator[None]:
            now, self.positions = self.positions, then
            try:
                with draws:
                    yield
            finally:
                self.positions = now

        return as_then()

    @contextlib.contextmanager
    def generating(self) -> Iterator[None]:
        """While text is made; nothing is dropped."""
        self.generates, self.draws.on = True, False
        try:
            yield
        finally:
            self.generates = False
