"""Evaluation: batches of stores through an engine, answers generated where the task asks for some, parts made one, figures over all
sources and of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING

from spcore.generation import DecodingLoop
from spcore.interfaces.runtime import Decodes
from spcore.interfaces.strategy import Engine, LendsDecoder
from spcore.interfaces.task import Batch, EvalPart, Prompts
from spcore.loading import evaluation_batches
from spcore.prompting import Answers, Questions, Together, decoder_start, with_answers

if TYPE_CHECKING:
    from spcore.features import FeatureStore
    from spcore.session import Session

WHOLE = ""
"""Name of the only source, where there are not several."""


class Evaluator:
    """A run's evaluations on one rank. stores: features by the name of their source. Requests of a task that is evaluated by generating
    are made here. Raises DataError for a row that cannot be asked, RefusalError for answers that the model has no positions for."""

    def __init__(self, session: Session, engine: Engine, stores: Mapping[str, FeatureStore]) -> None:
        from spcore.session import sources_of

        self.session, self.engine, self.stores = session, engine, stores
        self.questions: dict[str, Questions] = {}
        if session.generates:
            assert session.eval is not None, "there are stores"
            assert isinstance(session.bound, Prompts), "`Session.generates` looked"
            sources, model, limit = sources_of(session.eval), session.plan.model, session.recipe.eval.generate
            self.start = decoder_start(model)
            for name, store in stores.items():
                questions = Questions(sources[name], session.bound, store, limit=limit, model=model)
                self.questions[name] = questions
                with self._decoding(questions) as decoder:  # what would be refused in mid-run is refused now
                    questions.check(decoder.capacity, self.start)

    def figures(self) -> dict[str, float] | None:
        """Over all stores together, and of several those of each as "loss/NAME"; None on ranks that are not the writer."""
        parts = {name: self.part(name) for name in self.stores}
        found = {name: part for name, part in parts.items() if part is not None}
        if len(found) < len(parts):
            return None
        metrics = self.session.bound.metrics
        if len(found) == 1:
            return metrics(*found.values())
        figures = metrics(_joined(list(found.values())))
        for name, part in found.items():
            figures |= {f"{figure}/{name}": value for figure, value in metrics(part).items()}
        return figures

    def part(self, name: str = WHOLE) -> EvalPart | None:
        """One pass of `reduce` over a store, and answers, all ranks' together; None on ranks that are not the writer."""
        reduced = self.engine.eval_step(_batches(self.session, self.engine, self.stores[name], augment=True))
        answers = self._answers(self.questions[name]) if name in self.questions else {}
        found = self.engine.collect((reduced, answers))
        if found is None:
            return None
        every = {row: answer for _, own in found for row, answer in own.items()}
        return with_answers(merge_parts([part for part, _ in found]), every)

    def _answers(self, questions: Questions) -> Answers:
        """Of this data rank's share of the rows."""
        engine = self.engine
        assert isinstance(engine, LendsDecoder), "`assemble` refuses strategies whose engines have no decoder"
        own = questions.share(engine.place.data_rank, engine.place.data_size)
        with self._decoding(questions) as decoder:
            if not engine.decodes_together:
                return questions.answers(DecodingLoop(decoder, decoder_start=self.start), own)
            together = Together(decoder, engine.agree)
            answers = questions.answers(DecodingLoop(together, decoder_start=self.start), own)
            together.finish()
            return answers

    def _decoding(self, questions: Questions) -> AbstractContextManager[Decodes]:
        engine = self.engine
        assert isinstance(engine, LendsDecoder), "`assemble` refuses strategies whose engines have no decoder"
        encodes = self.start is not None
        slots = questions.slots(engine.place.data_size, self.session.recipe.eval.batch_tokens, encodes)
        return engine.decoding(slots, *questions.room(encodes))


def _joined(parts: Sequence[EvalPart]) -> EvalPart:
    """Parts of several stores as one: their features are numbered on."""
    first, numbered = 0, []
    for part in parts:
        rows = [{**row, "feature_id": row["feature_id"] + first} for row in part.rows]
        first = rows[-1]["feature_id"] + 1 if rows else first
        numbered.append(replace(part, rows=rows))
    return merge_parts(numbered)


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
