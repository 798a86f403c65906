"""Megatron's training state in the one format of all engines on torch (`spcore.tensors.state`): by Hugging Face name, each tensor whole or
this rank's block of it. So a run goes on at any other layout, and under another strategy, and `convert` reads it like any other.

megatron.core.dist_checkpointing is not what writes: its folders are read by unpickling their metadata, which no folder of ours asks for, and
by Megatron's names, which fit Megatron alone. As there, ranks that hold the same share the work: of a data-parallel group each rank writes
every so manyth tensor, and what the distributed optimizer has spread over the group is put together for it, one tensor at a time.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state as ps
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer

from spcore.interfaces.strategy import Pending
from spcore.tensors import state
from spcore.tensors.pieces import Piece
from spcore.tensors.rng import State
from spcore.tensors.stepping import Scaler
from spcore_megatron.weights import Part, Weights

PARAMETER, STEP = "parameter", "step"
Values = dict[str, torch.Tensor]
"""Of a parameter, each of its shape: itself, in float32, and its moments by the optimizer's names; and `step`, of no axis."""


@dataclass(frozen=True)
class Entries:
    """Where this rank's entries of a source lie. shape: of the whole source. axis: of it that is cut. runs: along it, (first, last + 1) in
    this rank's piece and where that begins in the whole. expert: the first of this rank's, None where the source is of none."""

    shape: tuple[int, ...]
    axis: int
    runs: tuple[tuple[int, int, int], ...]
    expert: int | None

    def located(self, local: torch.Tensor, rank: int) -> list[tuple[torch.Tensor, tuple[int, ...]]]:
        """See `spcore.tensors.pieces.Located`."""
        if not self.shape:
            return [(local, ())]
        begins = [0] * len(self.shape)
        begins[0] = self.expert or 0
        return [
            (local.narrow(self.axis, first, end - first), (*begins[: self.axis], at, *begins[self.axis + 1 :]))
            for first, end, at in self.runs or ((0, 0, self.shape[self.axis]),)
        ]


@dataclass(frozen=True)
class Unit:
    """A source with what this rank holds of it. parts: one, or one for each expert; mine: of each, the places of its entries in the source
    and in the parameter, None where it is whole. number: the same for sources of one parameter. entries: where they lie."""

    name: str
    number: int
    parts: Sequence[Part]
    mine: Sequence[tuple[torch.Tensor, torch.Tensor] | None]
    entries: Entries

    @classmethod
    def of(cls, weights: Weights, name: str, number: int, parts: Sequence[Part], shape: tuple[int, ...]) -> Unit:
        """shape: of the whole source, with an axis in front for experts where it is theirs."""
        part, mine = parts[0], [_mine(weights, part) for part in parts]
        lead, own = len(shape) - len(part.shape), mine[0]
        axis = 0 if part.axis is None else 1 - part.axis if part.turned else part.axis
        runs = ((0, part.shape[0], 0),) if own is None else tuple(_runs(own[0]))
        return cls(name, number, parts, mine, Entries(shape, axis + lead, runs, part.expert))

    def taken(self, n: int, whole: torch.Tensor) -> torch.Tensor:
        """This rank's entries of the source, of the n-th part, from something of its parameter's shape."""
        part, own = self.parts[n], self.mine[n]
        if own is not None:
            assert part.axis is not None, "what is cut has an axis"
            whole = whole.index_select(part.axis, own[1].to(whole.device))
        return whole.t().contiguous() if part.turned else whole.contiguous()

    def put(self, n: int, whole: torch.Tensor, block: torch.Tensor) -> None:
        """The other way round: into something of the parameter's shape."""
        part, own = self.parts[n], self.mine[n]
        block = block.t() if part.turned else block
        if own is None:
            whole.copy_(block)
        else:
            whole.index_copy_(part.axis, own[1].to(whole.device), block.to(whole.dtype))


def _runs(sources: torch.Tensor) -> Iterator[tuple[int, int, int]]:
    """Entries that follow each other in the source, which are in order."""
    places = sources.tolist()
    borders = [0, *(n for n in range(1, len(places)) if places[n] != places[n - 1] + 1), len(places)]
    for first, end in itertools.pairwise(borders):
        if first < end:
            yield first, end, places[first]


