"""Graph optimisation for encoders: chains of operators become the runtime's own fused ones (domain com.microsoft).

Each pass takes a graph as `tracing.trace` gives it and returns how often it found its pattern. Values keep their names where
they stand for the same numbers, so that layers can still be compared with the module's; numbers change by rounding alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

MICROSOFT = "com.microsoft"
MINUTE = 1e-12
"""LayerNormalization's epsilon where a graph names none is 1e-5; SkipLayerNormalization's is 1e-12."""


def fuse(model: ir.Model) -> dict[str, int]:
    """Run all passes; operator -> how many there are now."""
    graph = model.graph
    model.opset_imports[MICROSOFT] = 1
    for _ in range(2):  # what one pass uncovers, another can use
        for run in PASSES:
            run(graph)
            _sweep(graph)
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
            width = _width(value)
            source = value
            while source is not None and (made := source.producer()) is not None and made.op_type == "Reshape":
                source = made.inputs[0]
                if width is not None and _rank(source) == 3 and _width(source) == width:
                    value = source
            if value is not node.inputs[at]:
                node.replace_input_with(at, value)
                found += 1
        value = node.outputs[0]
        width = _width(node.inputs[2])
        after = value
        while (only := _only_use(after)) is not None and only.op_type == "Reshape":
            after = only.outputs[0]
            if width is not None and _rank(after) == 3 and _width(after) == width:
                value = after
        if value is not node.outputs[0]:
            _take_place(graph, value, node.outputs[0])
            found += 1
    return found


def bias_attention(graph: ir.Graph) -> int:
    """Biases of queries, keys and values go into the attention node, which adds them while it copies."""
    found = 0
    for node in _all(graph, "MultiHeadAttention"):
        if len(node.inputs) > 3 and node.inputs[3] is not None:
            continue
        parts = [_biased(value) for value in node.inputs[:3]]
        if any(part is None for part in parts):
            continue
        biases = [_array(part[1]) for part in parts if part is not None]
        for at, part in enumerate(parts):
            assert part is not None
            node.replace_input_with(at, part[0])
        bias = _constant(graph, f"{node.outputs[0].name}_bias", np.concatenate(biases))
        if len(node.inputs) > 3:
            node.replace_input_with(3, bias)
        else:
            node.resize_inputs(4)
            node.replace_input_with(3, bias)
        found += 1
    return found


def pack_attention(graph: ir.Graph) -> int:
    """Products of one input with several weights, for queries, keys and values, become one product."""
    found = 0
    for node in _all(graph, "MultiHeadAttention"):
        places: dict[int, list[int]] = {}
        for at, value in enumerate(node.inputs[:3]):
            product = value.producer() if value is not None else None
            if product is not None and product.op_type == "MatMul" and _array(product.inputs[1]) is not None:
                if _only_use(product.outputs[0]) is node:
                    places.setdefault(id(product.inputs[0]), []).append(at)
        for group in places.values():
            if len(group) > 1:
                _pack(graph, node, group)
                found += 1
    return found


def _pack(graph: ir.Graph, node: ir.Node, places: list[int]) -> None:
    """Inputs of an attention node at `places`, products of one value, as parts of one product."""
    products = [_producer(node.inputs[at]) for at in places]
    weights = [_array(product.inputs[1]) for product in products]
    name = f"{node.outputs[0].name}_packed"
    weight = _constant(graph, f"{name}_weight", np.concatenate(weights, axis=1))
    whole = ir.node("MatMul", [products[0].inputs[0], weight], name=name)
    sizes = _constant(graph, f"{name}_sizes", np.array([w.shape[1] for w in weights], np.int64))
    parts = ir.node("Split", [whole.outputs[0], sizes], {"axis": 2}, num_outputs=len(places), name=f"{name}_split")
    whole.outputs[0].name = name
    for at, value in zip(places, parts.outputs, strict=True):
        value.name = f"{name}_{at}"
        node.replace_input_with(at, value)
    graph.insert_before(products[0], [whole, parts])


def skip_norm(graph: ir.Graph) -> int:
    """A sum of two, perhaps with a bias, that is normalised."""
    found = 0
    for node in _all(graph, "LayerNormalization"):
        added = node.inputs[0].producer() if node.inputs[0] is not None else None
        if added is None or added.op_type != "Add" or _rank(node.inputs[0]) != 3 or _width(node.inputs[0]) is None:
            continue
        if any(_rank(value) != 3 or _width(value) != _width(node.inputs[0]) for value in added.inputs):
            continue
        if node.attributes["axis"].as_int() not in (-1, 2):
            continue
        left, right = added.inputs
        inputs = [left, right, *node.inputs[1:]]
        inputs += [None] * (4 - len(inputs))
        for one, other in ((left, right), (right, left)):
            part = _biased(one)
            if part is not None and _only_use(one) is added:
                inputs = [part[0], other, *inputs[2:4], part[1]]
                break
        epsilon = node.attributes["epsilon"].as_float() if "epsilon" in node.attributes else 1e-5
        fused = ir.node(
            "SkipLayerNormalization",
            inputs,
            {"epsilon": epsilon},
            domain=MICROSOFT,
            num_outputs=4,
            name=f"skip_{found}",
        )
        total = added.outputs[0]
        for at in (1, 2):
            fused.outputs[at].name = ""
        fused.outputs[3].name = f"{total.name}_sum"
        graph.insert_before(node, fused)
        _take_place(graph, node.outputs[0], fused.outputs[0])
        if len(total.uses()) > 1 or total.is_graph_output():
            _take_place(graph, total, fused.outputs[3])
        else:
            fused.outputs[3].name = ""
        found += 1
    return found


def bias_gelu(graph: ir.Graph) -> int:
    """GELU of a sum with a bias."""
    found = 0
    for node in _all(graph, "Gelu"):
        part = _biased(node.inputs[0])
        if part is None or _only_use(node.inputs[0]) is not node:
            continue
        exact = "approximate" not in node.attributes or node.attributes["approximate"].as_string() == "none"
        fused = ir.node(
            "BiasGelu" if exact else "FastGelu", list(part), domain=MICROSOFT, name=f"gelu_{node.outputs[0].name}"
        )
        graph.insert_before(node, fused)
        _take_place(graph, node.outputs[0], fused.outputs[0])
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
            if value is not None and _array(value) is None and id(value.producer()) not in rows:
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
    if _rank(node.inputs[0] if node.inputs else None) != 3:
        return False
    if node.op_type == "Gather":
        return (
            _integer(node, "axis", 0) == 1 and _array(node.inputs[1]) is not None and not _array(node.inputs[1]).any()
        )
    if node.op_type != "Slice" or len(node.inputs) < 4:
        return False
    arrays = [_array(value) for value in node.inputs[1:]]
    return all(a is not None and a.size == 1 for a in arrays) and [int(a.item()) for a in arrays[:3]] == [0, 1, 1]


def _by_row(node: ir.Node) -> dict[int, int]:
    """Input -> its axis of tokens, for inputs that a node works on token by token; {} for nodes that mix tokens."""
    if _reads_first(node):
        return {0: 1}
    if _rank(node.outputs[0]) != 3:
        return {}
    if node.op_type == "MultiHeadAttention":
        bias = node.inputs[5] if len(node.inputs) > 5 else None
        return {0: 1, **({5: 2} if bias is not None else {})}
    if node.op_type == "MatMul":
        return {0: 1} if _array(node.inputs[1]) is not None else {}
    if node.op_type in ("SkipLayerNormalization", "Add", "Mul"):
        full = [at for at, value in enumerate(node.inputs[:2]) if _array(value) is None]
        return dict.fromkeys(full, 1) if all(_rank(node.inputs[at]) == 3 for at in full) else {}
    if node.op_type in ("LayerNormalization", "BiasGelu", "FastGelu", "Gelu"):
        return {0: 1}
    return {}


def _first_of(graph: ir.Graph, before: ir.Node, value: ir.Value, axis: int) -> ir.Value:
    """A value's first entry along an axis, which stays."""
    bounds = [
        _constant(graph, f"first_{what}_{n}", np.array([n], np.int64))
        for what, n in (("from", 0), ("to", 1), ("axis", axis))
    ]
    node = ir.node("Slice", [value, *bounds], name=f"first_of_{value.name}_{axis}")
    cut = node.outputs[0]
    cut.name, cut.type = f"{value.name}_first_{axis}", value.type
    if value.shape is not None:
        cut.shape = ir.Shape([1 if n == axis else size for n, size in enumerate(value.shape)])
    graph.insert_before(before, node)
    return cut


