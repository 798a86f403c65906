"""Files of lower precision, made from the float32 one: int8 weights for CPUs, 16-bit floats for GPUs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

from spcore.errors import RefusalError
from spcore.interfaces.runtime import Samples

OPERATORS = ["MatMul", "Gemm", "Gather"]
"""What is quantised: products with weights, and tables of embeddings, most of a small encoder's bytes."""
CALIBRATION_TOKENS = 1024
"""Padded tokens of a batch of calibration data."""
CALIBRATION_BATCHES = 32


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Calibration batches as the quantiser asks for them."""

    def __init__(self, samples: Samples, names: list[str]) -> None:
        self._names, self._batches = names, samples.batches(CALIBRATION_TOKENS)
        self._left = CALIBRATION_BATCHES

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch's inputs; None at the end."""
        batch = next(self._batches, None) if self._left else None
        self._left -= 1
        return None if batch is None else {name: batch.inputs[name] for name in self._names}


def to_int8(source: Path, target: Path, samples: Samples | None, *, large: bool) -> None:
    """Weights in int8, one scale a column. samples: activations get scales fitted to these rows; None: new scales in each batch.
    large: tensors go into a file beside `target`."""
    with _quiet():
        if samples is None:
            quantize_dynamic(
                source, target, weight_type=QuantType.QInt8, per_channel=True, op_types_to_quantize=OPERATORS,
                use_external_data_format=large,
            )  # fmt: skip
            return
        names = [value.name for value in onnx.load(source, load_external_data=False).graph.input]
        quantize_static(
            source, target, _Reader(samples, names), quant_format=QuantFormat.QDQ, weight_type=QuantType.QInt8,
            activation_type=QuantType.QUInt8, per_channel=True, op_types_to_quantize=["MatMul", "Gemm"],
            use_external_data_format=large, extra_options={"ActivationSymmetric": False},
        )  # fmt: skip


def to_half(source: Path, target: Path, precision: str, *, large: bool) -> None:
    """Weights and hidden states in 16 bits; inputs and outputs as they were. Raises RefusalError for bfloat16, which needs a GPU's
    operators."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    if precision != "float16":
        raise RefusalError(f"export: dtype {precision!r} is not written for ONNX Runtime; use dtype=float16")
    converted: Any = convert_float_to_float16(onnx.load(source), keep_io_types=True)
    location = {"save_as_external_data": True, "location": f"{target.name}_data"} if large else {}
    onnx.save(converted, target, **location)


@contextmanager
def _quiet() -> Iterator[None]:
    """The quantiser advises on the root logger."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(before)
