"""`export MODEL --runtime onnx`: traced, fused, written, compared with the eager model, quantised, and put into place whole.

Everything is written into a folder beside its place, `MODEL/onnx`, and moved there when all of it was checked.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx_ir as ir
import onnxruntime

from spcore.artifact import Artifact, attach
from spcore.errors import OutputError, RefusalError
from spcore.files import staged
from spcore.interfaces.model import Head, LanguageModel
from spcore.interfaces.runtime import PrepareReport, Samples, Score
from spcore.interfaces.task import BoundTask
from spcore_onnx import check, fusion, graphs, machine, quantise, sessions, tracing
from spcore_onnx.options import FILES, FOLDER, ExportOptions
from spcore_onnx.runner import OnnxRunner

if TYPE_CHECKING:
    import torch

BESIDE = 2**24
"""Bytes of float32 tensors from which they lie beside unless asked otherwise: such a file is mapped, not read and copied. MiniLM opens in
a third of the time and half of the memory, which processes share."""
log = logging.getLogger("slimpajama.spcore_onnx")


@dataclass
class _Written:
    """One file that was checked. score: on the user's data."""

    name: str
    precision: str
    findings: check.Findings
    bytes: int
    score: Score | None = None

    def to_json(self) -> dict[str, Any]:
        """For slimpajama.json."""
        score = (
            {}
            if self.score is None
            else {self.score.metric: self.score.value, "rows_per_second": self.score.rows_per_second}
        )
        return {"file": self.name, "bytes": self.bytes, "check": self.findings.to_json(), **score}


def export(artifact: Artifact, task: BoundTask, options: ExportOptions, data: Mapping[str, Samples]) -> PrepareReport:
    """See `Runtime.prepare`."""
    _settle(options, data)
    _check_head(artifact, task.head)
    precision = "int8" if options.quantise != "none" else options.dtype
    with staged(artifact.folder / FOLDER) as work:
        graph, reference, fused = _graph(artifact, task.head)
        if options.single_file and not graphs.fits(graph):
            raise RefusalError("export: single_file: an .onnx file holds 2 GiB, and the tensors are more; leave it out")
        beside = not options.single_file and graphs.size(graph) > BESIDE
        plain = _plain(graph, work, reference, beside)
        written, refusal = [plain], None
        if samples := data.get("evaluate"):
            plain.score = _score(work, plain, task.head, samples)
        if precision != "float32":
            lower = _lower(work, precision, reference, data.get("calibrate"))
            written.append(lower)
            if samples:
                lower.score = _score(work, lower, task.head, samples)
                refusal = _refusal(plain, lower, options.max_drop)
        kept = [w for w in written if w is not written[-1] or refusal is None]
        for one in written:
            if one not in kept:
                _remove(work, one.name)
        _others(artifact, work, {one.precision for one in kept})
        facts = _facts(artifact, reference, kept, fused)
        _place(artifact, work, facts)
    return _report(artifact, written, kept, fused, refusal)


def _settle(options: ExportOptions, data: Mapping[str, Samples]) -> None:
    """Refuse what does not go together, before anything starts."""
    lower = options.quantise != "none" or options.dtype != "float32"
    if options.quantise != "none" and options.dtype != "float32":
        raise RefusalError(f"export: quantise {options.quantise!r} and dtype {options.dtype!r}: one at a time")
    if options.quantise == "static" and "calibrate" not in data:
        raise RefusalError(
            "export: quantise 'static' is fitted to data: name it with --calibrate DATA, or use quantise=dynamic"
        )
    if "calibrate" in data and options.quantise != "static":
        raise RefusalError("export: --calibrate goes with quantise=static and with nothing else; leave it out")
    if options.max_drop is not None and ("evaluate" not in data or not lower):
        raise RefusalError(
            "export: max_drop compares a lower precision on data: give --eval-data DATA, and quantise or dtype"
        )
    gpu = sessions.PROVIDERS["cuda"] in onnxruntime.get_available_providers() and machine.gpus() > 0
    if options.dtype == "bfloat16" and not gpu:
        raise RefusalError(
            "export: dtype 'bfloat16' is checked where it runs, on a GPU, and ONNX Runtime finds none here; use dtype=float16"
        )


def _check_head(artifact: Artifact, head: Head) -> None:
    """Refuse models that write: what is exported here runs once over a text."""
    model = artifact.model
    anatomy = model.anatomy(head)
    if anatomy.encoder_layers is not None or (anatomy.causal and head.kind == "vocabulary"):
        raise RefusalError(
            f"export: family {model.family!r} writes token by token under this task, and runtime 'onnx' runs a text once; use runtime=torch"
        )


def _graph(artifact: Artifact, head: Head) -> tuple[ir.Model, check.Reference, dict[str, int]]:
    """The optimised graph, what it is compared with, and how many operators were fused."""
    from spcore.tensors.materialise import frozen
    from spcore.tensors.process import plainly

    model, processor = artifact.model, artifact.model.processor
    with plainly():
        module, fresh = frozen(model, head), frozen(model, head)  # what tracing does to its own is not missed
    names = tuple(dict.fromkeys([*processor.encode("a").arrays, "attention_mask"]))
    taps = check.taps_of(model, head, module)
    longest = artifact.limits().max_length or 512
    graph = tracing.trace(module, names, tuple(head.outputs), taps, longest)
    while len(graph.graph.outputs) > len(head.outputs):
        graph.graph.outputs.pop()  # by slice they would still count as outputs
    fused = fusion.fuse(graph)
    fused["attention blocks"] = _blocks(model, head, module)
    config = model.config
    reference = check.Reference(
        fresh, head, names, taps, longest,
        width=int(getattr(config, "hidden_size", None) or getattr(config, "dim", None) or 768),
        heads=int(getattr(config, "num_attention_heads", None) or getattr(config, "n_heads", None) or 16),
        fill=processor.fill, vocabulary=processor.vocabulary_size,
        avoided=frozenset(processor.special.values()),
    )  # fmt: skip
    return graph, reference, fused


