"""Options of this package's components."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

_MOST = 2**16


class MegatronOptions(BaseModel):
    """Strategy `megatron`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    tensor_parallel: int = Field(
        1, ge=1, lt=_MOST, description="processes that share each layer's matrices, heads and vocabulary"
    )
    sequence_parallel: bool = Field(
        False,
        description="beside tensor_parallel: norms, dropout and what they keep for backward are shared too, each process has its part of the "
        "positions there; saves activations, costs nothing",
    )
    pipeline_parallel: int = Field(1, ge=1, lt=_MOST, description="processes that share the layers, one after another")
    virtual_pipeline: int = Field(
        1,
        ge=1,
        lt=_MOST,
        description="stages of each process of a pipeline (1: as one, alternating forward and backward; more: interleaved, which waits less "
        "and sends more)",
    )
    context_parallel: int = Field(1, ge=1, lt=_MOST, description="processes that share each text's positions")
    data_parallel: int | None = Field(
        None,
        ge=1,
        lt=_MOST,
        description="groups of processes that share a step's rows; null: as many as there are processes for",
    )
    expert_parallel: int = Field(
        1,
        ge=1,
        lt=_MOST,
        description="of the processes of data_parallel and context_parallel, how many share the experts of a layer; everything else they hold alike",
    )
    distributed_optimizer: bool = Field(
        False,
        description="spread optimizer state (and 16-bit runs' fp32 parameters) over data_parallel; gradients are reduced and scattered, "
        "parameters gathered: saves 8 to 12 bytes a parameter, divided by its size",
    )
    recompute: Literal["none", "selective", "full"] = Field(
        "none",
        description="what backward computes again instead of keeping: attention's scores and what follows them (selective: most of a long "
        "text's memory for little time), or whole layers (full: all but each layer's input, for a third more time)",
    )
    recompute_layers: int | None = Field(
        None,
        ge=1,
        lt=_MOST,
        description="under recompute full: so many layers of each stage alone, the others keep theirs; null: all of them",
    )
    overlap_grad_reduce: bool = Field(
        False, description="sum gradients over data_parallel while backward goes on, bucket by bucket; saves waiting"
    )
    overlap_param_gather: bool = Field(
        False,
        description="beside distributed_optimizer and overlap_grad_reduce: gather updated parameters while the next forward pass begins",
    )
    overlap_p2p: bool = Field(
        True,
        description="under virtual_pipeline: send and receive between stages while others are computed; false: in one batch, which pairs "
        "messages wrongly between two processes",
    )
    bucket_size: int | None = Field(
        None,
        ge=1,
        lt=2**40,
        description="parameters of a bucket of overlap_grad_reduce; null: 40 million, or a million a process of data_parallel if that is more",
    )
    threads: int | None = Field(None, ge=1, lt=_MOST, description="CPU threads of a process; null: as torch has it")
