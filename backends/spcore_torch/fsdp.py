"""Strategy `fsdp`: every process holds a part of each parameter, of its gradient and of its optimizer state, and works on its part of each
step; a layer's parameters are gathered when they are needed. By torch's `fully_shard` (Zhao et al., 2023, arXiv 2304.11277).

The optimizer is given this rank's parts as plain tensors: an elementwise update of a part is the part of the update.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor

from spcore.interfaces.model import Anatomy
from spcore.interfaces.runtime import Decodes
from spcore.interfaces.strategy import Engine, Place, Plan, Refusal
from spcore.interfaces.task import Batch
from spcore.tensors import dropout, sharding
from spcore.tensors.engine import Outputs, SweepFn
from spcore.tensors.groups import device_of, group_of
from spcore.tensors.materialise import materialise, named_tensors, tie
from spcore_torch import kernels
from spcore_torch.ddp import DataParallel
from spcore_torch.options import ShardedOptions
from spcore_torch.recomputing import stacks
from spcore_torch.single import SingleEngine, autocast, resolve_device


class FullySharded(DataParallel):
    """Any number of processes, one axis; inside it groups that each hold a copy, where `shard_size` says so."""

    options: ShardedOptions

    def __init__(self, options: ShardedOptions) -> None:
        super().__init__(options)

    def options_for(self, axes: Mapping[str, int]) -> Mapping[str, Any] | None:
        """See `ParallelStrategy.options_for`: "dp" counts copies, "fsdp" the processes of each."""
        if "fsdp" not in axes or not axes.keys() <= {"dp", "fsdp"}:
            return None
        return {"shard_size": axes["fsdp"] if "dp" in axes else None}

    def check(self, plan: Plan) -> list[Refusal]:
        """See `ParallelStrategy.check`."""
        found = super().check(plan)
        size, world = self.options.shard_size, plan.layout.world_size
        if size is not None and world % size:
            sizes = ", ".join(str(n) for n in range(2, world + 1) if world % n == 0)
            hint = f"use one of {sizes}, or leave it out" if sizes else "leave it out"
            found.append(
                Refusal(f"strategy.shard_size {size}", f"does not divide {world} process{'es' * (world > 1)}", hint)
            )
        if self.options.offload and not resolve_device(plan.device).startswith("cuda"):
            why = "the device is the CPU, whose memory holds everything already"
            found.append(Refusal("strategy.offload true", why, "leave it out"))
        if plan.optimizer is not None and not plan.optimizer.elementwise:
            why = f"{type(plan.optimizer).__name__} works on whole parameters, and processes hold parts of them"
            found.append(Refusal("optimizer", why, "use optimizer=adamw, sgd or lion, or strategy=ddp"))
        anatomy = plan.model.anatomy(plan.head)
        across = [a for a, owner in anatomy.tied.items() if _unit(a, anatomy) != _unit(owner, anatomy)]
        if across:
            why = f"{across[0]} of family {plan.model.family!r} is shared between layers"
            found.append(Refusal("strategy 'fsdp'", why, "use strategy=ddp"))
        return found

    def engine(self, plan: Plan, place: Place) -> Engine:
        """See `ParallelStrategy.engine`."""
        return FullyShardedEngine(plan, place, self.options)


def _unit(name: str, anatomy: Anatomy) -> str:
    """The layer that a parameter is of, "" for what is of none."""
    for stack in stacks(anatomy):
        if name.startswith(f"{stack}."):
            return f"{stack}.{name.removeprefix(f'{stack}.').partition('.')[0]}"
    return ""


class FullyShardedEngine(SingleEngine):
    """The engine of `fsdp`. The sweep is collective: a rank that runs out of memory ends the run."""

    recovers = False

    def __init__(self, plan: Plan, place: Place, options: ShardedOptions) -> None:
        device = device_of(plan, place)
        self.options = options
        if device.startswith("cuda"):
            torch.cuda.set_device(device)  # where `fully_shard` gathers; this process is the run's own
        self._held = contextlib.ExitStack()
        self._held.enter_context(group_of(place, device))
        size = options.shard_size or place.world_size
        kind = torch.device(device).type
        if size == place.world_size:
            self.mesh = init_device_mesh(kind, (size,), mesh_dim_names=("shard",))
        else:
            self.mesh = init_device_mesh(kind, (place.world_size // size, size), mesh_dim_names=("replicate", "shard"))
        self._reached: set[str] = set()
        """Parameters that a backward pass of this rank has given a gradient since the step began."""
        self._counts = True
        super().__init__(plan, place, options, device=device, data_group=dist.group.WORLD)
        self._learning = [name for name, p in self.own.items() if p.requires_grad]

    def _build(self, plan: Plan, device: torch.device, alone: bool) -> None:
        module, anatomy = plan.model.build(plan.head, plan.precision.parameter), plan.model.anatomy(plan.head)
        self.compute = None if plan.precision.compute == "float32" else getattr(torch, plan.precision.compute)
        fp8 = plan.precision.fp8
        self.kernel = (
            "default" if self.compiles else kernels.install(module, self.compute, device, keeps=False, fp8=fp8)
        )
        self.products = kernels.installed(module)
        tie(module, anatomy)
        reduction = getattr(torch, plan.precision.reduction)
        self.units = sharded(module, anatomy, self.mesh, self.options, reduction)
        for path, unit in self.units.items():
            unit.register_forward_pre_hook(_Watch(self._reach, path, anatomy.tied))
        offload = torch.device("cpu") if self.options.offload else device
        self.report = materialise(module, plan.model, plan.head, plan.seed, offload)
        for part in module.modules() if offload != device else ():
            for name, buffer in list(part.named_buffers(recurse=False)):
                setattr(part, name, buffer.to(device))
        if device.type == "cpu" and not self.compiles:
            dropout.install(module)
        self.module = module

    def casting(self) -> contextlib.AbstractContextManager[Any]:
        """See `SingleEngine.casting`. Casts are of one use: kept, they would hold the whole model, and gradients through one that an earlier
        microbatch made come about after the layer's own backward pass, when its gradients are sent already."""
        return autocast(self.device, self.compute, keeps=False)

    # -- the sweep -------------------------------------------------------------------------------------------------

    def sweep(
        self, microbatches: Sequence[Batch], fn: SweepFn, backward: bool, *, training: bool | None = None
    ) -> list[Any]:
        """See `TorchEngine.sweep`."""
        records = super().sweep(microbatches, fn, backward, training=training)
        if not backward:  # else what was gathered last stays, and a load would go past it
            for unit in self.units.values():
                unit.reshard()
        return records

    @contextlib.contextmanager
    def synchronising(self, last: bool) -> Iterator[None]:
        """See `TorchEngine.synchronising`."""
        for unit in self.units.values():
            unit.set_requires_gradient_sync(last, recurse=False)
        yield

    def backpropagate(self, scalar: torch.Tensor, outputs: Outputs) -> None:
        """See `TorchEngine.backpropagate`. Ranks meet in every layer's backward pass, so one without anything to learn takes part, with
        gradients of zero that do not count."""
        if scalar.requires_grad:
            super().backpropagate(scalar, outputs)
            return
        given = [output for output in outputs.values() if output.requires_grad]
        self._counts = False
        torch.autograd.backward(given, [torch.zeros_like(output) for output in given])
        self._counts = True

    def _reach(self, name: str) -> None:
        if self._counts:
            self._reached.add(name)

    def zero_gradients(self) -> None:
        """See `TorchEngine.zero_gradients`."""
        super().zero_gradients()
        self._reached.clear()
        for p in self.own.values():
            p.grad = None

    def reduce_gradients(self) -> None:
        """Hand the parts' gradients, summed already, to the optimizer's tensors. A parameter that has no gradient on any rank gets none: it
        is none of the optimizer's business, as in one process."""
        flags = [name in self._reached for name in self._learning]
        present = torch.tensor(flags, dtype=torch.uint8, device=self.device)
        dist.all_reduce(present, dist.ReduceOp.MAX)
        for name, there in zip(self._learning, present.tolist(), strict=True):
            parameter = self.own[name]
            if there:
                assert parameter.grad is not None, f"{name}: reached, and its gradient was not reduced"
                self.shards[name].grad = sharding.part(parameter.grad)
            parameter.grad = None

    def gradient_norm(self) -> float:
        """See `TorchEngine.gradient_norm`."""
        squares = torch.tensor([super().gradient_norm() ** 2], dtype=torch.float64, device=self.device)
        dist.all_reduce(squares, group=self.mesh.get_group("shard"))
        return math.sqrt(float(squares))

    # -- generating, facts -----------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def decoding(self, slots: int, length: int, encoder_length: int = 0) -> Iterator[Decodes]:
        """See `LendsDecoder.decoding`. Over a copy whose weights are gathered for the time: each rank then decodes for itself."""
        module = self.plan.model.build(self.plan.head, self.plan.precision.parameter)
        module.to_empty(device=self.device)
        tie(module, self.plan.model.anatomy(self.plan.head))
        tensors = {**self.own, **dict(self.module.named_buffers())}
        with torch.no_grad():
            for name, tensor in named_tensors(module, self.tied).items():
                tensor.copy_(sharding.whole(tensors[name]))
        kernels.install(module, self.compute, self.device)
        with self.decoding_with(module, slots, length, encoder_length) as decoder:
            yield decoder

    def facts(self) -> Mapping[str, str]:
        """See `Engine.facts`."""
        copies, size = self.place.world_size // self.mesh["shard"].size(), self.mesh["shard"].size()
        spread = f"over {size} processes" + (f", {copies} copies" if copies > 1 else "")
        return {**super().facts(), "sharding": f"{len(self.units) - 1} layers and the rest, {spread}"}

    def close(self) -> None:
        """See `Engine.close`."""
        self.units = {}
        super().close()
        self._held.close()


