"""Running a saved model: `artifact -> runtime -> Runner -> BoundTask.decode -> rows`. The same for every runtime and task."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal

from spcore.components import Registry
from spcore.errors import ComponentError, DataError, RefusalError
from spcore.interfaces.dataset import Row
from spcore.interfaces.runtime import Forwards, Generates, Runner, Score
from spcore.interfaces.strategy import BatchRule, Place
from spcore.interfaces.task import Batch, BoundTask, EvalPart, Feature, Limits, Prompts, Task

if TYPE_CHECKING:
    import numpy as np

    from spcore.features import Counts, FeatureStore
    from spcore.interfaces.model import LanguageModel
    from spcore.prompting import Writer
    from spcore.recipe import DataPart
    from spcore.rows import RoleSource

_CHUNK = 4096


def task_of(
    model: LanguageModel, registry: Registry, *, limits: Limits | None = None, options: Mapping[str, Any] | None = None
) -> tuple[Task, BoundTask] | None:
    """The task that a model was trained for elsewhere, as far as its configuration says so, bound to it; None where no task that is
    installed knows it. limits: None for what the model allows. options: of the task, in place of its defaults. Raises RefusalError
    where several know it."""
    found: dict[str, tuple[str, Task, dict[str, Any]]] = {}
    for plugin, component in registry.components("task"):
        name = f"{plugin}:{component.name}"
        task = _by_default(registry, name)
        state = task.state_of(model.config) if task is not None else None
        if task is not None and state is not None:
            found[component.name] = name, task, state
    if len(found) > 1:
        raise RefusalError(
            f"model {model.source!r}: its configuration could be of several tasks: {', '.join(found)}",
            hint="Leave the others out: registry=Registry(blocked=[PLUGIN])",
        )
    for name, task, state in found.values():
        chosen = task if not options else task_with(registry, name, options)
        most = limits or Limits(model.processor.max_length, evaluation=True)
        return chosen, chosen.bind(model.processor, model.config, state, most)
    return None


def task_with(registry: Registry, name: str, options: Mapping[str, Any]) -> Task:
    """A task with these settings. Raises RecipeError, ComponentError."""
    from spcore.recipe import lone_part, part_options

    part = lone_part({"use": name, **options}, "task", registry)
    task: Task = registry.create("task", name, part_options(part, "task", registry))
    return task


def evaluation_limits(data: DataPart, most: int | None, task: Task, *, usual: int | None) -> Limits:
    """Limits of an evaluation outside a run. most: tokens that the model's positions allow; usual: where `data` says nothing. Raises
    RefusalError."""
    from spcore.session import limited

    if data.pack is not None:
        raise RefusalError(f"data.pack {data.pack}: an evaluation makes no packs; leave it out")
    return replace(limited(data, most, task, usual=usual), evaluation=True)


def _by_default(registry: Registry, name: str) -> Task | None:
    """A task without settings; None where it cannot be made, which is told where somebody asks for it."""
    from pydantic import ValidationError

    try:
        options = registry.options_model("task", name)
        task: Task = registry.create("task", name, options() if options is not None else None)
    except (ComponentError, ValidationError):
        return None
    return task


def forwards(runner: Runner) -> Forwards:
    """The runner as one that forwards. Raises RefusalError."""
    if not isinstance(runner, Forwards):
        raise RefusalError(
            f"the runtime gives {', '.join(sorted(runner.capabilities)) or 'nothing'}, and this needs 'forward'"
        )
    return runner


def generates(runner: Runner) -> Generates:
    """The runner as one that generates. Raises RefusalError."""
    if not isinstance(runner, Generates) or "generate" not in runner.capabilities:
        raise RefusalError(
            f"the runtime gives {', '.join(sorted(runner.capabilities)) or 'nothing'}, and this needs 'generate'"
        )
    return runner


def predict_rows(
    runner: Runner,
    task: BoundTask,
    rows: Sequence[Row],
    place: Callable[[int], str] = "row {}".format,
    writer: Writer | None = None,
) -> list[dict[str, Any]]:
    """Answers in the order of `rows` (keyed by the task's column names). place: what a row is called. writer: of the answers of a task
    that predicts by generating; None: the runner, asked by nobody else meanwhile. Raises DataError that names the row."""
    if isinstance(task, Prompts):
        from spcore.prompting import Writer, answered, requests

        writer = writer or Writer(generates(runner))
        return answered(writer.generator, task, rows, requests(task, rows, place, writer.model))
    answers: list[dict[str, Any]] = []
    for at in range(0, len(rows), _CHUNK):
        part = rows[at : at + _CHUNK]
        answers += _predict_chunk(forwards(runner), task, part, [place(at + n) for n in range(len(part))])
    return answers


def _predict_chunk(
    runner: Forwards, task: BoundTask, rows: Sequence[Row], places: Sequence[str]
) -> list[dict[str, Any]]:
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
    for batch, outputs in _batched(runner, task, features):
        for answer in task.decode(outputs, batch):
            by_row[answer["row_id"]].append(answer)
    return [{k: v for k, v in task.combine(by_row[n], row).items() if k != "row_id"} for n, row in enumerate(rows)]


def _batched(
    runner: Forwards, task: BoundTask, features: list[Feature]
) -> Iterable[tuple[Batch, Mapping[str, np.ndarray]]]:
    """Batches of features and their outputs. Where one batch holds them all, as for whoever asks one text at a time, there is
    nothing to sort."""
    from spcore.features import FeatureStore

    longest = max(f.length for f in features)
    if len(features) * longest > runner.batch_tokens:
        return run_batches(runner, task, FeatureStore.of(features), augment=False)
    batch = task.collate([[f] for f in features], longest)
    return [(batch, runner.forward(batch))]


def evaluate_rows(
    runner: Runner, task: BoundTask, source: RoleSource, writer: Writer | None = None
) -> tuple[dict[str, float], list[dict[str, Any]], Counts]:
    """Metrics, the rows they were made of, and what became of the data's rows; see `evaluated_part`."""
    part, counts = evaluated_part(runner, task, source, writer)
    return task.metrics(part), part.rows, counts


def evaluated_part(
    runner: Runner, task: BoundTask, source: RoleSource, writer: Writer | None = None
) -> tuple[EvalPart, Counts]:
    """All that figures are made of, and what became of the data's rows. A task that is evaluated by generating has its answers beside what
    outputs give, or alone by a runner that only generates. writer: as for `predict_rows`. Raises DataError where no row is usable."""
    store = usable(source, task)
    if isinstance(task, Prompts):
        part = _with_generated(runner, task, source, store, writer)
    else:
        part = reduced(task, run_batches(forwards(runner), task, store, augment=True))
    return part, store.counts


def predictions(task: BoundTask, part: EvalPart, source: RoleSource) -> list[dict[str, Any]]:
    """Of each row of the data that was used: its number, its `id` where the data has such a column, and what `BoundTask.prediction` tells."""
    units = {row: list(own) for row, own in groupby(part.rows, key=lambda row: row["row_id"])}
    named = "id" in source.source.schema.columns
    ids = source.cells("id", list(units)) if named else [None] * len(units)
    found = []
    for (row, own), known in zip(units.items(), ids, strict=True):
        told = {name: value for name, value in task.prediction(own).items() if name != "feature_id"}
        found.append({"row_id": row, **({"id": known} if named else {}), **told})
    return found


def _with_generated(
    runner: Runner, task: Any, source: RoleSource, store: FeatureStore, writer: Writer | None
) -> EvalPart:
    """task: a BoundTask with the ability `Prompts`."""
    from spcore.prompting import Questions, Writer, with_answers

    writer = writer or Writer(generates(runner))
    questions = Questions(source, task, store, limit=None, model=writer.model)
    if isinstance(runner, Forwards) and "forward" in runner.capabilities:
        part = reduced(task, run_batches(runner, task, store, augment=True))
    else:
        rows = zip(store.ids.tolist(), store.rows.tolist(), strict=True)
        part = EvalPart({}, [{"feature_id": feature, "row_id": row} for feature, row in rows])
    return with_answers(part, questions.answers(writer.generator, range(len(questions.rows))))


def usable(source: RoleSource, task: BoundTask) -> FeatureStore:
    """The features of a data set. Raises DataError where no row is usable."""
    from spcore.featurizing import featurize

    store = featurize(source, task, limit=None)
    if not len(store):
        raise DataError(f"no usable row: {'; '.join(store.counts.remarks()) or 'the data has no rows'}")
    return store


def reduced(task: BoundTask, found: Iterable[tuple[Batch, Mapping[str, np.ndarray]]]) -> EvalPart:
    """What an evaluation needs of batches and their outputs."""
    from spcore.evaluating import merge_parts
    from spcore.tensors.ops import WholeOps, as_tensors

    parts = []
    for batch, outputs in found:
        tensors = replace(batch, inputs=as_tensors(batch.inputs), targets=as_tensors(batch.targets))
        parts.append(task.reduce(as_tensors(outputs), tensors, WholeOps()))
    return merge_parts(parts)


class RowSamples:
    """`spcore.interfaces.runtime.Samples` of a data set. Raises DataError where no row is usable."""

    def __init__(self, name: str, source: RoleSource, task: Task, bound: BoundTask) -> None:
        self.name, self._task, self._bound = name, task, bound
        self._store = usable(source, bound)

    def batches(self, tokens: int) -> Iterator[Batch]:
        """See `Samples.batches`."""
        rows: list[int] = []
        lengths = self._store.lengths
        for n in range(len(self._store)):
            if rows and (len(rows) + 1) * max(lengths[i] for i in (*rows, n)) > tokens:
                yield self._batch(rows)
                rows = []
            rows.append(n)
        yield self._batch(rows)

    def _batch(self, rows: Sequence[int]) -> Batch:
        return self._bound.collate([[self._store[n]] for n in rows], int(max(self._store.lengths[n] for n in rows)))

    def score(self, runner: Runner) -> Score:
        """See `Samples.score`."""
        began = time.perf_counter()
        found = list(run_batches(forwards(runner), self._bound, self._store, augment=True))
        seconds = time.perf_counter() - began
        figures = self._bound.metrics(reduced(self._bound, found))
        # Of a task that is evaluated by generating, what its outputs give by themselves.
        metric = next(name for name in (*self._bound.metric_names, *figures) if name in figures)
        better: Literal["more", "less"] = "less" if metric in self._task.lower_is_better else "more"
        return Score(metric, figures[metric], better, len(self._store) / max(seconds, 1e-9))


def run_batches(
    runner: Forwards, task: BoundTask, store: FeatureStore, *, augment: bool
) -> Iterator[tuple[Batch, Mapping[str, np.ndarray]]]:
    """Batches of a store and their outputs, longest first."""
    from spcore.loading import evaluation_batches

    for batch in evaluation_batches(
        store, task, place=Place(), tokens=runner.batch_tokens, rule=BatchRule(), seed=0, augment=augment
    ):
        yield batch, runner.forward(batch)
