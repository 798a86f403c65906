"""Graph optimisation for encoders, after which attention is one node a layer and nothing is computed that no output needs.

Attention leaves `tracing` as one `com.microsoft` node, layer normalisation and GELU as the one operator that ONNX has for each; here
the shuffling between them goes, and the work whose result is thrown away. Values keep their names where they stand for the same
numbers, so that layers can still be compared with the module's; numbers change by rounding alone.

Bigger operators were tried on a CPU and left out: ONNX Runtime 1.32 takes 3.4 times as long for SkipLayerNormalization as for the sums
and the LayerNormalization that it stands for, and biases inside attention or BiasGelu cannot join an int8 product, which adds them for
nothing. On a GPU ONNX Runtime makes these itself of what is written here.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from spcore_onnx.graphs import array, constant, rank, sweep, width

MICROSOFT = "com.microsoft"


def fuse(model: ir.Model) -> dict[str, int]:
    """Run all passes; operator -> how many there are now."""
    graph = model.graph
    model.opset_imports[MICROSOFT] = 1
    for _ in range(2):  # what one pass uncovers, another can use
        for run in PASSES:
            run(graph)
            sweep(graph)
    found: dict[str, int] = {}
    for node in graph:
        if node.domain == MICROSOFT or node.op_type in ("Gelu", "LayerNormalization"):
            found[node.op_type] = found.get(node.op_type, 0) + 1
    return found


def unshape_attention(graph: ir.Graph) -> int:
    """Rows that are split into heads and joined again before and after attention are left as they are."""
    found = 0
    for node in _all(graph, "MultiHeadAttention"):
        for at in range(3):
            value = node.inputs[at]
            wide = width(value)
            source = value
            while source is not None and (made := source.producer()) is not None and made.op_type == "Reshape":
                source = made.inputs[0]
                if wide is not None and rank(source) == 3 and width(source) == wide:
                    value = source
            if value is not node.inputs[at]:
                node.replace_input_with(at, value)
                found += 1
        value = node.outputs[0]
        wide = width(node.inputs[2])
        after = value
        while (only := _only_use(after)) is not None and only.op_type == "Reshape":
            after = only.outputs[0]
            if wide is not None and rank(after) == 3 and width(after) == wide:
                value = after
        if value is not node.outputs[0]:
            _take_place(graph, value, node.outputs[0])
            found += 1
    return found


def first_token(graph: ir.Graph) -> int:
    """Where a head reads each sequence's first token alone, the last layer computes no other: all but its keys and values."""
    readers = [node for node in graph if _reads_first(node)]
    rows = {id(node) for node in readers}
    chosen: list[ir.Node] = []
    for node in reversed(list(graph)):
        uses = list(node.outputs[0].uses()) if node.outputs else []
        inside = uses and all(id(use.node) in rows and use.idx in _by_row(use.node) for use in uses)
        if (
            inside
            and _by_row(node)
            and not any(value.is_graph_output() for value in node.outputs)
            and node not in readers
        ):
            rows.add(id(node))
            chosen.append(node)
    if not chosen:
        return 0
    cut: dict[tuple[int, int], ir.Value] = {}
    for node in reversed(chosen):
        for at, axis in _by_row(node).items():
            value = node.inputs[at]
            if value is not None and array(value) is None and id(value.producer()) not in rows:
                key = (id(value), axis)
                if key not in cut:
                    cut[key] = _first_of(graph, node, value, axis)
                node.replace_input_with(at, cut[key])
        for output in node.outputs:
            if output.shape is not None and len(output.shape) == 3:
                output.shape = ir.Shape([output.shape[0], 1, output.shape[2]])
    return len(chosen)


def _reads_first(node: ir.Node) -> bool:
    """Whether a node takes [S, 1, H] or [S, H], the first tokens, of [S, L, H]."""
    if rank(node.inputs[0] if node.inputs else None) != 3:
        return False
    if node.op_type == "Gather":
        return _integer(node, "axis", 0) == 1 and array(node.inputs[1]) is not None and not array(node.inputs[1]).any()
    if node.op_type != "Slice" or len(node.inputs) < 4:
        return False
    arrays = [array(value) for value in node.inputs[1:]]
    return all(a is not None and a.size == 1 for a in arrays) and [int(a.item()) for a in arrays[:3]] == [0, 1, 1]


def _by_row(node: ir.Node) -> dict[int, int]:
    """Input -> its axis of tokens, for inputs that a node works on token by token; {} for nodes that mix tokens."""
    if _reads_first(node):
        return {0: 1}
    if rank(node.outputs[0]) != 3:
        return {}
    if node.op_type == "MultiHeadAttention":
        bias = node.inputs[5] if len(node.inputs) > 5 else None
        return {0: 1, **({5: 2} if bias is not None else {})}
    if node.op_type == "MatMul":
        return {0: 1} if array(node.inputs[1]) is not None else {}
    if node.op_type in ("SkipLayerNormalization", "Add", "Mul"):
        full = [at for at, value in enumerate(node.inputs[:2]) if array(value) is None]
        return dict.fromkeys(full, 1) if all(rank(node.inputs[at]) == 3 for at in full) else {}
    if node.op_type in ("LayerNormalization", "BiasGelu", "FastGelu", "Gelu"):
        return {0: 1}
    return {}


def _first_of(graph: ir.Graph, before: ir.Node, value: ir.Value, axis: int) -> ir.Value:
    """A value's first entry along an axis, which stays."""
    bounds = [
        constant(graph, f"first_{what}_{n}", np.array([n], np.int64))
        for what, n in (("from", 0), ("to", 1), ("axis", axis))
    ]
    node = ir.node("Slice", [value, *bounds], name=f"first_of_{value.name}_{axis}")
    cut = node.outputs[0]
    cut.name, cut.type = f"{value.name}_first_{axis}", value.type
    if value.shape is not None:
        cut.shape = ir.Shape([1 if n == axis else size for n, size in enumerate(value.shape)])
    graph.insert_before(before, node)
    return cut


PASSES: tuple[Callable[[ir.Graph], int], ...] = (unshape_attention, first_token)


def _all(graph: ir.Graph, operator: str) -> list[ir.Node]:
    return [node for node in graph if node.op_type == operator]


def _integer(node: ir.Node, name: str, default: int) -> int:
    return node.attributes[name].as_int() if name in node.attributes else default


def _only_use(value: ir.Value) -> ir.Node | None:
    uses = list(value.uses())
    return uses[0].node if len(uses) == 1 and not value.is_graph_output() else None


def _take_place(graph: ir.Graph, old: ir.Value, new: ir.Value) -> None:
    """`new` is used wherever `old` was, and has its name."""
    new.shape, new.type, name = old.shape, old.type, old.name
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    old.name, new.name = f"{name}_before", name