def _blocks(model: LanguageModel, head: Head, module: torch.nn.Module) -> int:
    anatomy = model.anatomy(head)
    if not anatomy.layers:
        return 0
    return len(module.get_submodule(f"{anatomy.base}.{anatomy.layers}" if anatomy.base else anatomy.layers))


def _plain(graph: ir.Model, work: Path, reference: check.Reference, beside: bool) -> _Written:
    """model.onnx, written and compared. beside: its tensors lie in a file of their own."""
    file = work / FILES["float32"]
    graph.producer_name = "slimpajama"
    graphs.save(graph, file, beside=beside)
    return _checked(file, "float32", reference)


def _lower(work: Path, precision: str, reference: check.Reference, samples: Samples | None) -> _Written:
    """The file of a lower precision, made of model.onnx and compared."""
    source, target = work / FILES["float32"], work / FILES[precision]
    if precision == "int8":
        quantise.to_int8(source, target, samples)
    else:
        quantise.to_half(source, target, precision)
    return _checked(target, precision, reference)


def _checked(file: Path, precision: str, reference: check.Reference) -> _Written:
    place = sessions.Place("cuda" if precision == "bfloat16" else "cpu")
    findings = check.compare(file, precision, reference, place)
    beside = [p for p in file.parent.iterdir() if p.name.startswith(file.name)]
    return _Written(file.name, precision, findings, sum(p.stat().st_size for p in beside))


def _score(work: Path, written: _Written, head: Head, samples: Samples) -> Score:
    file = work / written.name
    runner = OnnxRunner(file, head, sessions.open_session(file, sessions.Place("cpu")))
    try:
        return samples.score(runner)
    finally:
        runner.close()


def _refusal(plain: _Written, lower: _Written, most: float | None) -> str | None:
    assert plain.score is not None
    assert lower.score is not None
    lost = lower.score.loss_from(plain.score)
    if most is None or lost <= most:
        return None
    return (
        f"{lower.name} is not written: {lower.score.metric} is {lower.score.value:.4f}, with float32 {plain.score.value:.4f}, a loss of "
        f"{lost:.4f}, and max_drop allows {most:g}; float32 is kept"
    )


def _remove(work: Path, name: str) -> None:
    for path in [p for p in work.iterdir() if p.name.startswith(name)]:
        path.unlink()


def _others(artifact: Artifact, work: Path, made: Set[str]) -> None:
    """Files that were exported before, of precisions that are not made anew, stay."""
    folder, known = artifact.folder / FOLDER, artifact.manifest.get(FOLDER, {}).get("files", {})
    for entry in [entry for precision, entry in known.items() if precision not in made]:
        for path in folder.glob(f"{entry['file']}*") if folder.is_dir() else ():
            try:
                os.link(path, work / path.name)
            except OSError:
                shutil.copy2(path, work / path.name)


def _facts(
    artifact: Artifact, reference: check.Reference, kept: list[_Written], fused: Mapping[str, int]
) -> dict[str, Any]:
    """What slimpajama.json says of the export."""
    before = artifact.manifest.get(FOLDER, {}).get("files", {})
    return {
        "files": {**before, **{w.precision: w.to_json() for w in kept}}, "inputs": list(reference.names),
        "outputs": {k: list(v) for k, v in reference.head.outputs.items()}, "fused": dict(fused), "opset": tracing.OPSET,
        "versions": {"onnxruntime": onnxruntime.__version__}, "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }  # fmt: skip


def _place(artifact: Artifact, work: Path, facts: Mapping[str, Any]) -> None:
    if not any(work.iterdir()):
        raise OutputError(f"{work}: what was exported is gone: another process removed it")
    attach(artifact, work, FOLDER, facts)


def _report(
    artifact: Artifact, written: list[_Written], kept: list[_Written], fused: Mapping[str, int], refusal: str | None
) -> PrepareReport:
    figures: dict[str, float] = {}
    for one in written:
        figures |= {f"{one.precision} bytes": float(one.bytes), f"{one.precision} difference": one.findings.largest}
        if one.score is not None:
            figures |= {
                f"{one.precision} {one.score.metric}": one.score.value,
                f"{one.precision} rows per second": one.score.rows_per_second,
            }
    blocks = fused["attention blocks"]
    remarks = [f"fused: attention in {fused.get('MultiHeadAttention', 0)} of {blocks} layers, "
               + ", ".join(f"{n} {name}" for name, n in fused.items() if name not in ("MultiHeadAttention", "attention blocks"))]  # fmt: skip
    remarks += [
        f"{w.name}: not compared, too large for this machine: {', '.join(w.findings.left_out)}"
        for w in written
        if w.findings.left_out
    ]
    names = sorted(p.relative_to(artifact.folder).as_posix() for p in (artifact.folder / FOLDER).iterdir())
    files = tuple(n for n in names if any(n.startswith(f"{FOLDER}/{w.name}") for w in kept))
    return PrepareReport(files, figures, tuple(remarks), artifact.manifest[FOLDER], refusal)
