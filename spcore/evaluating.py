"""Evaluation: batches of stores through an engine, parts made one, figures over all sources and of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from spcore.interfaces.strategy import Engine
from spcore.interfaces.task import Batch, EvalPart
from spcore.loading import evaluation_batches

if TYPE_CHECKING:
    from spcore.features import FeatureStore
    from spcore.session import Session

WHOLE = ""
"""Name of the only source, where there are not several."""


def evaluated(session: Session, engine: Engine, stores: Mapping[str, FeatureStore]) -> dict[str, float] | None:
    """Figures over all stores together, and of several those of each as "loss/NAME"; None on ranks that are not the writer."""
    parts = {name: evaluation(session, engine, store) for name, store in stores.items()}
    found = {name: part for name, part in parts.items() if part is not None}
    if len(found) < len(parts):
        return None
    if len(found) == 1:
        return session.bound.metrics(*found.values())
    figures = session.bound.metrics(_joined(list(found.values())))
    for name, part in found.items():
        figures |= {f"{figure}/{name}": value for figure, value in session.bound.metrics(part).items()}
    return figures


def _joined(parts: Sequence[EvalPart]) -> EvalPart:
    """Parts of several stores as one: their features are numbered on."""
    first, numbered = 0, []
    for part in parts:
        rows = [{**row, "feature_id": row["feature_id"] + first} for row in part.rows]
        first = rows[-1]["feature_id"] + 1 if rows else first
        numbered.append(replace(part, rows=rows))
    return merge_parts(numbered)


def evaluation(session: Session, engine: Engine, store: FeatureStore) -> EvalPart | None:
    """One pass of `reduce` over a store, all ranks' parts together; None on ranks that are not the writer."""
    parts = engine.collect(engine.eval_step(_batches(session, engine, store, augment=True)))
    return None if parts is None else merge_parts(parts)


def annotate_store(session: Session, engine: Engine, store: FeatureStore) -> None:
    """One pass of `annotate` over a store; the figures become arrays of its features on every rank."""
    part = engine.eval_step(_batches(session, engine, store, augment=False), method="annotate")
    store.annotate(merge_parts(engine.collect(part, everywhere=True) or []).rows)


def _batches(session: Session, engine: Engine, store: FeatureStore, *, augment: bool) -> list[Batch]:
    rule, tokens = session.strategy.batch_rule(session.plan), session.recipe.eval.batch_tokens
    return list(
        evaluation_batches(
            store, session.bound, place=engine.place, tokens=tokens, rule=rule, seed=session.plan.seed, augment=augment
        )
    )


def merge_parts(parts: Sequence[EvalPart | None]) -> EvalPart:
    """One evaluation of all ranks' parts: sums added, filler dropped, rows in feature order. A feature that is there twice is
    a broken engine."""
    present = [part for part in parts if part is not None]
    sums: dict[str, float] = {}
    for part in present:
        for name, value in part.sums.items():
            sums[name] = sums.get(name, 0.0) + value
    rows = sorted(
        (row for part in present for row in part.rows if row["feature_id"] >= 0), key=lambda row: row["feature_id"]
    )
    ids = [row["feature_id"] for row in rows]
    assert len(set(ids)) == len(ids), "an engine gave a feature twice in one evaluation"
    return EvalPart(sums, rows)