def units(weights: Weights, shapes: Mapping[str, tuple[int, ...]]) -> list[Unit]:
    """All sources of which this rank holds something."""
    found, number, last = [], -1, None
    for name, parts in weights.parts.items():
        if name not in shapes:
            continue
        assert len(parts) == 1 or parts[0].expert is not None, f"{name} makes up two parameters of one rank"
        if parts[0].parameter is not last:  # the sources of one parameter follow each other
            number, last = number + 1, parts[0].parameter
        found.append(Unit.of(weights, name, number, parts, shapes[name]))
    return found


def _mine(weights: Weights, part: Part) -> tuple[torch.Tensor, torch.Tensor] | None:
    if part.axis is None:
        return None
    size = part.parameter.shape[part.axis]
    first = weights.rank_of(part) * size
    sources = ((part.at >= first) & (part.at < first + size)).nonzero().squeeze(1)
    return sources, part.at[sources] - first


class Keeper:
    """What is kept of an engine: read and written. optimizer: Megatron's, None where nothing is trained. own: sources that no earlier stage
    has, which this one writes."""

    def __init__(
        self, weights: Weights, shapes: Mapping[str, tuple[int, ...]], optimizer: Any, device: torch.device
    ) -> None:
        self.weights, self.shapes, self.optimizer, self.device = weights, shapes, optimizer, device
        self.units = units(weights, shapes)
        self.beside = {name: tensor for name, tensor in weights.beside.items() if name in shapes}
        self.own = self._of_no_earlier_stage()
        self.moments: list[str] = []
        self.step = 0.0

    def _of_no_earlier_stage(self) -> set[str]:
        names = [*(unit.name for unit in self.units), *self.beside]
        every: list[Any] = [None] * ps.get_pipeline_model_parallel_world_size()
        dist.all_gather_object(every, names, group=ps.get_pipeline_model_parallel_group())
        earlier = {name for stage in every[: ps.get_pipeline_model_parallel_rank()] for name in stage}
        return set(names) - earlier

    # -- writing ---------------------------------------------------------------------------------------------------

    def save(self, file: Path, random: State | None, staging: state.Staging) -> Pending:
        """Write this rank's share. random: its generators, None where another rank writes them. Collective."""
        self.moments, self.step = self._agreed()
        tensors: Values = {}
        states: dict[torch.Tensor, Values] = {}
        shards: Values = {}
        known: tuple[int, Values] = -1, {}
        for unit in self.units:
            if unit.entries.expert is None and known[0] != unit.number:
                known = unit.number, self._whole(unit.parts[0].parameter)
            found = [known[1]] if unit.entries.expert is None else [self._whole(p.parameter) for p in unit.parts]
            if not self._writes(unit):
                continue
            blocks = {key: self._joined(unit, [values[key] for values in found]) for key in found[0] if key != STEP}
            own = shards[unit.name] = blocks.pop(PARAMETER)
            tensors[unit.name] = Piece.of(own, unit.entries, 0, speaks=True)
            states[own] = blocks | ({STEP: found[0][STEP]} if STEP in found[0] else {})
        for n, (name, tensor) in enumerate(self.beside.items()):
            found_one = self._whole(tensor)
            if name in self.own and self._shares(n, experts=False) and ps.get_tensor_model_parallel_rank() == 0:
                own = shards[name] = found_one.pop(PARAMETER)
                tensors[name] = Piece.of(own, _all(tensor), 0, speaks=True)
                states[own] = found_one
        return state.save(file, state.Held(tensors, shards, _Kept(states), self._scaler(), random or {}), staging)

    def _joined(self, unit: Unit, values: Sequence[torch.Tensor]) -> torch.Tensor:
        taken = [unit.taken(n, value) for n, value in enumerate(values)]
        return taken[0] if unit.entries.expert is None else torch.stack(taken)

    def _writes(self, unit: Unit) -> bool:
        """Of ranks that hold the same, one."""
        part = unit.parts[0]
        whole = part.axis is None and self.weights.rank_of(part) > 0
        return unit.name in self.own and not whole and self._shares(unit.number, experts=part.rule.experts)

    def _shares(self, number: int, *, experts: bool) -> bool:
        group = _data_group(experts)
        return int(group.rank()) == number % int(group.size())

    def _whole(self, parameter: torch.Tensor) -> Values:
        """A parameter's values, put together of its data-parallel group's where each rank has a part. Collective then."""
        place = self._place(parameter)
        if place is None:
            return {PARAMETER: parameter.detach()}
        found: Values = {}
        moments = place.state
        if not place.spread:
            assert place.main is not None, "what is not spread is whole on each rank"
            found = {key: moments[key] for key in self.moments if key in moments}
            found[PARAMETER] = place.main.detach()
        else:
            for key in [PARAMETER, *self.moments]:
                whole = torch.zeros(parameter.shape, dtype=torch.float32, device=self.device)
                if place.main is not None:
                    mine = place.main.detach() if key == PARAMETER else moments[key]
                    whole.view(-1)[place.span].copy_(mine)
                dist.all_reduce(whole, group=_data_group(not getattr(parameter, "allreduce", True)))
                found[key] = whole
        if len(found) > 1:
            found[STEP] = torch.tensor(self.step)
        return found

    def _agreed(self) -> tuple[list[str], float]:
        """Names of the optimizer's moments, and updates so far: of any rank, as one may have no parameter."""
        states: list[tuple[Mapping[str, Any], Mapping[str, Any]]] = []
        for one in self.optimizer.chained_optimizers if self.optimizer is not None else ():
            inner: Any = getattr(one, "optimizer", None)
            groups = inner.param_groups if inner is not None else ()
            states += [(inner.state[p], group) for group in groups for p in group["params"] if inner.state.get(p)]
        names = {k for state, _ in states for k, v in state.items() if torch.is_tensor(v) and k != STEP}
        # Fused optimizers count in the group.
        step = max((float(state.get(STEP, group.get(STEP, 0))) for state, group in states), default=0.0)
        every: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(every, (names, step))
        return sorted(set().union(*(names for names, _ in every))), max(step for _, step in every)

    def _place(self, parameter: torch.Tensor) -> Place | None:
        """Where the optimizer has a parameter; None where it is not trained."""
        for one in self.optimizer.chained_optimizers if self.optimizer is not None else ():
            if (found := Place.of(one, parameter)) is not None:
                return found
        return None

    def _scaler(self) -> Scaler:
        own = self._grad_scalers()
        if not own:
            return Scaler()
        return Scaler(None, float(own[0].scale), int(getattr(own[0], "_growth_tracker", 0)))

    def _grad_scalers(self) -> list[Any]:
        every = self.optimizer.chained_optimizers if self.optimizer is not None else ()
        return [s for one in every if (s := getattr(one, "grad_scaler", None)) is not None]

    # -- reading ---------------------------------------------------------------------------------------------------

    def load(self, folder: Path, file: Path, random: State) -> None:
        """Read what ranks of any layout wrote, in the CPU's memory: 24 bytes for each of this rank's parameters, which an optimizer that is
        spread does not make fewer. file: whose generators are this rank's, where it is there. Raises CheckpointError."""
        shards, tensors = {}, {}
        for unit in self.units:
            own = self._joined(unit, [torch.zeros(p.parameter.shape) for p in unit.parts])
            shards[unit.name], tensors[unit.name] = own, Piece.of(own, unit.entries, 0, speaks=False)
        for name, tensor in self.beside.items():
            own = torch.zeros(tensor.shape, dtype=torch.float32 if tensor.is_floating_point() else tensor.dtype)
            shards[name], tensors[name] = own, Piece.of(own, _all(tensor), 0, speaks=False)
        scaler, kept = Scaler(), _Kept({})
        state.load(
            folder, file, state.Held(tensors, shards, kept if self.optimizer is not None else None, scaler, random)
        )
        with torch.no_grad():
            for parameter, values in self._collected(shards, kept.state):
                self._put(parameter, values)
        for one in self._grad_scalers():
            one._scale.fill_(scaler.scale)
            if hasattr(one, "_growth_tracker"):
                one._growth_tracker = scaler.good

    def _collected(
        self, shards: Mapping[str, torch.Tensor], states: Mapping[torch.Tensor, Values]
    ) -> Iterator[tuple[torch.Tensor, Values]]:
        """(parameter, its values), of all the sources that it is made of."""
        found: dict[int, tuple[torch.Tensor, Values]] = {}
        for unit in self.units:
            own = shards[unit.name]
            given = {PARAMETER: own, **states.get(own, {})}
            for n, part in enumerate(unit.parts):
                _, values = found.setdefault(id(part.parameter), (part.parameter, {}))
                for key, value in given.items():
                    if value.dim() == 0:
                        values[key] = value
                        continue
                    if key not in values:
                        values[key] = torch.zeros(part.parameter.shape)
                    unit.put(n, values[key], value if unit.entries.expert is None else value[n])
        yield from found.values()
        for name, tensor in self.beside.items():
            yield tensor, {PARAMETER: shards[name], **states.get(shards[name], {})}

    def _put(self, parameter: torch.Tensor, values: Values) -> None:
        """Into the parameter, its float32 original and the optimizer's state."""
        parameter.data.copy_(values[PARAMETER])
        place = self._place(parameter)
        if place is None or place.main is None:
            return
        if place.main is not parameter:
            place.main.data.copy_(values[PARAMETER].view(-1)[place.span].view(place.main.shape))
        place.set({key: value for key, value in values.items() if key != PARAMETER})


