"""Small questions to a graph, and how it is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

LARGEST = 2**31 - 2**24
"""Bytes of tensors in one .onnx file, which is a protocol buffer and ends at 2 GiB; more lie in a file beside it."""


def array(value: ir.Value | None) -> Any:
    """A constant's content as an array, None for what is computed."""
    return None if value is None or value.const_value is None else value.const_value.numpy()


def constant(graph: ir.Graph, name: str, content: np.ndarray | np.generic) -> ir.Value:
    """A constant of the graph; the one that has this name already, if there is one."""
    if name in graph.initializers:
        return graph.initializers[name]
    value = ir.val(name, const_value=ir.tensor(np.ascontiguousarray(content).reshape(np.shape(content)), name=name))
    graph.register_initializer(value)
    return value


def rank(value: ir.Value | None) -> int | None:
    """Number of axes, where it is known."""
    return None if value is None or value.shape is None else len(value.shape)


def width(value: ir.Value | None) -> int | None:
    """The last axis, where it is a number."""
    if value is None or value.shape is None or not len(value.shape):
        return None
    last = value.shape[-1]
    return last if isinstance(last, int) else None


def size(model: ir.Model) -> int:
    """Bytes of its constants."""
    return sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)


def fits(model: ir.Model) -> bool:
    """Whether one .onnx file holds it."""
    return size(model) <= LARGEST


def save(model: ir.Model, file: Path, *, beside: bool = False) -> None:
    """Write a graph. beside: its tensors into a file beside it, NAME_data; so too where one file cannot hold them."""
    if beside or not fits(model):
        ir.save(model, file, external_data=f"{file.name}_data")
    else:
        ir.save(ir.external_data.load_to_model(model), file)


def sweep(graph: ir.Graph) -> None:
    """Remove nodes and constants that nothing uses."""
    RemoveUnusedNodesPass()(ir.Model(graph, ir_version=10))
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]
