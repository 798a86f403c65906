"""Options of this package's components."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

_NAMES: dict[str, Any] = {"known_as": ["num_processes", "nproc_per_node", "world_size", "num_gpus", "gpus", "devices"]}


class _Closed(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SingleOptions(_Closed):
    """Strategies `single` and `ddp`."""

    flatten: Literal["auto", "always", "never"] = Field(
        "auto",
        description="feed microbatches as one row without padding: where that is possible and faster (auto: on a CPU), "
        "wherever it is possible, else refuse (always), or never; results are the same",
    )
    threads: int | None = Field(None, ge=1, lt=2**16, description="CPU threads of the run; null: as torch has it")
    activation_checkpointing: Literal["none", "full", "selective"] = Field(
        "none",
        description="what backward passes need of a layer is computed again: all but its inputs (full), or what costs little, without "
        "matrix products and fused attention (selective); less memory, more time, the same gradients",
        json_schema_extra={"known_as": ["gradient_checkpointing", "recompute", "recompute_granularity"]},
    )
    compile: bool = Field(
        False,
        description="compile the layers for training steps (torch.compile); what cannot be compiled runs as it is, and that is told",
        json_schema_extra={"known_as": ["torch_compile"]},
    )


class ShardedOptions(SingleOptions):
    """Strategy `fsdp`."""

    shard_size: int | None = Field(
        None, ge=2, lt=2**16,
        description="processes that one copy of the model is spread over, such as the GPUs of a node; each such group holds a copy, and "
        "gradients are summed over the groups; null: all processes hold one copy",
    )  # fmt: skip
    reshard_after_forward: bool = Field(
        True,
        description="free a layer's gathered parameters after its forward pass and gather them again for backward: less memory",
    )
    offload: bool = Field(
        False,
        description="keep parameters, gradients and optimizer state in the CPU's memory, of which a GPU has a layer at a time",
    )


class ParallelOptions(SingleOptions):
    """Strategy `parallel`."""

    tensor_parallel: int = Field(
        1, ge=1, lt=2**16, description="processes that share each layer's matrices, heads and vocabulary"
    )
    pipeline_parallel: int = Field(1, ge=1, lt=2**16, description="processes that share the layers, one after another")
    context_parallel: int = Field(1, ge=1, lt=2**16, description="processes that share each text's positions")
    data_parallel: int | None = Field(
        None,
        ge=1,
        lt=2**16,
        description="groups of processes that share a step's rows; null: as many as there are processes for",
    )
    sequence_parallel: bool = Field(
        False,
        description="beside tensor_parallel: between matrices, each process has its part of the positions, not all of them",
    )
    schedule: Literal["gpipe", "1f1b", "interleaved"] = Field(
        "1f1b",
        description="order of a pipeline's work: all forward, then all backward (gpipe); alternating, which needs less memory (1f1b); "
        "alternating over several stages a process, which waits less (interleaved); results are the same",
    )
    chunks: int = Field(
        1,
        ge=1,
        lt=2**16,
        description="stages of each process of a pipeline, more than 1 under schedule interleaved alone",
    )


class InlineOptions(_Closed):
    """Launcher `inline`."""

    processes: int = Field(
        1, ge=1, le=1, description="processes to start: one, the caller's own", json_schema_extra=_NAMES
    )


class LocalOptions(_Closed):
    """Launcher `local`."""

    processes: int = Field(
        1, ge=1, lt=2**16, description="processes to start on this machine", json_schema_extra=_NAMES
    )
    max_restarts: int = Field(
        0, ge=0, lt=2**31, description="how often all are started again from the last checkpoint after one failed"
    )


class EnvOptions(_Closed):
    """Launcher `env`. What the environment says needs none; `slimpajama launch --print` does."""

    nodes: int = Field(1, ge=1, lt=2**16, description="machines that the processes are started on")
    processes_per_node: int | None = Field(
        None, ge=1, lt=2**16, description="processes that are started on each; null: any number"
    )
    address: str | None = Field(
        None,
        min_length=1,
        description="host or host:port of one of several machines, where torchrun's processes meet; needed by `launch --print` alone",
    )


class RuntimeOptions(_Closed):
    """Runtime `torch`."""

    dtype: Literal["float32", "bfloat16"] = Field("float32", description="format of matrix products")
    batch_tokens: int | None = Field(
        None, ge=16, lt=2**31, description="padded tokens of a batch at most; null: 2048 on a CPU, 8192 on a GPU"
    )
    slots: int = Field(
        8, ge=1, lt=2**16, description="answers that are generated at a time, each beam and each of `n` samples counted"
    )
    context: int | None = Field(
        None,
        ge=1,
        lt=2**31,
        description="tokens of a prompt and its answer together at most (of an encoder-decoder: of each); memory is taken as they come; "
        "null: as many as the model has positions, 2048 where it has no limit",
    )
