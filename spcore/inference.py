"""Running a saved model: `artifact -> runtime -> Runner -> BoundTask.decode -> rows`. The same for every runtime and task."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from spcore.errors import DataError, RefusalError
from spcore.interfaces.dataset import Row
from spcore.interfaces.runtime import Forwards, Runner
from spcore.interfaces.strategy import BatchRule, Place
from spcore.interfaces.task import Batch, BoundTask, Feature

if TYPE_CHECKING:
    import numpy as np

    from spcore.features import Counts, FeatureStore
    from spcore.rows import RoleSource

_CHUNK = 4096


def forwards(runner: Runner) -> Forwards:
    """The runner as one that forwards. Raises RefusalError."""
    if not isinstance(runner, Forwards):
        raise RefusalError(
            f"the runtime gives {', '.join(sorted(runner.capabilities)) or 'nothing'}, and this needs 'forward'"
        )
    return runner


def predict_rows(
    runner: Runner, task: BoundTask, rows: Sequence[Row], place: Callable[[int], str] = "row {}".format
) -> list[dict[str, Any]]:
    """Answers in the order of `rows` (keyed by the task's column names). place: what a row is called. Raises DataError that
    names the row."""
    answers: list[dict[str, Any]] = []
    for at in range(0, len(rows), _CHUNK):
        part = rows[at : at + _CHUNK]
        answers += _predict_chunk(forwards(runner), task, part, [place(at + n) for n in range(len(part))])
    return answers


def _predict_chunk(
    runner: Forwards, task: BoundTask, rows: Sequence[Row], places: Sequence[str]
) -> list[dict[str, Any]]:
    from spcore.features import FeatureStore

    features: list[Feature] = []
    for row_id, row in enumerate(rows):
        try:
            made = task.featurize(row)
        except DataError as error:
            raise DataError(f"{places[row_id]}: {error.message}", hint=error.hint) from error
        features += [replace(f, id=len(features) + n, row_id=row_id) for n, f in enumerate(made)]
    if not features:
        return []
    by_row: dict[int, list[dict[str, Any]]] = {row: [] for row in range(len(rows))}
    store = FeatureStore.of(features)
    for batch, outputs in run_batches(runner, task, store, augment=False):
        for answer in task.decode(outputs, batch):
            by_row[answer["row_id"]].append(answer)
    return [{k: v for k, v in task.combine(by_row[row]).items() if k != "row_id"} for row in range(len(rows))]


def evaluate_rows(
    runner: Runner, task: BoundTask, source: RoleSource
) -> tuple[dict[str, float], list[dict[str, Any]], Counts]:
    """Metrics, the rows they were made of, and what became of the data's rows. Raises DataError where no row is usable."""
    from spcore.features import featurize
    from spcore.tensors.ops import WholeOps, as_tensors
    from spcore.trainer import merge_parts

    store = featurize(source, task, limit=None)
    if not len(store):
        raise DataError(f"no usable row: {'; '.join(store.counts.remarks()) or 'the data has no rows'}")
    parts = [
        task.reduce(
            as_tensors(outputs),
            replace(batch, inputs=as_tensors(batch.inputs), targets=as_tensors(batch.targets)),
            WholeOps(),
        )
        for batch, outputs in run_batches(forwards(runner), task, store, augment=True)
    ]
    part = merge_parts(parts)
    return task.metrics(part), part.rows, store.counts


def run_batches(
    runner: Forwards, task: BoundTask, store: FeatureStore, *, augment: bool
) -> Iterator[tuple[Batch, Mapping[str, np.ndarray]]]:
    """Batches of a store and their outputs, longest first."""
    from spcore.loading import evaluation_batches

    for batch in evaluation_batches(
        store, task, place=Place(), tokens=runner.batch_tokens, rule=BatchRule(), seed=0, augment=augment
    ):
        yield batch, runner.forward(batch)
