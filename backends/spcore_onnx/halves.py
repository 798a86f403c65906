"""A graph in 16-bit floats: constants and everything computed from them; inputs and outputs stay as they were."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from spcore_onnx.graphs import array

_TYPES = {"float16": ir.DataType.FLOAT16, "bfloat16": ir.DataType.BFLOAT16}


def halve(model: ir.Model, precision: str) -> ir.Model:
    """The same graph, changed in place. What float16 does not hold becomes its nearest number: the check of the file finds what matters."""
    kind, graph = _TYPES[precision], model.graph
    for name, value in list(graph.initializers.items()):
        content = array(value)
        if content is None or content.dtype != np.float32:
            continue
        if precision == "float16":
            # A mask's "never" is float32's lowest number; float16's lowest is as good.
            content = np.clip(content, *(np.finfo(np.float16).min, np.finfo(np.float16).max))
        value.const_value = ir.tensor(content.astype(kind.numpy()), dtype=kind, name=name)
        value.type = ir.TensorType(kind)
    for node in graph:
        if node.op_type == "Cast" and node.attributes["to"].as_int() == ir.DataType.FLOAT:
            node.attributes["to"] = ir.AttrInt64("to", int(kind))
        for output in node.outputs:
            if output.dtype == ir.DataType.FLOAT:
                output.type = ir.TensorType(kind)
    for at, output in enumerate(graph.outputs):
        if output.dtype != kind:
            continue
        cast = ir.node("Cast", [output], {"to": ir.DataType.FLOAT}, name=f"whole_{output.name}")
        name, shape = output.name, output.shape
        ir.convenience.rename_values([output], [f"{name}_half"])
        cast.outputs[0].name, cast.outputs[0].shape = name, shape
        cast.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        graph.append(cast)
        graph.outputs[at] = cast.outputs[0]
    return model