class _Kept(SimpleNamespace):
    """What `spcore.tensors.state` asks of an optimizer: its state by parameter."""

    def __init__(self, states: dict[torch.Tensor, Values]) -> None:
        super().__init__(state=states)


def _all(tensor: torch.Tensor) -> Entries:
    """Of a tensor that is whole on a rank."""
    shape = tuple(tensor.shape)
    return Entries(shape, 0, ((0, shape[0], 0),) if shape else (), None)


def _data_group(experts: bool) -> Any:
    return ps.get_expert_data_parallel_group() if experts else ps.get_data_parallel_group(with_context_parallel=True)


@dataclass(frozen=True)
class Place:
    """Where an optimizer of Megatron's has a parameter. main: what it updates, of which `span` is this rank's share where it is spread;
    None: this rank has nothing of it. torch: the optimizer of torch's kind below."""

    torch: Any
    group: dict[str, Any]
    main: torch.Tensor | None
    span: slice
    spread: bool

    @classmethod
    def of(cls, optimizer: Any, parameter: torch.Tensor) -> Place | None:
        """None where this optimizer does not have it."""
        inner = getattr(optimizer, "optimizer", None)
        if inner is None:
            return None
        if isinstance(optimizer, DistributedOptimizer):
            if not any(parameter in buffer.param_index_map for buffer in optimizer.buffers):
                return None
            if parameter not in optimizer.model_param_group_index_map:
                return cls(inner, inner.param_groups[0], None, slice(0, 0), True)
            group, order = optimizer.model_param_group_index_map[parameter]
            span = optimizer._get_model_param_range_map(parameter)["param"]
            main = inner.param_groups[group]["params"][order]
            return cls(inner, inner.param_groups[group], main, slice(span.start, span.end), True)
        main = getattr(parameter, "main_param", None)
        main = parameter if main is None else main
        group_of = next((g for g in inner.param_groups if any(p is main for p in g["params"])), None)
        return None if group_of is None else cls(inner, group_of, main, slice(None), False)

    @property
    def state(self) -> dict[str, Any]:
        """Of what it updates."""
        return self.torch.state.get(self.main, {}) if self.main is not None else {}

    def set(self, values: Values) -> None:
        """Replace its state."""
        assert self.main is not None, "the caller looked"
        own = {k: v.reshape(-1)[self.span].view(self.main.shape) for k, v in values.items() if k != STEP}
        moments = {k: v.to(self.main.device, copy=True) for k, v in own.items()}
        if STEP in values:
            if STEP in self.group or not type(self.torch).__module__.startswith("torch."):
                self.group[STEP] = int(values[STEP])
            else:
                on_device = self.group.get("fused") or self.group.get("capturable")
                moments[STEP] = values[STEP].clone().to(self.main.device if on_device else "cpu")
        self.torch.state[self.main] = moments
