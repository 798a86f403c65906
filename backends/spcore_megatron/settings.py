"""What a plan and the options say, in megatron-core's words."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from megatron.core import parallel_state as ps
from megatron.core.distributed import DistributedDataParallelConfig
from megatron.core.optimizer import OptimizerConfig

from spcore.interfaces.strategy import Plan
from spcore.tensors.stepping import SMALLEST_SCALE
from spcore_megatron.options import MegatronOptions


def dtype_of(plan: Plan) -> torch.dtype:
    """Of the parameters that are multiplied with; the optimizer's own are float32 in any case."""
    dtype: torch.dtype = getattr(torch, plan.precision.compute)
    return dtype


def transformer(plan: Plan, options: MegatronOptions, device: torch.device) -> dict[str, Any]:
    """Arguments of `TransformerConfig` that no family decides."""
    dtype, compiled = dtype_of(plan), device.type == "cuda"
    staged = options.virtual_pipeline > 1
    return {
        "tensor_model_parallel_size": options.tensor_parallel,
        "sequence_parallel": options.sequence_parallel,
        "pipeline_model_parallel_size": options.pipeline_parallel,
        "virtual_pipeline_model_parallel_size": options.virtual_pipeline if staged else None,
        "context_parallel_size": options.context_parallel,
        "expert_model_parallel_size": options.expert_parallel,
        "expert_tensor_parallel_size": expert_tensor_parallel(options),
        "params_dtype": dtype,
        "pipeline_dtype": dtype,
        "bf16": dtype == torch.bfloat16,
        "fp16": dtype == torch.float16,
        # Values come from the model's own files and initialisation, the same at any layout.
        "use_cpu_initialization": True,
        "perform_initialization": False,
        # Each term's weight is summed over the whole step before the forward pass: Megatron is to divide by nothing.
        "calculate_per_token_loss": True,
        "attention_softmax_in_fp32": True,
        "bias_activation_fusion": compiled,
        "bias_dropout_fusion": compiled,
        "masked_softmax_fusion": False,
        "gradient_accumulation_fusion": False,
        "overlap_p2p_comm": staged and options.overlap_p2p,
        "batch_p2p_comm": not (staged and options.overlap_p2p),
        **_recompute(options),
    }


def expert_tensor_parallel(options: MegatronOptions) -> int:
    """Processes that an expert is cut over: whole ones are shared out, else each is cut as all layers are. Both at once would gather as many
    tokens as came to each process, which gloo cannot."""
    return 1 if options.expert_parallel > 1 else options.tensor_parallel


def _recompute(options: MegatronOptions) -> dict[str, Any]:
    if options.recompute == "none":
        return {}
    if options.recompute == "selective":
        return {"recompute_granularity": "selective"}
    layers = options.recompute_layers
    method = {"recompute_method": "uniform" if layers is None else "block", "recompute_num_layers": layers or 1}
    return {"recompute_granularity": "full", **method}


def reduction(options: MegatronOptions) -> DistributedDataParallelConfig:
    """Gradients are added up and reduced in float32."""
    return DistributedDataParallelConfig(
        grad_reduce_in_fp32=True,
        overlap_grad_reduce=options.overlap_grad_reduce,
        overlap_param_gather=options.overlap_param_gather,
        use_distributed_optimizer=options.distributed_optimizer,
        bucket_size=options.bucket_size,
    )


def optimizer(plan: Plan, options: MegatronOptions) -> OptimizerConfig:
    """Weight decay is the groups' own; the engine clips."""
    assert plan.optimizer is not None, "an engine that trains has an optimizer"
    hyper, scaling, dtype = plan.optimizer.hyper, plan.precision.loss_scaling, dtype_of(plan)
    family: dict[str, Any] = (
        {"adam_beta1": hyper["betas"][0], "adam_beta2": hyper["betas"][1], "adam_eps": hyper["eps"]}
        if plan.optimizer.family == "adam"
        else {"sgd_momentum": hyper["momentum"]}
    )
    # Without hysteresis: the scale backs off at the first overflow, as the policy says.
    scale: dict[str, Any] = (
        {
            "initial_loss_scale": scaling.initial, "min_loss_scale": SMALLEST_SCALE, "loss_scale_window": scaling.interval,
            "hysteresis": 1,
        }
        if scaling is not None
        else {}
    )  # fmt: skip
    return OptimizerConfig(
        optimizer=plan.optimizer.family,
        lr=plan.optimizer.lr,
        min_lr=0.0,
        weight_decay=0.0,
        clip_grad=0.0,
        bf16=dtype == torch.bfloat16,
        fp16=dtype == torch.float16,
        params_dtype=dtype,
        use_distributed_optimizer=options.distributed_optimizer,
        overlap_param_gather=options.overlap_param_gather,
        **family,
        **scale,
    )


@contextlib.contextmanager
def groups(options: MegatronOptions) -> Iterator[None]:
    """Megatron's process groups, over the default one."""
    ps.initialize_model_parallel(
        tensor_model_parallel_size=options.tensor_parallel,
        pipeline_model_parallel_size=options.pipeline_parallel,
        virtual_pipeline_model_parallel_size=options.virtual_pipeline if options.virtual_pipeline > 1 else None,
        context_parallel_size=options.context_parallel,
        expert_model_parallel_size=options.expert_parallel,
        expert_tensor_parallel_size=expert_tensor_parallel(options),
    )
    try:
        yield
    finally:
        # Megatron forgets them, and three threads of each would stay.
        for group in dict.fromkeys(group for group in ps._global_process_group_list or () if group is not None):
            torch.distributed.destroy_process_group(group)
        ps.destroy_model_parallel()
