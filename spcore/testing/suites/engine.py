"""Engines: what every engine promises, tried in this process."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from spcore.interfaces.strategy import Engine, LendsDecoder, StepReport
from spcore.interfaces.task import Batch
from spcore.testing.checks import Check, DoesNotApply, Wrong, check, shown
from spcore.testing.contracts import against
from spcore.testing.suites.decoding import DECODES_CHECKS
from spcore.testing.suites.engine_case import EngineCase

_CUTS: tuple[tuple[int, ...], ...] = ((6,), (2, 4), (1, 2, 3))


def _close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=2e-4, abs_tol=1e-6)


@check("engine.contract", "it has the members of Engine", gate=True)
def engine_contract(case: EngineCase) -> Iterator[Wrong]:
    """Of an engine made for a small plan."""
    with case.engine() as engine:
        yield from against(engine, Engine, "engine")


@check(
    "engine.step",
    "a step reports finite figures of the task's terms, with the weights that the batches carry",
    gate=True,
)
def engine_step(case: EngineCase) -> Iterator[Wrong]:
    """Two loss terms, three microbatches."""
    plan = case.plan("fake-two-terms")
    with case.engine(plan) as engine:
        batches = case.step(plan, (1, 2, 3))
        report = engine.train_step(batches, 0.05, 0)
    if not isinstance(report, StepReport):
        yield Wrong(shown(report), "a StepReport")
        return
    terms = plan.task.terms
    if set(report.terms) != set(terms) or set(report.totals) != set(terms):
        yield Wrong(
            f"terms {sorted(report.terms)}, totals {sorted(report.totals)}", f"those of the task: {', '.join(terms)}"
        )
        return
    for term in terms:
        total = sum(batch.weights[term] for batch in batches)
        if not _close(report.totals[term], total):
            yield Wrong(f"total {report.totals[term]} of term {term!r}", f"the sum of the batches' weights, {total}")
    figures = {"loss": report.loss, "grad_norm": report.grad_norm, **report.terms}
    if not all(math.isfinite(value) for value in figures.values()) or not report.applied:
        yield Wrong(f"figures {shown(figures)}, applied={report.applied}", "finite figures of a step that was applied")


@check("engine.any-cut", "losses and gradient norms of several steps are the same however they were cut, filler or not")
def engine_any_cut(case: EngineCase) -> Iterator[Wrong]:
    """One microbatch, two, three; three with filler; tasks with two terms, and over the vocabulary."""
    for name in ("fake-two-terms", "fake-masked-words"):
        yield from _any_cut(case, name)


@check("engine.whole-batch", "a loss over the whole batch is the same however the step was cut")
def engine_whole_batch(case: EngineCase) -> Iterator[Wrong]:
    """A contrastive task."""
    yield from _any_cut(case, "fake-contrast")


def _any_cut(case: EngineCase, name: str) -> Iterator[Wrong]:
    plan = case.plan(name)
    runs = [
        _train(case, name, case.step(plan, sizes, fill=fill))
        for sizes, fill in [*((c, 0) for c in _CUTS), (_CUTS[-1], 2)]
    ]
    for sizes, reports in zip([*_CUTS[1:], "1, 2, 3 and filler"], runs[1:], strict=True):
        for step, (one, other) in enumerate(zip(runs[0], reports, strict=True)):
            if not _close(one.loss, other.loss) or not _close(one.grad_norm, other.grad_norm):
                yield Wrong(
                    f"task {name!r}, step {step}: loss {other.loss:.7g}, norm {other.grad_norm:.7g} cut as {sizes}",
                    f"those of one microbatch: {one.loss:.7g}, {one.grad_norm:.7g}",
                )
                return


def _train(case: EngineCase, name: str, batches: list[Batch], steps: int = 3) -> list[StepReport]:
    with case.engine(case.plan(name)) as engine:
        return [engine.train_step(batches, 0.05, step) for step in range(steps)]


@check("engine.learns", "the loss falls over twenty steps on the same rows, and not at all at a rate of 0")
def engine_learns(case: EngineCase) -> Iterator[Wrong]:
    """Gradient descent at 0.1."""
    plan = case.plan()
    with case.engine(plan) as engine:
        batches = case.step(plan, (6,))
        losses = [engine.train_step(batches, 0.1, step).loss for step in range(20)]
    if not losses[-1] < losses[0]:
        yield Wrong(f"loss {losses[0]:.5g}, after 20 steps {losses[-1]:.5g}", "a smaller one")


@check("engine.evaluates", "an evaluation has each feature once, is the same in any cut, and changes nothing")
def engine_evaluates(case: EngineCase) -> Iterator[Wrong]:
    """With filler, which gives no rows."""
    from spcore.evaluating import merge_parts

    plan = case.plan("fake-two-terms")
    found: list[Mapping[str, float]] = []
    with case.engine(plan) as engine:
        for sizes in _CUTS:
            part = engine.eval_step(case.step(plan, sizes, fill=1))
            if part is None:
                yield Wrong("None from eval_step on the only rank", "an EvalPart")
                return
            merged = merge_parts([part])
            ids = [row["feature_id"] for row in merged.rows]
            if ids != [f.id for f in case.features(plan.task)]:
                yield Wrong(f"rows of features {ids}", "each feature once")
            found.append(plan.task.metrics(merged))
    for sizes, metrics in zip(_CUTS, found, strict=True):
        if any(not _close(metrics[name], value) for name, value in found[0].items()):
            yield Wrong(f"{shown(dict(metrics))} cut as {sizes}", shown(dict(found[0])))


@check("engine.annotates", "annotations have one row a feature, with arrays")
def engine_annotates(case: EngineCase) -> Iterator[Wrong]:
    """A task whose features have two sequences each."""
    import numpy as np

    plan = case.plan("fake-preference")
    with case.engine(plan) as engine:
        part = engine.eval_step(case.step(plan, (2, 4), fill=1), method="annotate")
    rows = sorted(part.rows, key=lambda row: row["feature_id"]) if part is not None else []
    ids = [row["feature_id"] for row in rows]
    if ids != [f.id for f in case.features(plan.task)]:
        yield Wrong(f"rows of features {ids}", "each feature once, although it has two sequences")
        return
    for row in rows:
        reference = row.get("reference")
        if reference is None or np.shape(reference) != (2,):
            yield Wrong(f"reference {shown(reference)}", "what annotate gave for the feature")
            return


@check("engine.resumes", "an engine that loads what another saved goes on as that one does")
def engine_resumes(case: EngineCase) -> Iterator[Wrong]:
    """To the bit, on the same layout; that one trains on while it is still writing."""
    plan = case.plan()
    batches = case.step(plan, (2, 4))
    with tempfile.TemporaryDirectory() as folder:
        with case.engine(plan) as first:
            for step in range(2):
                first.train_step(batches, 0.05, step)
            saving = first.save(Path(folder))
            losses = [first.train_step(batches, 0.05, step).loss for step in range(2, 4)]
            saving.wait()
        if any(path.suffix in (".pkl", ".pickle", ".pt", ".pth", ".bin") for path in Path(folder).rglob("*")):
            yield Wrong(f"files {sorted(p.name for p in Path(folder).rglob('*'))}", "nothing that has to be unpickled")
        with case.engine(case.plan()) as second:
            second.load(Path(folder))
            again = [second.train_step(batches, 0.05, step).loss for step in range(2, 4)]
    if losses != again:
        yield Wrong(f"losses {again} after a restart", f"{losses}, those of the run that went on")


@check("engine.weights", "weights are those of the model by name and shape, on the CPU, without aliases")
def engine_weights(case: EngineCase) -> Iterator[Wrong]:
    """A vocabulary head, which is tied."""
    plan = case.plan("fake-masked-words")
    tied = plan.model.anatomy(plan.head).tied
    module = plan.model.build(plan.head)
    expected: dict[str, tuple[int, ...]] = {n: tuple(t.shape) for n, t in module.state_dict().items() if n not in tied}
    with case.engine(plan) as engine:
        found: dict[str, tuple[int, ...]] = {
            name: tuple(t.shape) for name, t in engine.weights() if t.device.type == "cpu"
        }
        counts = engine.parameters()
    if found != expected:
        yield Wrong(f"weights {shown(sorted(found))}", f"{shown(sorted(expected))}, each on the CPU")
    elements: int = sum(math.prod(shape) for shape in expected.values())
    if counts != (elements, elements):
        yield Wrong(f"parameters() gives {counts}", f"{(elements, elements)}: ties counted once, all trainable")


@check("engine.alone", "one rank agrees with itself, collects its own object, and closes twice")
def engine_alone(case: EngineCase) -> Iterator[Wrong]:
    """Facts are texts, memory a number of bytes."""
    with case.engine() as engine:
        if engine.agree(3) != 3 or engine.agree(0) != 0:
            yield Wrong(f"agree(3) gives {engine.agree(3)}", "the largest code over all ranks: 3")
        if engine.collect("a") != ["a"] or engine.collect("b", everywhere=True) != ["b"]:
            yield Wrong(f"collect('a') gives {shown(engine.collect('a'))}", "every rank's object: ['a']")
        facts = engine.facts()
        if not all(isinstance(k, str) and isinstance(v, str) for k, v in facts.items()):
            yield Wrong(f"facts {shown(dict(facts))}", "texts")
        if engine.peak_memory() < 0:
            yield Wrong(f"peak_memory {engine.peak_memory()}", "bytes")
        engine.close()


@check("engine.decodes", "it lends a decoder of the model as training has it, and training goes on as if it had not")
def engine_decodes(case: EngineCase) -> Iterator[Wrong]:
    """Lent between two steps, and its promises kept meanwhile."""
    plan = case.plan("fake-masked-words")
    batches = case.step(plan, (2, 4))
    with case.engine(plan) as engine:
        if isinstance(engine, LendsDecoder) != case.strategy.decodes:
            has = "has" if isinstance(engine, LendsDecoder) else "has not"
            yield Wrong(
                f"decodes {case.strategy.decodes} of a strategy whose engine {has} the ability LendsDecoder",
                "one of both",
            )
            return
        if not isinstance(engine, LendsDecoder):
            raise DoesNotApply
        yield from against(engine, LendsDecoder, "engine")
        losses = [engine.train_step(batches, 0.05, 0).loss]  # type: ignore[attr-defined]  # it is an Engine too
        with engine.decoding(4, 16) as decoder:
            for item in DECODES_CHECKS:
                yield from item.run(decoder)
        losses.append(engine.train_step(batches, 0.05, 1).loss)  # type: ignore[attr-defined]
    plain = [report.loss for report in _train(case, "fake-masked-words", batches, steps=2)]
    if losses != plain:
        yield Wrong(f"losses {losses} with decoding between two steps", f"those without: {plain}")


@check("engine.leaves-the-process", "random generators, thread counts and default types of the process are as before")
def engine_leaves_the_process(case: EngineCase) -> Iterator[Wrong]:
    """After training, evaluating and closing."""
    import torch

    def state() -> dict[str, object]:
        return {
            "torch's generator": torch.get_rng_state().tolist(), "threads": torch.get_num_threads(),
            "default dtype": torch.get_default_dtype(), "gradients": torch.is_grad_enabled(),
            "matmul precision": torch.get_float32_matmul_precision(),
            "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        }  # fmt: skip

    before = state()
    plan = case.plan()
    with case.engine(plan) as engine:
        batches = case.step(plan, (6,))
        engine.train_step(batches, 0.05, 0)
        engine.eval_step(batches)
    changed = [name for name, value in state().items() if value != before[name]]
    if changed:
        yield Wrong(f"{', '.join(changed)} changed", "the process as it was: an inline engine owns its state")


ENGINE_CHECKS: tuple[Check, ...] = (
    engine_contract, engine_step, engine_any_cut, engine_whole_batch, engine_learns, engine_evaluates, engine_annotates,
    engine_resumes, engine_weights, engine_alone, engine_decodes, engine_leaves_the_process,
)  # fmt: skip
