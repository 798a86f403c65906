"""What this package offers."""

from __future__ import annotations

from collections.abc import Mapping

from spcore.components import Component
from spcore.hooks import hookimpl

SPCORE_API = "1.0"


@hookimpl
def spcore_components() -> list[Component]:
    """Runtime `onnx`."""
    return [
        Component(
            "runtime",
            "onnx",
            "spcore_onnx.runtime:OnnxRuntime",
            "ONNX Runtime, after `export --runtime onnx`",
            options="spcore_onnx.options:RuntimeOptions",
            requires=("onnxruntime>=1.31 | onnxruntime-gpu>=1.31",),
            extra="onnx",
        )
    ]


@hookimpl
def spcore_facts() -> Mapping[str, str]:
    """The installed ONNX Runtime, its providers, its threads, and whether two of them clash."""
    from spcore_onnx.machine import facts

    return facts()
