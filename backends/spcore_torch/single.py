"""Strategy `single`: one process, one device."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from spcore.errors import RefusalError, RunError
from spcore.interfaces.model import Head, LanguageModel, Steps
from spcore.interfaces.runtime import Decodes
from spcore.interfaces.strategy import Engine, Layout, ParallelStrategy, Place, Plan, Refusal
from spcore.interfaces.task import Batch
from spcore.tensors import dropout, embedding, process
from spcore.tensors.engine import SweepFn, TorchEngine
from spcore.tensors.exhaustion import out_of_memory
from spcore.tensors.flat import can_flatten, flatten, head_flattens
from spcore.tensors.materialise import LoadReport, materialise
from spcore_torch import compiling, eight_bits, kernels, recomputing
from spcore_torch.options import SingleOptions


class Single(ParallelStrategy):
    """One process that holds everything."""

    inline = True
    decodes = True

    def __init__(self, options: SingleOptions) -> None:
        self.options = options

    def layout(self, world_size: int) -> Layout:
        """One process. Raises RefusalError for more."""
        if world_size != 1:
            raise RefusalError(
                f"strategy 'single' runs one process, asked for {world_size}; use strategy=ddp, or launch.processes=1"
            )
        return Layout({"data": 1})

    def options_for(self, axes: Mapping[str, int]) -> Mapping[str, Any] | None:
        """See `ParallelStrategy.options_for`."""
        return None if axes else {}

    def check(self, plan: Plan) -> list[Refusal]:
        """See `ParallelStrategy.check`."""
        return refusals(plan, self.options)

    def engine(self, plan: Plan, place: Place) -> Engine:
        """See `ParallelStrategy.engine`."""
        return SingleEngine(plan, place, self.options, device=resolve_device(plan.device))


def resolve_device(name: str) -> str:
    """ "auto" is the first CUDA device where there is one, else the CPU."""
    if name == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    return "cuda:0" if name == "cuda" else name


def flattens(model: LanguageModel, head: Head) -> bool:
    """Whether microbatches can be fed as one row: the model keeps segments apart, and targets can go along."""
    return model.anatomy(head).packs and head_flattens(head)


def _flatten_refusals(plan: Plan, options: SingleOptions) -> list[Refusal]:
    """Whether the option `flatten` can be honoured."""
    if options.flatten != "always" or flattens(plan.model, plan.head):
        return []
    why = f"family {plan.model.family!r} with a head of kind {plan.head.kind!r} cannot be fed without padding"
    return [Refusal("strategy.flatten always", why, "use strategy.flatten=auto")]


def refusals(plan: Plan, options: SingleOptions) -> list[Refusal]:
    """What PyTorch's eager engines cannot honour of a plan, and of the options that all of them have."""
    device = resolve_device(plan.device)
    if device.startswith("cuda") and int(device.partition(":")[2]) >= torch.cuda.device_count():
        return [
            Refusal(f"device {plan.device!r}", f"torch sees {torch.cuda.device_count()} CUDA devices", "use device=cpu")
        ]
    found = _precision_refusals(plan, device)
    if plan.adapter is not None:
        found.append(Refusal("adapter", "this strategy trains whole models only", "leave adapter out"))
    if plan.pack is not None and not plan.model.anatomy(plan.head).packs:
        why = f"family {plan.model.family!r} does not keep packed texts apart"
        found.append(Refusal(f"data.pack {plan.pack}", why, "leave data.pack out"))
    if plan.deterministic and device.startswith("cuda"):
        why = "kernels on CUDA are not held to it by this strategy"
        found.append(Refusal("train.deterministic", why, "use device=cpu, where it always holds"))
    found += [*_flatten_refusals(plan, options), *recomputing.refusals(plan, options.activation_checkpointing)]
    return [*found, *compiling.refusals(plan, options, device)]


def _precision_refusals(plan: Plan, device: str) -> list[Refusal]:
    precision, found = plan.precision, eight_bits.refusals(plan, device)
    subject = f"precision {precision.name!r}"
    if precision.matmul == "tf32" and not (device != "cpu" and torch.cuda.get_device_capability(device)[0] >= 8):
        found.append(Refusal(subject, f"device {device!r} has no TF32 products", "use precision=fp32 or bf16"))
    if (precision.parameter, precision.state) != ("float32", "float32"):
        why = f"parameters in {precision.parameter}, optimizer state in {precision.state}: both are float32 here"
        found.append(Refusal(subject, why, "use precision=fp32, bf16 or fp16"))
    return found


