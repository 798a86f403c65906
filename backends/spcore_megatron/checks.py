"""What strategy `megatron` refuses: of a plan's configuration alone, before any process starts and without Megatron being imported."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from spcore.errors import RefusalError
from spcore.interfaces.model import Stages
from spcore.interfaces.strategy import Plan, Refusal
from spcore_megatron import shim
from spcore_megatron.families import Family, family_of
from spcore_megatron.options import MegatronOptions


def refusals(plan: Plan, options: MegatronOptions) -> list[Refusal]:
    """See the module."""
    found = [
        *_device(plan),
        *_precision(plan),
        *_together(options),
        *_optimizer(plan, options),
        *_training(plan, options),
    ]
    try:
        family = family_of(plan.model.family, plan.bridges)
        settings = family.settings(plan.model.config)
        family.shape(plan.model.config)
    except RefusalError as error:
        return [*found, Refusal("strategy 'megatron'", error.message, error.hint or "")]
    return [
        *found,
        *_stacks(plan, options, family),
        *_sizes(options, settings),
        *_lengths(plan, options),
        *_head(plan),
        *_groups(plan, family),
    ]


def _device(plan: Plan) -> Iterator[Refusal]:
    subject = f"device {plan.device!r}"
    if plan.device not in ("auto", "cpu", "cuda"):
        yield Refusal(subject, "each process has a device of its own", "use device=cuda")
    elif plan.device == "cpu":
        if why := shim.unfit():
            yield Refusal(subject, why, "use device=cuda")
    elif not torch.cuda.is_available():
        yield Refusal(
            subject,
            "strategy 'megatron' is for GPUs, and torch sees none",
            "try it out on CPU processes with device=cpu, or use strategy=parallel",
        )


def _precision(plan: Plan) -> Iterator[Refusal]:
    precision, cuda = plan.precision, plan.device != "cpu" and torch.cuda.is_available()
    subject = f"precision {precision.name!r}"
    if precision.fp8 is not None:
        yield Refusal(subject, "8-bit products need Transformer Engine on a GPU that has them", "use precision=bf16")
    if precision.matmul == "tf32" and not (cuda and torch.cuda.get_device_capability()[0] >= 8):
        yield Refusal(subject, f"device {plan.device!r} has no TF32 products", "use precision=fp32 or bf16")
    scaling = precision.loss_scaling
    if scaling is not None and (scaling.growth, scaling.backoff) != (2.0, 0.5):
        why = f"its loss scale grows by {scaling.growth:g} and falls by {scaling.backoff:g}: Megatron's by 2 and 0.5"
        yield Refusal(subject, why, "use precision=fp16 or bf16")
    if (precision.parameter, precision.state) != ("float32", "float32"):
        why = f"parameters in {precision.parameter}, optimizer state in {precision.state}: both are float32 here"
        yield Refusal(subject, why, "use precision=fp32, bf16 or fp16")


def _together(options: MegatronOptions) -> Iterator[Refusal]:
    """Options that need each other."""
    needed: tuple[tuple[str, bool, bool, str], ...] = (
        ("sequence_parallel", options.sequence_parallel, options.tensor_parallel > 1, "tensor_parallel above 1"),
        ("virtual_pipeline", options.virtual_pipeline > 1, options.pipeline_parallel > 1, "pipeline_parallel above 1"),
        ("recompute_layers", options.recompute_layers is not None, options.recompute == "full", "recompute=full"),
        ("overlap_param_gather", options.overlap_param_gather, options.distributed_optimizer, "distributed_optimizer=true"),
        ("overlap_param_gather", options.overlap_param_gather, options.overlap_grad_reduce, "overlap_grad_reduce=true"),
        ("bucket_size", options.bucket_size is not None, options.overlap_grad_reduce, "overlap_grad_reduce=true"),
    )  # fmt: skip
    for name, given, there, what in needed:
        if given and not there:
            why = f"it does nothing without strategy.{what}"
            yield Refusal(f"strategy.{name} {getattr(options, name)}", why, f"set strategy.{what}, or leave it out")
    if options.virtual_pipeline > 1 and options.pipeline_parallel == 2 and not options.overlap_p2p:
        why = "between two processes a batch pairs messages of different stages with each other"
        yield Refusal("strategy.overlap_p2p false", why, "leave it out")


def _optimizer(plan: Plan, options: MegatronOptions) -> Iterator[Refusal]:
    if plan.optimizer is None:
        return
    name = type(plan.optimizer).__name__.lower()
    if plan.optimizer.family not in ("adam", "sgd"):
        yield Refusal(
            f"optimizer {name!r}",
            "Megatron has optimizers of its own: Adam and SGD",
            "use optimizer=adamw or sgd, or another strategy",
        )
    elif plan.optimizer.hyper.get("nesterov"):
        yield Refusal("optimizer.nesterov", "Megatron's SGD has none", "leave it out")
    elif options.distributed_optimizer and plan.optimizer.family != "adam":
        why = f"Megatron spreads the state of Adam alone, and optimizer is {name!r}"
        yield Refusal("strategy.distributed_optimizer true", why, "leave it out, or use optimizer=adamw")


def _training(plan: Plan, options: MegatronOptions) -> Iterator[Refusal]:
    if plan.adapter is not None:
        yield Refusal("adapter", "this strategy trains whole models only", "leave adapter out")
    cuda = plan.device != "cpu"
    if plan.deterministic and cuda:
        yield Refusal(
            "train.deterministic",
            "kernels on CUDA are not held to it by this strategy",
            "leave it out, or use device=cpu",
        )
    if options.offload > 0:
        there, kept = (
            "on device 'cpu' the optimizer's state is in its memory already",
            "what it keeps on the CPU is in no checkpoint yet",
        )
        why = kept if cuda else there
        yield Refusal(f"strategy.offload {options.offload:g}", why, "leave it out")
    data = plan.layout.data_size
    if plan.global_batch_size < data:
        why = f"{data} groups of processes share a step, some would have nothing to do"
        hint = f"make it {data} or more, or start fewer processes"
        yield Refusal(f"train.global_batch_size {plan.global_batch_size}", why, hint)


def nearest(size: int, fits: Callable[[int], bool], most: int) -> str:
    """The sizes next to `size`, up to `most`, that would do, for a hint."""
    below = next((n for n in range(min(size, most + 1) - 1, 0, -1) if fits(n)), None)
    above = next((n for n in range(size + 1, most + 1) if fits(n)), None)
    return " or ".join(str(n) for n in (below, above) if n is not None)


def _sizes(options: MegatronOptions, settings: Mapping[str, Any]) -> Iterator[Refusal]:
    """What the sizes of the axes have to divide."""
    heads = settings["num_attention_heads"]
    groups = settings.get("num_query_groups") or heads
    widths = [settings.get(name) for name in ("ffn_hidden_size", "moe_ffn_hidden_size")]
    wrong: tuple[tuple[str, Callable[[int], bool]], ...] = (
        (f"the model's {heads} attention heads do not divide by it", lambda n: heads % n == 0),
        (
            f"the model has {groups} heads of keys and values; of the two numbers one must divide the other",
            lambda n: groups % n == 0 or n % groups == 0,
        ),
        *(
            (f"the {width} rows of a layer's MLP do not divide by it", lambda n, width=width: width % n == 0)
            for width in widths
            if width is not None
        ),
    )
    yield from _size("tensor_parallel", options.tensor_parallel, wrong, heads)
    layers, virtual = settings["num_layers"], options.virtual_pipeline
    each = f" of {virtual} stages each" if virtual > 1 else ""
    why = f"the model's {layers} layers do not divide by that many processes{each}"
    if options.pipeline_parallel > 1:
        yield from _size(
            "pipeline_parallel", options.pipeline_parallel, ((why, lambda n: layers % (n * virtual) == 0),), layers
        )
    yield from _experts(options, settings.get("num_moe_experts"))


def _stacks(plan: Plan, options: MegatronOptions, family: Family) -> Iterator[Refusal]:
    """An encoder and a decoder lie on one stage, with all positions of both."""
    wanted = {
        f"pipeline_parallel {options.pipeline_parallel}": options.pipeline_parallel > 1,
        f"context_parallel {options.context_parallel}": options.context_parallel > 1,
        "sequence_parallel": options.sequence_parallel,
    }
    for name in (name for name, given in wanted.items() if given and family.encoder):
        why = f"family {plan.model.family!r} has an encoder and a decoder, which lie on one process with all their positions"
        yield Refusal(f"strategy.{name}", why, "leave it out; tensor_parallel and data_parallel are there")


def _size(name: str, size: int, wrong: tuple[tuple[str, Callable[[int], bool]], ...], most: int) -> Iterator[Refusal]:
    for why, fits in wrong:
        if not fits(size):
            others = nearest(size, lambda n: all(fits(n) for _, fits in wrong), most)
            yield Refusal(f"strategy.{name} {size}", why, f"use {others}" if others else "leave it out")
            return


def _experts(options: MegatronOptions, experts: int | None) -> Iterator[Refusal]:
    size = options.expert_parallel
    if experts is not None and options.tensor_parallel > 1 and not options.sequence_parallel:
        why = "processes that share a layer send its experts tokens of their own, which are positions of their own"
        subject = f"strategy.tensor_parallel {options.tensor_parallel} with experts"
        yield Refusal(subject, why, "set strategy.sequence_parallel")
    if size == 1:
        return
    subject = f"strategy.expert_parallel {size}"
    if experts is None:
        yield Refusal(subject, "the model has no experts", "leave it out")
    elif experts % size:
        others = nearest(size, lambda n: experts % n == 0, experts)
        yield Refusal(subject, f"the model's {experts} experts do not divide by it", f"use {others}")
    elif options.data_parallel is not None and (options.data_parallel * options.context_parallel) % size:
        there = options.data_parallel * options.context_parallel
        others = nearest(size, lambda n: there % n == 0 and experts % n == 0, there)
        yield Refusal(
            subject, f"the {there} processes of data_parallel and context_parallel do not divide by it", f"use {others}"
        )


def _lengths(plan: Plan, options: MegatronOptions) -> Iterator[Refusal]:
    """Lengths are rounded up to what the axes divide; a table of positions may be too short for that."""
    from spcore_megatron.strategy import Megatron

    multiple, most = Megatron(options).batch_rule(plan).length_multiple, plan.model.processor.max_length
    if most is None or plan.max_length is None or -(-plan.max_length // multiple) * multiple <= most:
        return
    names = " and ".join(
        f"strategy.{name}"
        for name in ("context_parallel", "sequence_parallel")
        if getattr(options, name) > 1 or getattr(options, name) is True
    )
    why = f"lengths are rounded up to a multiple of {multiple}, {plan.max_length} to more than the model's {most} positions"
    yield Refusal(names, why, f"make data.max_length {most // multiple * multiple} or less")


def _head(plan: Plan) -> Iterator[Refusal]:
    """Other heads than the vocabulary's are what follows the layers in Hugging Face's module."""
    if plan.head.kind == "vocabulary":
        return
    try:
        if not isinstance(plan.model, Stages):
            raise RefusalError("its plugin cannot cut it into stages")
        plan.model.depth(plan.head)
    except RefusalError as error:
        yield Refusal(
            f"a head of kind {plan.head.kind!r} on family {plan.model.family!r}", error.message, "use another strategy"
        )


def _groups(plan: Plan, family: Family) -> Iterator[Refusal]:
    """Tensors that lie in one of Megatron's are one parameter to its optimizer."""
    if plan.optimizer is None:
        return
    shapes = {name: tuple(p.shape) for name, p in plan.model.build(plan.head).named_parameters()}
    base = plan.model.anatomy(plan.head).base
    for rule in family.rules(plan.model.config).values():
        keys: dict[tuple[str, ...], tuple[str, Any]] = {}
        for source in rule.sources if len(rule.sources) > 1 else ():
            path = re.escape(f"{base}.{source}" if base else source).replace(r"\*", r"(\d+)")
            for name, shape in shapes.items():
                if found := re.fullmatch(rf"{path}\.(\w+)", name):
                    first = keys.setdefault(found.groups(), (name, plan.optimizer.groups(name, shape)))
                    if plan.optimizer.groups(name, shape) != first[1]:
                        why = (
                            f"{first[0]} and {name} are one tensor in Megatron, and would be updated in different ways"
                        )
                        yield Refusal("optimizer.no_decay", why, "name both, or neither")
                        return