class _Watch:
    """A hook before a unit's first forward pass, when its parameters are gathered: has each of them tell of gradients. `fully_shard` keeps
    the gathered tensor from then on, and only fills and empties it."""

    def __init__(self, tell: Callable[[str], None], path: str, tied: Mapping[str, str]) -> None:
        self.tell, self.path, self.tied, self.done = tell, path, tied, False

    def __call__(self, unit: torch.nn.Module, inputs: Any) -> None:
        if self.done:
            return
        self.done = True
        for name, p in unit.named_parameters():
            if not isinstance(p, DTensor) and p.requires_grad:
                full = f"{self.path}.{name}" if self.path else name
                owner = self.tied.get(full, full)
                p.register_post_accumulate_grad_hook(lambda _, name=owner: self.tell(name))


def sharded(
    module: torch.nn.Module,
    anatomy: Anatomy,
    mesh: DeviceMesh,
    options: ShardedOptions,
    reduction: torch.dtype,
) -> dict[str, FSDPModule]:
    """Shard a module on meta in place: each layer by itself, then the rest ("", last). Gradients are summed, not averaged.

    Parameters are gathered as they are, and cast where products want it, as under `single`: so norms, biases and hidden states are what
    they are there. `kernels` sees to it that no cast copy outlives its layer's pass.
    """
    offload = CPUOffloadPolicy() if options.offload else OffloadPolicy()
    precision = MixedPrecisionPolicy(reduce_dtype=reduction, cast_forward_inputs=False)
    units: dict[str, FSDPModule] = {}
    for stack in stacks(anatomy):
        for n, layer in enumerate(module.get_submodule(stack)):  # type: ignore[arg-type]
            units[f"{stack}.{n}"] = fully_shard(
                layer, mesh=mesh, mp_policy=precision, offload_policy=offload, reshard_after_forward=options.reshard_after_forward
            )  # fmt: skip
    units[""] = fully_shard(module, mesh=mesh, mp_policy=precision, offload_policy=offload)
    for unit in units.values():  # none of these reaches further down by itself
        unit.set_gradient_divide_factor(1.0)
        unit.set_force_sum_reduction_for_comms(True)  # a factor is a product in the reduction else, which gloo has not
        unit.set_reduce_scatter_unused_params(True, recurse=False)
    return units
