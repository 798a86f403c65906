"""The engine of strategy `megatron`: Megatron's schedules, gradient buffers and optimizers under the sweep that every engine on torch has.

Weights, gradients and groups of the optimizer go by Hugging Face names throughout (`spcore_megatron.weights`).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from megatron.core import parallel_state as ps
from megatron.core import tensor_parallel
from megatron.core.distributed import DistributedDataParallel, finalize_model_grads
from megatron.core.optimizer import ParamKey, get_megatron_optimizer
from megatron.core.optimizer.clip_grads import clip_grad_by_total_norm_fp32
from megatron.core.optimizer.optimizer_config import ParamPredicate
from megatron.core.pipeline_parallel import get_forward_backward_func

from spcore.interfaces.optimizer import GroupKey
from spcore.interfaces.runtime import Decodes
from spcore.interfaces.strategy import Pending, Place, Plan, StepReport
from spcore.interfaces.task import Batch
from spcore.tensors import process, rng
from spcore.tensors.engine import SweepFn, TorchEngine
from spcore.tensors.materialise import LoadReport, named_parameters, values
from spcore.tensors.ops import PositionOps, VocabularyOps, WholeOps
from spcore.tensors.stepping import SMALLEST_SCALE, Scaler, no_scale_helps
from spcore_megatron import chunks, generating, masters, settings
from spcore_megatron.checkpoints import Keeper
from spcore_megatron.options import MegatronOptions
from spcore_megatron.weights import Weights
from spcore_megatron.zigzag import Zigzag


class MegatronEngine(TorchEngine):
    """One rank's. chunks: its stages; ddp: the same, each with its gradient buffers. tensors: what they hold by Hugging Face name. shapes:
    of the whole tensors; computed: buffers that are no part of a model's files. held_open: what to close after it: process groups, and the
    shim. Has the abilities `Gradients` and `LendsDecoder`."""

    optimizer: Any
    decodes_together = False

    def __init__(self, plan: Plan, place: Place, options: MegatronOptions) -> None:
        self.options, self.held_open = options, contextlib.ExitStack()
        device = torch.device(place.device)
        process.ready()
        with process.plainly():
            self.chunks, self.family, self.config = chunks.made(plan, options, device)
            self.shapes, self.computed = _shapes(plan)
            self.tensors = self._weights(plan)
            exact = self._load(plan)
            self.ddp = [
                DistributedDataParallel(self.config, settings.reduction(options), chunk, disable_bucketing=n > 0)
                for n, chunk in enumerate(self.chunks)
            ]
        data_group = ps.get_data_parallel_group() if plan.layout.data_size > 1 else None
        module = torch.nn.ModuleList(self.chunks)
        super().__init__(plan, place, module, data_group=data_group, threads=options.threads)
        if self.optimizer is not None:
            masters.put(self.optimizer, exact)
        self.scaler = Scaler()  # the optimizer has Megatron's
        # Ranks of one data rank draw alike: Megatron's own generators start from that at every sweep, see `_drawing`.
        self.random = rng.seeded(rng.address(plan.seed, "rank", place.data_rank), device)
        self.has_output = self.chunks[-1].ends
        self.speaks = ps.get_tensor_model_parallel_rank() == 0 and ps.get_context_parallel_rank() == 0
        self.ops = self._ops(plan, data_group)
        heads = [chunk.head for chunk in self.chunks if chunk.head is not None]
        self._head_parameters = [parameter for head in heads for parameter in head.parameters()]
        self._whole_gradients = False
        self.keeper = Keeper(self.tensors, self.shapes, self.optimizer, self.device)
        self._configure()

    # -- what it is made of ----------------------------------------------------------------------------------------

    def _weights(self, plan: Plan) -> Weights:
        anatomy = plan.model.anatomy(plan.head)
        heads = [chunk.head for chunk in self.chunks if chunk.head is not None]
        beside = {name: tensor for head in heads for name, tensor in _tensors(head).items()}
        return Weights(
            [chunk.module for chunk in self.chunks], self.family.rules(plan.model.config), self.config, self.family.shape(plan.model.config).vocabulary,
            base=anatomy.base, tied=anatomy.tied, beside=beside,
        )  # fmt: skip

    def _load(self, plan: Plan) -> masters.Exact:
        """Give all tensors their values; what they were before they were rounded, where they are."""
        narrow, self.report = settings.dtype_of(plan), LoadReport()
        learned = [p for chunk in self.chunks for p in chunk.parameters()] if narrow != torch.float32 else []
        masters.widen(learned)
        lacking = self.tensors.names
        with torch.no_grad():
            for name, tensor in values(plan.model, plan.head, plan.seed, self.report, {*lacking, *self.computed}):
                if name in self.computed:
                    self.computed[name] = tensor
                self.tensors.put(name, tensor)
                lacking.discard(name)
        known = f"bridge megatron.{plan.model.family}"
        assert not lacking, f"{known}: its map names {sorted(lacking)[0]}, which the model has not"
        return masters.rounded(learned, narrow)

    def _ops(self, plan: Plan, data_group: Any) -> WholeOps:
        ops, names = WholeOps(data_group), [name for name, axes in plan.head.outputs.items() if "vocabulary" in axes]
        if plan.head.kind != "vocabulary":
            return ops
        if self.options.tensor_parallel > 1:
            group, size = ps.get_tensor_model_parallel_group(), self.family.shape(plan.model.config).vocabulary
            columns = -(-size // self.options.tensor_parallel)
            ops = VocabularyOps(group, ps.get_tensor_model_parallel_rank() * columns, size, names, data_group)
        if self.options.context_parallel > 1:
            ops = PositionOps(ops, Zigzag(ps.get_context_parallel_group()), names)
        return ops

    def _configure(self) -> None:
        """What Megatron's schedules are to call."""
        several = len(self.ddp) > 1
        self.config.finalize_model_grads_func = self._finalised
        self.config.no_sync_func = [part.no_sync for part in self.ddp] if several else self.ddp[0].no_sync
        self.config.grad_scale_func = self.optimizer.scale_loss if self.optimizer is not None else None

    def _finalised(self, models: list[Any], num_tokens: Any = None, **kwargs: Any) -> None:
        # The count is left out: gradients are of a loss that is divided by its weights already.
        finalize_model_grads(models, None, **{**kwargs, "force_all_reduce": self._whole_gradients})

    def own_parameters(self) -> dict[str, torch.nn.Parameter]:
        """This rank's, by Megatron's names: to a name of Hugging Face's there may be a part of one."""
        return dict(torch.nn.ModuleList(self.chunks).named_parameters())

    def build_optimizer(self) -> Any:
        """Megatron's, with a group for each key that the plan's optimizer gives."""
        keys = self._keys()
        overrides = {
            ParamKey(predicate=ParamPredicate(str(key), lambda p, key=key: keys.get(id(p)) == key)): {
                "weight_decay": key.weight_decay, "wd_mult": key.weight_decay, "lr_mult": key.lr_scale,
            }
            for key in dict.fromkeys(keys.values())
        }  # fmt: skip
        return get_megatron_optimizer(settings.optimizer(self.plan, self.options), self.ddp, overrides)

    def _keys(self) -> dict[int, GroupKey]:
        """Of each parameter, by its id."""
        assert self.plan.optimizer is not None, "the caller looked"
        found: dict[int, GroupKey] = {}
        for name, parameter in self._parts():
            key = self.plan.optimizer.groups(name, self.shapes[name])
            assert found.setdefault(id(parameter), key) == key, (
                f"{name}: `check` refuses groups that part a fused tensor"
            )
        return found

    def _parts(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """(Hugging Face name, parameter of this rank that holds some of it)."""
        for name, parts in self.tensors.parts.items():
            yield from ((name, part.parameter) for part in parts)
        for name, tensor in self.tensors.beside.items():
            if isinstance(tensor, torch.nn.Parameter):
                yield name, tensor

    # -- the primitive ---------------------------------------------------------------------------------------------

    def sweep(
        self, microbatches: Sequence[Batch], fn: SweepFn, backward: bool, *, training: bool | None = None
    ) -> list[Any]:
        """See `TorchEngine.sweep`."""
        training = backward if training is None else training
        for part in self.ddp:
            part.train(training)
        ready = [self.prepared(batch) for batch in microbatches]
        records: dict[int, Any] = {}
        with torch.set_grad_enabled(backward), self._drawing() if training else contextlib.nullcontext():
            for numbers in self._alike(ready, backward):
                found = self._run([ready[n] for n in numbers], fn, backward)
                records.update(zip(numbers, found, strict=False))  # rounds that were filled give more
        return [records[n] for n in range(len(ready))] if self.has_output else []

    def _alike(self, ready: Sequence[Batch], backward: bool) -> list[list[int]]:
        """Numbers of microbatches that run together: all, but through a pipeline those of one shape."""
        if self.options.pipeline_parallel == 1:
            return [list(range(len(ready)))]
        found: dict[tuple[int, ...], list[int]] = {}
        for n, batch in enumerate(ready):
            found.setdefault(tuple(batch.inputs["input_ids"].shape), []).append(n)
        assert len(found) == 1 or not backward, "microbatches of a step have one shape: see `BatchRule.equal_length`"
        return list(found.values())

    def _run(self, ready: Sequence[Batch], fn: SweepFn, backward: bool) -> list[Any]:
        """Microbatches of one shape through Megatron's schedule; records where outputs are."""
        several = len(self.ddp) > 1
        if several:  # in rounds of as many as there are ranks
            ready = [*ready, *[ready[-1]] * (-len(ready) % self.options.pipeline_parallel)]

        def forward(batches: Iterator[Batch], model: Any) -> tuple[Any, Any]:
            batch = next(batches)
            return model(batch.inputs), lambda outputs: self._judged(outputs, batch, fn)

        rows, length = ready[0].inputs["input_ids"].shape
        found: list[Any] = get_forward_backward_func()(
            forward_step_func=forward,
            data_iterator=[iter(ready) for _ in self.ddp] if several else iter(ready),
            model=self.ddp if several else self.ddp[0],
            num_microbatches=len(ready),
            seq_length=length,
            micro_batch_size=rows,
            forward_only=not backward,
        )
        return found

    def _judged(self, outputs: Mapping[str, torch.Tensor], batch: Batch, fn: SweepFn) -> tuple[Any, ...]:
        """(scalar to go back from, 0, record) of a microbatch's outputs, as Megatron's schedules take them."""
        scalar, record = fn(outputs, batch)
        # Every rank of a context group has the whole loss. Zeros of the outputs: other stages wait for gradients even where no term has weight.
        own = 0.0 if scalar is None else scalar / self.options.context_parallel
        # Parameters of a head that reach no output get a gradient too, which buckets wait for.
        scalar = own + sum(x.flatten()[:0].float().sum() for x in (*outputs.values(), *self._head_parameters))
        return scalar, torch.zeros((), dtype=torch.int, device=self.device), record

    @contextlib.contextmanager
    def _drawing(self) -> Iterator[None]:
        """Megatron's generators, from one draw of the engine's own, which alone is kept: it is the same on all ranks of a data rank, and so
        stays the same whatever they draw. Ranks of a context group have other positions, so other draws."""
        seed = int(torch.randint(2**30, ()))
        before = rng.capture(self.device)
        tensor_parallel.model_parallel_cuda_manual_seed(
            seed + 7919 * ps.get_context_parallel_rank() + 104729 * ps.get_pipeline_model_parallel_rank(),
            force_reset_rng=True,
        )
        try:
            yield
        finally:
            rng.restore(before, self.device)

    @property
    def recovers(self) -> bool:
        """Gradients are reduced inside a sweep."""
        return False

    # -- training --------------------------------------------------------------------------------------------------

    def train_step(self, microbatches: Sequence[Batch], lr: float, step: int) -> StepReport:
        """See `Engine.train_step`. Losses are scaled by Megatron's own scaler."""
        scale = float(self.optimizer.get_loss_scale())
        report = super().train_step(microbatches, lr, step)
        if not report.applied and scale <= SMALLEST_SCALE:
            raise no_scale_helps(scale)
        return replace(report, loss_scale=scale)

    def zero_gradients(self) -> None:
        """See `TorchEngine.zero_gradients`."""
        for part in self.ddp:
            part.zero_grad_buffer()
        if self.optimizer is not None:
            self.optimizer.zero_grad()

    def gradient_norm(self) -> float:
        """See `TorchEngine.gradient_norm`; inf where a scaled gradient overflowed. Megatron's own adds up large tensors in float32, which on
        a CPU is off by 1e-5 of some ten million entries."""
        if self.optimizer.prepare_grads():
            return math.inf
        total = 0.0
        for part in self.optimizer.chained_optimizers:  # of experts apart
            mine = self.squares(part.get_main_grads_for_grad_norm())
            square = torch.tensor(mine, dtype=torch.float64, device=self.device)
            dist.all_reduce(square, group=part.get_grad_stats_parallel_group())
            total += float(square)
        return math.sqrt(total)

    def _update(self, lr: float, norm: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["lr_mult"]
        clip = self.plan.clip_norm
        for part in self.optimizer.chained_optimizers if clip is not None else ():
            if found := part.get_parameters():
                clip_grad_by_total_norm_fp32(found, clip, norm)
        self.optimizer.step_with_ready_grads()

    def named_gradients(self) -> Iterator[tuple[str, torch.Tensor]]:
        """See `TorchEngine.named_gradients`: before they are scaled and clipped."""
        yield from ((name, parameter.main_grad) for name, parameter in self._parts())

    def gradients(self, microbatches: Sequence[Batch]) -> Iterator[tuple[str, torch.Tensor]]:
        """See `spcore.interfaces.strategy.Gradients`."""
        with self._reducing_whole(), self.owned():
            self._swept(microbatches, self._totals(microbatches)[0])
            scale = float(self.optimizer.get_loss_scale()) if self.optimizer is not None else 1.0
        names = dict(named_parameters(self.plan.model.build(self.plan.head), {}))
        for name, gradient in self.tensors.export(_gradient):
            if name in names:
                yield name, gradient.float().cpu() / scale
        self.zero_gradients()

    @contextlib.contextmanager
    def _reducing_whole(self) -> Iterator[None]:
        """With the distributed optimizer a rank is given its part of the sums; here all of them."""
        self._whole_gradients = True
        for part in self.ddp:
            part.force_all_reduce = True
        try:
            yield
        finally:
            self._whole_gradients = False
            for part in self.ddp:
                part.force_all_reduce = False

    @contextlib.contextmanager
    def decoding(self, slots: int, length: int, encoder_length: int = 0) -> Iterator[Decodes]:
        """See `LendsDecoder.decoding`."""
        with generating.decoding(self, slots, length, encoder_length) as decoder:
            yield decoder

    # -- state -----------------------------------------------------------------------------------------------------

    def weights(self, which: Literal["model", "adapter"] = "model") -> Iterator[tuple[str, torch.Tensor]]:
        """See `Engine.weights`."""
        assert which == "model", "`check` refuses adapters"
        for part in self.ddp if self.options.overlap_param_gather else ():
            part.start_param_sync(force_sync=True)  # the next forward pass would have gathered them
        for name, tensor in self.tensors.export(lambda parameter: masters.original(self.optimizer, parameter)):
            if name in self.shapes:  # others are computed, not learned
                yield name, tensor.float().cpu().contiguous()

    def parameters(self) -> tuple[int, int]:
        """See `Engine.parameters`."""
        anatomy = self.plan.model.anatomy(self.plan.head)
        every = named_parameters(self.plan.model.build(self.plan.head), anatomy.tied)
        count = sum(p.numel() for p in every.values())
        return count, count

    def save(self, folder: Path) -> Pending:
        """See `Engine.save`."""
        leads = self._place_in_row == 0
        file = self._file(folder, self._place_in_row)
        return self.keeper.save(file, self.random if leads else None, self.staging)

    def load(self, folder: Path) -> None:
        """See `Engine.load`. All ranks of a data rank go on with its generator; those of one that the saving run had not, with their own."""
        self.staging.settle()
        self.keeper.load(folder, self._file(folder, 0), self.random)

    def _file(self, folder: Path, number: int) -> Path:
        return folder / f"data-{self.place.data_rank:05d}-{number:05d}.safetensors"

    @property
    def _place_in_row(self) -> int:
        """This rank's number among those of its data rank."""
        options = self.options
        stage, at = ps.get_pipeline_model_parallel_rank(), ps.get_context_parallel_rank()
        return int(stage * options.context_parallel + at) * options.tensor_parallel + int(
            ps.get_tensor_model_parallel_rank()
        )

    def facts(self) -> Mapping[str, str]:
        """See `Engine.facts`."""
        from importlib.metadata import version

        from spcore_megatron.layers import has_transformer_engine

        new = sorted({name.rpartition(".")[0] for name in self.report.initialised if name in self.shapes})
        return {
            "device": str(self.device), "threads": str(self.threads or torch.get_num_threads()),
            "precision": self.plan.precision.name, "megatron-core": version("megatron-core"),
            "layers": "Transformer Engine's" if has_transformer_engine() else "Megatron's local ones",
            "new parameters": ", ".join(new[:4]) + (f" and {len(new) - 4} more" if len(new) > 4 else "") or "none",
            "unused weights": str(len(self.report.unused)),
        }  # fmt: skip

    def close(self) -> None:
        """See `Engine.close`."""
        self.chunks, self.ddp = [], []
        self.__dict__.pop("keeper", None)
        super().close()
        self.held_open.close()


def _shapes(plan: Plan) -> tuple[dict[str, tuple[int, ...]], dict[str, torch.Tensor]]:
    """Of all tensors that are learned or kept, by Hugging Face name, tied ones under their owner's; and those that are computed."""
    module, tied = plan.model.build(plan.head), plan.model.anatomy(plan.head).tied
    kept = {name: tuple(tensor.shape) for name, tensor in module.state_dict(keep_vars=True).items() if name not in tied}
    return kept, {name: tensor for name, tensor in module.named_buffers() if name not in kept}


def _tensors(head: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(head.named_parameters()), **dict(head.named_buffers())}


def _gradient(parameter: torch.Tensor) -> torch.Tensor:
    """The sum over all ranks."""
    found: torch.Tensor = (
        parameter.main_grad.detach() if hasattr(parameter, "main_grad") else torch.zeros_like(parameter)
    )
    return found
