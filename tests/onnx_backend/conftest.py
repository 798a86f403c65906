"""A graph is traced once for all tests that export the same tiny BERT: that is what takes long."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import pytest
from exported import TRACE

from spcore_onnx import tracing

_TRACED: dict[str, Any] = {}


@pytest.fixture
def traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Meanwhile, tracing gives a copy of the first graph that was traced."""

    def trace(*args: Any) -> ir.Model:
        if "graph" not in _TRACED:
            _TRACED["graph"] = ir.serde.serialize_model(TRACE(*args))
        return ir.serde.deserialize_model(_TRACED["graph"])

    monkeypatch.setattr(tracing, "trace", trace)