class SingleEngine(TorchEngine):
    """The engine of `single`, and what `ddp` runs on each rank. Has the ability `LendsDecoder`."""

    decodes_together = False

    def __init__(
        self, plan: Plan, place: Place, options: SingleOptions, *, device: str = "cpu", data_group: Any = None
    ) -> None:
        place = replace(place, device=device)
        process.ready()
        self.compiles = options.compile
        with process.plainly():
            self._build(plan, torch.device(device), alone=data_group is None)
        layers = self.layers(plan)
        self.compiler = compiling.Compiler(layers, speaks=place.is_writer) if options.compile else None
        recomputing.install(layers, options.activation_checkpointing, self.read_again())
        self.recomputes = options.activation_checkpointing
        super().__init__(plan, place, self.module, data_group=data_group, threads=options.threads)
        # On a GPU a flat row's attention is over a dense mask of tokens by tokens, which costs more than padding does.
        wanted = options.flatten == "always" or (
            options.flatten == "auto" and self.device.type == "cpu" and not options.compile
        )
        self.flat = wanted and flattens(plan.model, plan.head)

    def _build(self, plan: Plan, device: torch.device, alone: bool) -> None:
        module, self.report = self._made(plan, device)
        self.compute = None if plan.precision.compute == "float32" else getattr(torch, plan.precision.compute)
        # What is written for one operation at a time is in a compiler's way.
        self.kernel = (
            "default" if self.compiles else kernels.install(module, self.compute, device, fp8=plan.precision.fp8)
        )
        self.products = kernels.installed(module)
        if device.type == "cpu" and not self.compiles:
            dropout.install(module)
        if device.type == "cpu" and alone:  # buffers that are kept would be summed over ranks again
            embedding.install(module)
        self.module = module

    def layers(self, plan: Plan) -> list[torch.nn.Module]:
        """This rank's layers."""
        return recomputing.layers(self.module, plan.model.anatomy(plan.head))

    def read_again(self) -> list[recomputing.Again]:
        """What layers read beside their inputs."""
        return []

    def _made(self, plan: Plan, device: torch.device) -> tuple[torch.nn.Module, LoadReport]:
        """The module, or this rank's part of it, with its values."""
        module = plan.model.build(plan.head, plan.precision.parameter)
        return module, materialise(module, plan.model, plan.head, plan.seed, device)

    def sweep(
        self, microbatches: Sequence[Batch], fn: SweepFn, backward: bool, *, training: bool | None = None
    ) -> list[Any]:
        """See `TorchEngine.sweep`."""
        kernels.refresh(self.products)
        return super().sweep(microbatches, fn, backward, training=training)

    def prepared(self, batch: Batch) -> Batch:
        """Without padding where the model keeps segments apart."""
        return super().prepared(flatten(batch, self.plan.head) if self.flat and can_flatten(batch) else batch)

    def fed(self, batch: Batch) -> int:
        """Real tokens alone, where padding is left out."""
        if self.flat and can_flatten(batch):
            return int(batch.inputs["attention_mask"].sum())
        return super().fed(batch)

    def casting(self) -> contextlib.AbstractContextManager[Any]:
        """Autocast to the policy's compute format."""
        return autocast(self.device, self.compute)

    @contextlib.contextmanager
    def decoding(self, slots: int, length: int, encoder_length: int = 0) -> Iterator[Decodes]:
        """See `LendsDecoder.decoding`."""
        kernels.refresh(self.products)
        with self.decoding_with(self.module, slots, length, encoder_length) as decoder:
            yield decoder

    @contextlib.contextmanager
    def decoding_with(self, module: torch.nn.Module, slots: int, length: int, encoder_length: int) -> Iterator[Decodes]:
        """`decoding` over a module whose weights are whole."""
        assert isinstance(self.plan.model, Steps), "`assemble` refuses models that do not step"
        training = module.training
        with self.owned():
            module.eval()
            try:
                # Not inference_mode: what is kept for training beside the weights (their 16-bit copies) may be made here.
                with torch.no_grad(), self.casting():
                    yield self.plan.model.decoder(module, slots, length, encoder_length)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                said = (
                    f"{self.device}: not enough memory to generate for {slots} rows of {length + encoder_length} tokens"
                )
                raise RunError(said, hint="Try a smaller eval.batch_tokens") from error
            finally:
                module.train(training)

    def facts(self) -> Mapping[str, str]:
        """See `Engine.facts`."""
        parameters = self.own
        new = sorted({name.rpartition(".")[0] for name in self.report.initialised if name in parameters})
        return {
            "device": str(self.device), "threads": str(self.threads or torch.get_num_threads()),
            "precision": self.plan.precision.name, "linear kernel": self.kernel,
            "padding": "none: microbatches are fed flat" if self.flat else "rows are padded",
            "new parameters": ", ".join(new[:4]) + (f" and {len(new) - 4} more" if len(new) > 4 else "") or "none",
            "unused weights": str(len(self.report.unused)),
            "activation checkpointing": self.recomputes, "layers": "compiled" if self.compiles else "eager",
        }  # fmt: skip

    def close(self) -> None:
        """See `Engine.close`."""
        self.products = ()
        recomputing.uninstall(self.module)
        if self.compiler is not None:
            self.compiler.close()
        kernels.uninstall(self.module)
        dropout.uninstall(self.module)
        embedding.uninstall(self.module)
        super().close()


def autocast(
    device: torch.device, compute: torch.dtype | None, *, keeps: bool = True
) -> contextlib.AbstractContextManager[Any]:
    """Products in the compute format, None: float32. Softmax, norms and losses stay float32. keeps: a weight is cast once for all that is
    computed until the outermost autocast ends, an engine's own."""
    if compute is None:
        return contextlib.nullcontext()
    context: contextlib.AbstractContextManager[Any] = torch.autocast(device.type, compute, cache_enabled=keeps)
    return context
