"""Strategy `parallel`: processes along the axes data, pipeline, context and tensor, in that order, the last innermost.

Along "tensor" each process holds its pieces of the layers' matrices and of the vocabulary (`spcore_torch.cutting` says which,
`spcore_torch.styles` makes them work together); along "context" its part of each text's positions (`spcore_torch.positions`); along
"pipeline" its layers (`spcore_torch.pipeline`); along "data" each works on its part of a step, and gradients are summed.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from spcore.errors import RefusalError
from spcore.interfaces.model import SharesPositions
from spcore.interfaces.runtime import Decodes
from spcore.interfaces.strategy import BatchRule, Engine, Layout, ParallelStrategy, Place, Plan, Refusal
from spcore.interfaces.task import Batch
from spcore.tensors import rng, state
from spcore.tensors.engine import SweepFn
from spcore.tensors.groups import device_of
from spcore.tensors.materialise import LoadReport, materialise
from spcore.tensors.ops import VocabularyOps
from spcore.tensors.pieces import Piece
from spcore_torch import positions, recomputing, stages, styles
from spcore_torch.cutting import Cuts, cut, shrink
from spcore_torch.ddp import DataParallelEngine
from spcore_torch.options import ParallelOptions
from spcore_torch.reducer import Reducer
from spcore_torch.shards import Region
from spcore_torch.single import refusals

AXES = ("data", "pipeline", "context", "tensor")


class Parallel(ParallelStrategy):
    """Any number of processes that the axes' sizes divide."""

    def __init__(self, options: ParallelOptions) -> None:
        self.options = options
        self.decodes = options.pipeline_parallel == options.context_parallel == 1

    def layout(self, world_size: int) -> Layout:
        """What the options say; "data" takes the processes that are left. Raises RefusalError where the sizes do not give their number."""
        options = self.options
        inner = {
            "pipeline": options.pipeline_parallel,
            "context": options.context_parallel,
            "tensor": options.tensor_parallel,
        }
        each = math.prod(inner.values())
        data = options.data_parallel or max(1, world_size // each)
        if data * each != world_size:
            sizes = (
                " * ".join(f"strategy.{name}_parallel {size}" for name, size in inner.items() if size > 1) or "no axis"
            )
            given = f"strategy.data_parallel {data} * " if options.data_parallel else ""
            raise RefusalError(
                f"{given}{sizes} does not give {world_size} processes; start {data * each} (launch.processes), or change the sizes"
            )
        return Layout({"data": data, **inner})

    def options_for(self, axes: Mapping[str, int]) -> Mapping[str, Any] | None:
        """See `ParallelStrategy.options_for`."""
        known = {"dp": "data", "pp": "pipeline", "cp": "context", "tp": "tensor"}
        if not axes or not axes.keys() <= known.keys():
            return None
        return {f"{name}_parallel": axes.get(axis, 1) for axis, name in known.items()}

    def check(self, plan: Plan) -> list[Refusal]:
        """See `ParallelStrategy.check`."""
        found = [*refusals(plan, self.options), *self._axes()]
        found += [*stages.refusals(plan, self.options), *positions.refusals(plan, self.options.context_parallel)]
        if plan.device not in ("auto", "cpu", "cuda"):
            found.append(Refusal(f"device {plan.device!r}", "each process has a device of its own", "use device=cuda"))
        data = plan.layout.data_size
        if plan.global_batch_size < data:
            why = f"{data} groups of processes share a step, some would have nothing to do"
            hint = f"make it {data} or more, or start fewer processes"
            found.append(Refusal(f"train.global_batch_size {plan.global_batch_size}", why, hint))
        if self.options.tensor_parallel > 1:
            found += self._tensor(plan)
        return found

    def _axes(self) -> list[Refusal]:
        found = []
        for name in ("pipeline", "context"):
            size = getattr(self.options, f"{name}_parallel")
            if size > 1 and self.options.flatten == "always":
                why = f"microbatches are fed as they are under strategy.{name}_parallel {size}"
                found.append(Refusal("strategy.flatten always", why, "use strategy.flatten=auto"))
        if self.options.compile and max(self.options.tensor_parallel, self.options.context_parallel) > 1:
            why = "layers that are divided speak with other processes amid their work, which is not compiled"
            found.append(Refusal("strategy.compile true", why, "leave it out, or use data or pipeline parallelism"))
        if self.options.sequence_parallel and self.options.tensor_parallel == 1:
            why = "it shares positions among the processes of tensor_parallel, which is 1"
            found.append(Refusal("strategy.sequence_parallel", why, "set strategy.tensor_parallel"))
        return found

    def _tensor(self, plan: Plan) -> list[Refusal]:
        size, found = self.options.tensor_parallel, []
        if plan.precision.fp8 is not None:
            why = "layers that are divided multiply as torch does, which is not in 8 bits"
            found.append(Refusal(f"precision {plan.precision.name!r}", why, "use precision=bf16"))
        try:
            cuts = cut(plan, plan.model.build(plan.head), size, sequence=self.options.sequence_parallel)
        except RefusalError as error:
            return [Refusal(f"strategy.tensor_parallel {size}", error.message)]
        if self.options.sequence_parallel and not cuts.positions:
            why = f"inside of the layers of family {plan.model.family!r} positions cannot be told apart, or are needed together"
            found.append(Refusal("strategy.sequence_parallel", why, "leave it out"))
        if _reads_early(plan, self.options.sequence_parallel) and (
            plan.pack is not None or self.options.flatten == "always"
        ):
            why = "heads on texts read their rows inside of the last layer, where each process has a part of the positions"
            found.append(
                Refusal(
                    "strategy.sequence_parallel", why, "leave it out, and data.pack and strategy.flatten always with it"
                )
            )
        if plan.optimizer is not None and not plan.optimizer.elementwise:
            why = "it updates whole matrices, and each process has pieces of them"
            name = type(plan.optimizer).__name__.lower()
            found.append(Refusal(f"optimizer {name!r}", why, "use adamw, sgd or lion, or strategy=ddp"))
        return found

    def batch_rule(self, plan: Plan) -> BatchRule:
        """Positions divide by the context axis; through a pipeline go microbatches of one shape, as many at a time as it has stages, or
        some would stand idle."""
        size = self.options.pipeline_parallel
        return BatchRule("step" if size > 1 else "none", self.options.context_parallel, size)

    def engine(self, plan: Plan, place: Place) -> Engine:
        """See `ParallelStrategy.engine`."""
        from spcore_torch.pipeline import PipelineEngine

        kind = PipelineEngine if self.options.pipeline_parallel > 1 else ParallelEngine
        return kind(plan, place, self.options)


class ParallelEngine(DataParallelEngine):
    """The engine of `parallel`. mesh: of all processes, None for one. region: the cut layers, None where nothing is cut. shared: the
    positions of this rank, None where it has all."""

    options: ParallelOptions
    mesh: DeviceMesh | None = None
    region: Region | None = None
    shared: positions.Shared | None = None

    def __init__(self, plan: Plan, place: Place, options: ParallelOptions) -> None:
        self.options, self.cuts, self.drops = options, Cuts(), False
        super().__init__(plan, place, options)
        self.speaks = self._first(self.region, self.shared)
        if self.region is not None:
            self.flat = self.flat and not _reads_early(plan, self.region.sequence)
            self._lend_vocabulary(self.region)
        if self.shared is not None:
            self.flat = False
            self.ops = self.shared.lend(self.ops, plan.head)
            self.sums_positions = Reducer(self.own.values(), self.shared.group)
        # Ranks that hold the same activations drop the same of them.
        self.random = rng.seeded(rng.address(plan.seed, "rank", place.data_rank), self.device)
        self.parted = [(n, p) for n, p in self.own.items() if n in self.cuts.partial or self._copied(n)]

    @staticmethod
    def _first(*parts: Region | positions.Shared | None) -> bool:
        return all(part is None or part.rank == 0 for part in parts)

    def _groups(self, plan: Plan, place: Place, device: str) -> Any:
        sizes = [plan.layout.axes.get(axis, 1) for axis in AXES]
        if place.world_size == 1:
            return None
        self.mesh = init_device_mesh(torch.device(device).type, tuple(sizes), mesh_dim_names=AXES)
        if plan.layout.axes["tensor"] > 1:
            self.region = Region(
                self.mesh.get_group("tensor"),
                torch.device(device_of(plan, place)),
                sequence=self.options.sequence_parallel,
            )
        if plan.layout.axes["context"] > 1:
            self.shared = positions.Shared(self.mesh.get_group("context"), torch.device(device_of(plan, place)))
        return self.mesh.get_group("data") if plan.layout.data_size > 1 else None

    def _made(self, plan: Plan, device: torch.device) -> tuple[torch.nn.Module, LoadReport]:
        module = plan.model.build(plan.head, plan.precision.parameter)
        report, self.cuts = self._filled(plan, module, device)
        return module, report

    def _filled(self, plan: Plan, module: torch.nn.Module, device: torch.device) -> tuple[LoadReport, Cuts]:
        """Cut a module without storage, and give it this rank's values."""
        region = self.region
        if region is None:
            return materialise(module, plan.model, plan.head, plan.seed, device), Cuts()
        cuts = cut(plan, module, region.size, sequence=region.sequence)
        shrink(module, cuts, region.rank)
        how: Any = {"cuttings": cuts.tensors, "rank": region.rank}
        return materialise(module, plan.model, plan.head, plan.seed, device, **how), cuts

    def _build(self, plan: Plan, device: torch.device, alone: bool) -> None:
        within = self.shared is None and self.options.pipeline_parallel == 1
        super()._build(plan, device, alone and within)
        for part, cuts in self._parts():
            if self.region is not None and self.mesh is not None:
                styles.parallelise(part, self.mesh["tensor"], cuts, self.region)
                if self.region.sequence:
                    styles.divide_positions(part, plan.model.anatomy(plan.head), cuts, self.region)
            if self.shared is not None:
                assert isinstance(plan.model, SharesPositions), "`check` refuses others"
                plan.model.share(part, plan.head, self.shared)
        self.drops = drops(self.module)

    def _parts(self) -> list[tuple[torch.nn.Module, Cuts]]:
        """The modules that `LanguageModel.build` made, and what of each is cut."""
        return [(self.module, self.cuts)]

    def layers(self, plan: Plan) -> list[torch.nn.Module]:
        """See `SingleEngine.layers`."""
        anatomy = plan.model.anatomy(plan.head)
        return [layer for part, _ in self._parts() for layer in recomputing.layers(part, anatomy)]

    def read_again(self) -> list[recomputing.Again]:
        """See `SingleEngine.read_again`."""
        shared = [] if self.shared is None else [self.shared.draws.again]
        return shared if self.region is None else [*shared, self.region.again]

    def _lend_vocabulary(self, region: Region) -> None:
        """Outputs over the vocabulary are this rank's columns of them."""
        size = getattr(self.plan.model.config, "vocab_size", 0)
        names = [name for name, axes in self.plan.head.outputs.items() if "vocabulary" in axes]
        logits = [path for path, (how, _) in self.cuts.modules.items() if how == "logits"]
        if names and logits:
            first = self.cuts.vocabulary(size, region.size).span(region.rank)[0]
            self.ops = VocabularyOps(region.group, first, size, names, self.data_group)

    def _copied(self, name: str) -> bool:
        return name in self.cuts.tensors and self.cuts.tensors[name].copies > 1

    @property
    def recovers(self) -> bool:
        """See `TorchEngine.recovers`: layers that are cut, or see parts of a text, meet in every microbatch."""
        return self.region is None and self.shared is None and super().recovers

    def sweep(
        self, microbatches: Sequence[Batch], fn: SweepFn, backward: bool, *, training: bool | None = None
    ) -> list[Any]:
        """See `TorchEngine.sweep`."""
        for part in (self.region, self.shared):
            if part is not None:
                part.draws.on = self.drops and (backward if training is None else training)
        shared = fn if self.shared is None else self.shared.of_all(fn)
        return self.through(microbatches, shared, backward, training=training)

    def prepared(self, batch: Batch) -> Batch:
        """See `SingleEngine.prepared`."""
        return super().prepared(batch if self.shared is None else self.shared.even(batch))

    def through(
        self, microbatches: Sequence[Batch], fn: SweepFn, backward: bool, *, training: bool | None = None
    ) -> list[Any]:
        """A sweep through the layers, once random draws and the loss's share are settled."""
        return super().sweep(microbatches, fn, backward, training=training)

    @contextlib.contextmanager
    def decoding(self, slots: int, length: int, encoder_length: int = 0) -> Iterator[Decodes]:
        """See `LendsDecoder.decoding`. Ranks of the axis "tensor" make the same text."""
        generating = self.region.generating() if self.region is not None else contextlib.nullcontext()
        with generating, super().decoding(slots, length, encoder_length) as decoder:
            yield decoder

    # -- gradients -------------------------------------------------------------------------------------------------

    def reduce_gradients(self) -> None:
        """Over the data axis and the context axis; then what each rank of the tensor axis has a part of."""
        super().reduce_gradients()
        if self.shared is not None:
            self.sums_positions.finish()
        if self.region is None:
            return
        rank, found = self.region.rank, [(name, p) for name, p in self.parted if p.grad is not None]
        sent = [self._spread(name, p.grad, rank) for name, p in found]
        if not sent:
            return
        flat = torch.cat([x.reshape(-1) for x in sent])
        dist.all_reduce(flat, group=self.region.group)
        for (name, p), x, total in zip(found, sent, flat.split([x.numel() for x in sent]), strict=True):
            whole = total.view_as(x)
            p.grad = self.cuts.tensors[name].take(whole, rank) if self._copied(name) else whole

    def _spread(self, name: str, gradient: torch.Tensor, rank: int) -> torch.Tensor:
        """A gradient to be summed over ranks: that of a piece of which others hold copies, among zeros."""
        if not self._copied(name):
            return gradient
        spread = gradient.new_zeros(self.cuts.tensors[name].shape)
        self.cuts.tensors[name].take(spread, rank).copy_(gradient)
        return spread

    def gradient_norm(self) -> float:
        """See `TorchEngine.gradient_norm`: each entry of the whole model counts once."""
        if self.region is None:
            return super().gradient_norm()
        mine, cuttings, rank = [], self.cuts.tensors, self.region.rank
        for name, p in self.own.items():
            if p.grad is not None and (cuttings[name].counts(rank) if name in cuttings else rank == 0):
                mine.append(p.grad)
        total = torch.tensor([self.squares(mine)], dtype=torch.float64, device=self.device)
        dist.all_reduce(total, group=self.region.group)
        return math.sqrt(float(total))

    # -- whole tensors ---------------------------------------------------------------------------------------------

    def full_shape(self, name: str, parameter: torch.Tensor) -> tuple[int, ...]:
        """See `TorchEngine.full_shape`."""
        cutting = self.cuts.tensors.get(name)
        return tuple(parameter.shape) if cutting is None else cutting.shape

    def parameters(self) -> tuple[int, int]:
        """See `Engine.parameters`."""
        sizes = [(math.prod(self.full_shape(name, p)), p.requires_grad) for name, p in self.own.items()]
        return sum(n for n, _ in sizes), sum(n for n, trained in sizes if trained)

    def delivered(self, tensors: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
        """See `TorchEngine.delivered`."""
        for name, tensor in tensors.items():
            whole = self._joined(name, tensor)
            if whole is not None:
                yield name, whole

    def _joined(self, name: str, mine: torch.Tensor) -> torch.Tensor | None:
        """A whole tensor from the pieces of the tensor axis, on its first rank; of ranks that have the same, on the first alone."""
        cutting = self.cuts.tensors.get(name)
        if self.place.data_rank or not self._first(self.shared):
            return None
        if cutting is None or self.region is None:
            return mine if self._first(self.region) else None
        padded = mine.new_zeros(cutting.local(0))
        padded.narrow(cutting.axis, 0, mine.shape[cutting.axis]).copy_(mine)
        first = self.region.rank == 0
        every = [torch.empty_like(padded) for _ in range(self.region.size)] if first else None
        dist.gather(padded, every, group=self.region.group, group_dst=0)
        if every is None:
            return None
        axis = cutting.axis
        return cutting.join([piece.narrow(axis, 0, cutting.local(rank)[axis]) for rank, piece in enumerate(every)])

    def load(self, folder: Path) -> None:
        """See `Engine.load`. Ranks that hold the same activations go on alike, whatever the layout that was saved."""
        super().load(folder)
        groups = [part.group for part in (self.region, self.shared) if part is not None]
        for group in groups:
            for name, generator in self.random.items():
                moved = generator.to(self.device)
                dist.broadcast(moved, group=group, group_src=0)
                self.random[name] = moved.cpu()

    def _state(self) -> state.Held:
        held, region = super()._state(), self.region
        if region is None:
            return held
        speaks = self.place.data_rank == 0 and self._first(self.shared)
        pieces = {
            name: Piece.of(held.tensors[name], cutting, region.rank, speaks=speaks and cutting.counts(region.rank))
            for name, cutting in self.cuts.tensors.items()
            if name in held.tensors
        }
        return replace(held, tensors={**held.tensors, **pieces})

    def close(self) -> None:
        """See `Engine.close`."""
        if self.shared is not None:
            self.sums_positions.close()
        self.parted, self.region, self.shared = [], None, None
        if self.mesh is not None:
            groups = [self.mesh.get_group(axis) for axis in AXES]
            self.mesh = None
            for group in groups:
                if group is not dist.group.WORLD:
                    dist.destroy_process_group(group)
        super().close()


def _reads_early(plan: Plan, sequence: bool) -> bool:
    """Whether a packed row's last layer goes on with the rows that the head reads alone, which a part of the positions may lack."""
    return sequence and plan.head.kind == "sequence"


def drops(module: torch.nn.Module) -> bool:
    """Whether a module drops anything in training: a setting of it, or of its configuration, says so."""
    settings = [vars(part) for part in module.modules()]
    settings += [vars(part.config) for part in module.modules() if hasattr(part, "config")]
    named = [
        value
        for each in settings
        for name, value in each.items()
        if "drop" in name or name == "p" or name.endswith("pdrop")
    ]
    return any(isinstance(value, float) and value > 0 for value in named)
