"""Numbers of an exported file against the eager model, always: at batch sizes 1 and 7, lengths 1, 17 and the longest, padded and not.

The module compared with is loaded anew from the saved weights, so that nothing the export did to its own is missed. Where they
differ, the file is run once more with the hidden states of every layer as outputs, and the first that differs is named.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch

from spcore.errors import ArtifactError, RunError
from spcore.interfaces.model import Head
from spcore_onnx import sessions
from spcore_onnx.runner import OnnxRunner
from spcore_onnx.tracing import Tapped

if TYPE_CHECKING:
    from spcore.interfaces.model import LanguageModel

BATCHES, LENGTHS = (1, 7), (1, 17)
EPSILON = {"float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7, "int8": 2.0**-7}
"""Distance between neighbours at 1: what one operation may be off by, in each format."""
ROUNDINGS, HEADROOM = 12, 4
"""Operations of a layer after which its hidden states are rounded; how far from the expected sum of roundings is still rounding."""


@dataclass(frozen=True)
class Reference:
    """The eager model. module: on the CPU, float32, with its weights. names: of the inputs. taps: paths of the modules whose hidden
    states are compared, first to last. longest: tokens of a sequence at most. width: of the hidden states."""

    module: torch.nn.Module
    head: Head
    names: tuple[str, ...]
    taps: tuple[str, ...]
    longest: int
    width: int
    heads: int
    fill: Mapping[str, int]
    vocabulary: int
    avoided: frozenset[int] = frozenset()


@dataclass
class Findings:
    """tolerance: relative to the largest value, or to 1. largest: the largest difference found. cases: compared, each batch, length,
    padded, difference. left_out: cases that would not fit in memory."""

    tolerance: float
    largest: float = 0.0
    cases: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """For slimpajama.json."""
        return {
            "tolerance": self.tolerance, "largest_difference": self.largest, "cases": self.cases, "left_out": self.left_out,
        }  # fmt: skip


def tolerance(precision: str, layers: int, width: int) -> float:
    """What may be off: roundings of `layers` layers add up as a random walk; in float32 so do the sums of `width` products, which
    are float32 in every format."""
    sums = math.sqrt(width) if precision == "float32" else 1.0
    return HEADROOM * EPSILON[precision] * math.sqrt(ROUNDINGS * max(1, layers)) * sums


def compare(file: Path, precision: str, reference: Reference, place: sessions.Place) -> Findings:
    """Run all cases. Raises ArtifactError that names the case, the difference and the first layer that differs."""
    found = Findings(tolerance(precision, len(reference.taps), reference.width))
    runner = OnnxRunner(file, reference.head, sessions.open_session(file, place))
    eager = Tapped(reference.module, reference.names, tuple(reference.head.outputs), ())
    for rows, length, padded in cases(reference, found):
        inputs = made(reference, rows, length, padded)
        words = f"{rows} x {length} tokens{', padded' if padded else ''}"
        try:
            theirs = runner.run(inputs)
        except RunError as error:
            raise ArtifactError(
                f"export: the graph does not run on {words}, it was frozen to another size: {error.message}"
            ) from error
        with torch.inference_mode():
            ours = eager(*(torch.from_numpy(inputs[name]) for name in reference.names))
        for (name, axes), mine in zip(reference.head.outputs.items(), ours, strict=True):
            off = difference(theirs[name], mine.numpy(), inputs["attention_mask"] if "position" in axes else None)
            if not off <= found.tolerance:
                where = first_layer(file, reference, inputs, found.tolerance, place)
                raise ArtifactError(
                    f"export: {name!r} is off by {off:.1e} on {words}, where {precision} allows {found.tolerance:.1e}; the first to "
                    f"differ is {where}; nothing was kept"
                )
            found.largest = max(found.largest, off)
            found.cases.append({"batch": rows, "length": length, "padded": padded, "output": name, "difference": off})
    runner.close()
    return found


def cases(reference: Reference, found: Findings) -> list[tuple[int, int, bool]]:
    """(rows, length, padded). What would take more than half of the memory is left out, and said."""
    lengths = sorted({min(n, reference.longest) for n in (*LENGTHS, reference.longest)})
    wanted = [(rows, n, padded) for rows in BATCHES for n in lengths for padded in (False, True) if n > 1 or not padded]
    room = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    kept = [case for case in wanted if 4 * 4 * reference.heads * case[0] * case[1] ** 2 <= room]
    found.left_out += [
        f"{rows} x {n} tokens{', padded' if p else ''}" for rows, n, p in wanted if (rows, n, p) not in kept
    ]
    return kept


def made(reference: Reference, rows: int, length: int, padded: bool) -> dict[str, np.ndarray]:
    """Inputs [rows, length] of tokens drawn from the vocabulary. padded: rows end at different places, one at the end."""
    draw = np.random.default_rng([rows, length, padded])
    allowed = np.array([n for n in range(reference.vocabulary) if n not in reference.avoided])
    mask = np.ones((rows, length), np.int64)
    if padded:
        ends = draw.integers(1, length, rows) if rows == 1 else np.linspace(1, length, rows).astype(int)
        mask = (np.arange(length)[None] < ends[:, None]).astype(np.int64)
    second = (np.arange(length)[None] >= length // 2).astype(np.int64).repeat(rows, 0)
    values = {"input_ids": draw.choice(allowed, (rows, length)), "token_type_ids": second, "attention_mask": mask}
    return {
        name: values[name] if name == "attention_mask" else np.where(mask, values[name], reference.fill.get(name, 0))
        for name in reference.names
    }


def difference(found: np.ndarray, expected: np.ndarray, mask: np.ndarray | None) -> float:
    """The largest difference, relative to the largest value where that is above 1; inf for other shapes, NaN for NaN."""
    if found.shape != expected.shape:
        return math.inf
    if mask is not None:
        found, expected = found[mask.astype(bool)], expected[mask.astype(bool)]
    scale = max(1.0, float(np.abs(expected).max(initial=0)))
    return float(np.abs(found - expected).max(initial=0)) / scale


def first_layer(
    file: Path, reference: Reference, inputs: Mapping[str, np.ndarray], allowed: float, place: sessions.Place
) -> str:
    """The path of the first module whose hidden states in the file differ from the eager ones; the head where all are the same."""
    from spcore_onnx.tracing import TAP

    graph = onnx.load(file, load_external_data=False)
    there = {name for node in graph.graph.node for name in node.output}
    taps = [path for path in reference.taps if TAP + path in there]
    graph.graph.output.extend(onnx.ValueInfoProto(name=TAP + path) for path in taps)
    probe = file.with_name(f"probe-{file.name}")  # beside it, where its external data lies
    onnx.save(graph, probe)
    try:
        session = sessions.open_session(probe, place)
        given = {value.name: inputs[value.name] for value in session.get_inputs()}
        found = session.run([TAP + path for path in taps], given)
    finally:
        probe.unlink()
    eager = Tapped(reference.module, reference.names, (), taps)
    with torch.inference_mode():
        expected = eager(*(torch.from_numpy(inputs[name]) for name in reference.names))
    for path, theirs, mine in zip(taps, found, expected, strict=True):
        own, mask = mine.numpy(), inputs["attention_mask"]
        if theirs.shape[1] < own.shape[1]:  # the last layer, of which the head reads the first token alone
            own, mask = own[:, : theirs.shape[1]], mask[:, : theirs.shape[1]]
        if not difference(theirs.astype(np.float32), own, mask) <= allowed:
            return f"layer {path!r}"
    return "the head"


def taps_of(model: LanguageModel, head: Head, module: torch.nn.Module) -> tuple[str, ...]:
    """Paths of the modules that give hidden states: embeddings, then each layer; as far as the anatomy knows them."""
    anatomy = model.anatomy(head)

    def below(path: str) -> str:
        return f"{anatomy.base}.{path}" if anatomy.base else path

    paths: Sequence[str] = [below(anatomy.embed)] if anatomy.embed else []
    if anatomy.layers:
        layers = below(anatomy.layers)
        paths = [*paths, *(f"{layers}.{n}" for n in range(len(module.get_submodule(layers))))]
    return tuple(paths)
