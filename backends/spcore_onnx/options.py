"""Options of this package's runtime, and of its export."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Precision = Literal["float32", "float16", "bfloat16", "int8"]
FILES: dict[str, str] = {
    "float32": "model.onnx",
    "float16": "model_fp16.onnx",
    "bfloat16": "model_bf16.onnx",
    "int8": "model_quantized.onnx",
}
"""Precision -> file below `onnx/`, under the names that browsers' transformers.js asks for."""
FOLDER = "onnx"


class _Closed(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class RuntimeOptions(_Closed):
    """Runtime `onnx`."""

    precision: Precision = Field("float32", description="which exported file is run")
    provider: Literal["auto", "cpu", "cuda", "tensorrt"] = Field(
        "auto", description="ONNX Runtime's execution provider; auto: by the device"
    )
    allow_fallback: bool = Field(
        False, description="run on the CPU where the provider that was asked for does not work; else that is an error"
    )
    threads: int | None = Field(
        None,
        ge=1,
        lt=2**16,
        description="CPU threads; null: the cores that this process may use, container limits counted",
    )
    batch_tokens: int | None = Field(
        None, ge=16, lt=2**31, description="padded tokens of a batch at most; null: 512 on a CPU, 16384 on a GPU"
    )


class ExportOptions(_Closed):
    """What `export --runtime onnx` takes."""

    quantise: Literal["none", "dynamic", "static"] = Field(
        "none",
        description="int8 weights; activations measured anew in each batch (dynamic) or before, on --calibrate (static)",
    )
    dtype: Literal["float32", "float16", "bfloat16"] = Field(
        "float32", description="a further file in this format, for GPUs"
    )
    single_file: bool = Field(
        False,
        description="float32 tensors inside model.onnx, as browsers want it, not beside it, from where they are read faster",
    )
    max_drop: float | None = Field(
        None,
        ge=0,
        description="what a file of lower precision may lose of the task's metric on --eval-data; else it is not written",
    )