PASSES: tuple[Callable[[ir.Graph], int], ...] = (
    unshape_attention, bias_attention, skip_norm, bias_gelu, first_token, pack_attention,
)  # fmt: skip


def _all(graph: ir.Graph, operator: str) -> list[ir.Node]:
    return [node for node in graph if node.op_type == operator]


def _producer(value: ir.Value | None) -> ir.Node:
    node = value.producer() if value is not None else None
    assert node is not None, "the caller looked"
    return node


def _integer(node: ir.Node, name: str, default: int) -> int:
    return node.attributes[name].as_int() if name in node.attributes else default


def _rank(value: ir.Value | None) -> int | None:
    return None if value is None or value.shape is None else len(value.shape)


def _width(value: ir.Value | None) -> int | None:
    """The last axis, where it is a number."""
    if value is None or value.shape is None or not len(value.shape):
        return None
    last = value.shape[-1]
    return last if isinstance(last, int) else None


def _array(value: ir.Value | None) -> Any:
    """A constant's content, None for what is computed."""
    return None if value is None or value.const_value is None else value.const_value.numpy()


def _constant(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    if name in graph.initializers:
        return graph.initializers[name]
    value = ir.val(name, const_value=ir.tensor(np.ascontiguousarray(array), name=name))
    graph.register_initializer(value)
    return value


def _biased(value: ir.Value | None) -> tuple[ir.Value, ir.Value] | None:
    """(what, constant [width]) where a value is their sum."""
    node = value.producer() if value is not None else None
    if node is None or node.op_type != "Add":
        return None
    for what, bias in (tuple(node.inputs), tuple(reversed(node.inputs))):
        if (
            what is not None
            and bias is not None
            and _array(bias) is not None
            and _array(bias).ndim == 1
            and _rank(what) == _rank(value)
        ):
            return what, bias
    return None


def _only_use(value: ir.Value | None) -> ir.Node | None:
    if value is None:
        return None
    uses = list(value.uses())
    return uses[0].node if len(uses) == 1 and not value.is_graph_output() else None


def _take_place(graph: ir.Graph, old: ir.Value, new: ir.Value) -> None:
    """`new` is used wherever `old` was, and has its name."""
    new.shape, new.type, name = old.shape, old.type, old.name
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    old.name, new.name = f"{name}_before", name


def _sweep(graph: ir.Graph) -> None:
    """Remove what nothing uses."""
    RemoveUnusedNodesPass()(ir.Model(graph, ir_version=10))
