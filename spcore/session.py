"""From a recipe to a checked plan: `assemble` resolves every part and checks it against the others.

It runs in the caller's process before anything starts, and again in each child process. Configuration and data sizes are
read, weights are not.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from spcore.bars import shows_progress, silent
from spcore.components import Registry
from spcore.errors import DataError, RecipeError, RefusalError, unknown
from spcore.interfaces.launcher import Control, Emit, Launcher, RunResult, RunSpec
from spcore.interfaces.strategy import ParallelStrategy, Place, Plan
from spcore.interfaces.task import Annotates, BoundTask, Limits, Task
from spcore.recipe import DataPart, Part, Recipe, part_options

if TYPE_CHECKING:
    from spcore.features import FeatureStore
    from spcore.interfaces.model import LanguageModel
    from spcore.interfaces.optimizer import Schedule
    from spcore.rows import RoleSource

log = logging.getLogger("slimpajama.session")


@dataclass
class Session:
    """A recipe with every part resolved. plan: what engines get. train, eval: rows under the task's names."""

    recipe: Recipe
    registry: Registry
    plan: Plan
    strategy: ParallelStrategy
    launcher: Launcher
    schedule: Schedule
    task: Task
    train: RoleSource
    eval: RoleSource | None
    warnings: list[str] = field(default_factory=list)

    @property
    def bound(self) -> BoundTask:
        """The task, bound."""
        return self.plan.task

    @property
    def metric(self) -> str | None:
        """The metric that counts: the recipe's, else the first that the task names."""
        return self.recipe.eval.metric or next(iter(self.bound.metric_names), None)

    def features(self, source: RoleSource) -> FeatureStore:
        """The features of a source, from the cache where they are many. Raises DataError where none is usable."""
        from spcore.features import fingerprint
        from spcore.featurizing import featurize

        assert self.recipe.task is not None
        processor = self.plan.model.processor
        code = self.registry.owner("task", self.recipe.task.use).version  # another version may cut texts otherwise
        key = fingerprint(
            source.fingerprint, self.recipe.task.use, code, self.bound.state(), processor.fingerprint, self._limits()
        )
        store = featurize(source, self.bound, limit=self.plan.max_length, key=key)
        if not len(store):
            reasons = "; ".join(store.counts.remarks()) or "the data has no rows"
            raise DataError(f"no usable row: {reasons}")
        return store

    def _limits(self) -> tuple[int | None, int | None]:
        return self.plan.max_length, self.plan.pack


def create(registry: Registry, kind: str, part: Part, **more: Any) -> Any:
    """The component that a recipe's part names, with its options."""
    return registry.create(kind, part.use, part_options(part, kind, registry, **more))


def assemble(recipe: Recipe, registry: Registry, *, world_size: int | None = None) -> Session:
    """Resolve and check. world_size: processes, for a dry run; default: what the recipe's launcher starts.

    Raises RecipeError, SourceError, DataError, RefusalError: all before any process starts or any weight is read.
    """
    with recipe.at("adapter"):
        if recipe.adapter is not None and recipe.adapter.use:
            raise RefusalError(f"{recipe.adapter.use!r} cannot be saved by this version; leave `adapter` out")
    with recipe.at("model", "source"):
        model: LanguageModel = create(registry, "model", recipe.model).open(str(recipe.model.options.get("source", "")))
    with recipe.at("launch"):
        launcher: Launcher = create(registry, "launcher", recipe.launch)
    with recipe.at("strategy"):
        strategy: ParallelStrategy = create(registry, "strategy", recipe.strategy)
        layout = strategy.layout(world_size or launcher.processes)
    with recipe.at("data", "source"):
        train, recipe, task = _bind_data(recipe, registry)
    with recipe.at("eval", "data", "source"):
        evaluation = _open_eval(recipe, registry, task) if recipe.eval.data else None
    with recipe.at("data", "max_length"):
        limits = _limits(recipe, model)
    with recipe.at("task"):
        bound = task.bind(model.processor, model.config, train.schema, limits)
    with recipe.at("eval", "metric"):
        check_metric(recipe, bound.metric_names)
    with recipe.at("optimizer"):
        optimizer = create(registry, "optimizer", recipe.optimizer)
    settings = recipe.train
    plan = Plan(
        model=model, head=bound.head, task=bound, precision=create(registry, "precision", recipe.precision),
        optimizer=optimizer, adapter=None, global_batch_size=settings.global_batch_size,
        micro_batch_size=settings.micro_batch_size, micro_batch_tokens=settings.micro_batch_tokens,
        max_length=limits.max_length, pack=limits.pack, clip_norm=settings.clip_norm, seed=settings.seed,
        deterministic=settings.deterministic, nonfinite=settings.nonfinite, layout=layout, device=recipe.device,
        options=part_options(recipe.strategy, "strategy", registry),
    )  # fmt: skip
    schedule: Schedule = create(registry, "schedule", recipe.schedule)
    session = Session(recipe, registry, plan, strategy, launcher, schedule, task, train, evaluation)
    with recipe.at("strategy"):
        _check(session)
    session.warnings += [line for source in (train, evaluation) if source is not None for line in _remarks(source)]
    return session


def _remarks(source: RoleSource) -> list[str]:
    """What the reader of a data set has to say."""
    dropped = [
        f"{len(lines)} {'row' if len(lines) == 1 else 'rows'} dropped: {why} (first at line {lines[0]})"
        for why, lines in source.report.dropped.items()
        if lines
    ]
    return [*source.report.remarks, *dropped]


def _bind_data(recipe: Recipe, registry: Registry) -> tuple[RoleSource, Recipe, Task]:
    """Open the training rows and settle the task: the recipe's, else the one the data set is known for."""
    from spcore.interfaces.dataset import Schema
    from spcore.rows import open_rows

    dataset = create(registry, "dataset", recipe.data)
    name = (recipe.data.split or "").partition("[")[0] or None
    source = dataset.open(name)
    schema: Schema = source.schema
    part = recipe.task or (Part.model_validate({"use": schema.default_task}) if schema.default_task else None)
    if part is None:
        known = ", ".join(registry.names("task"))
        raise RecipeError(f"task: not given, and the data set names none; known: {known}")
    merged = part_options(part, "task", registry, **_accepted(schema.task_options, part, registry))
    task: Task = registry.create("task", part.use, merged)
    options = merged.model_dump(mode="json") if merged is not None else {}
    recipe = recipe.model_copy(update={"task": Part.model_validate({"use": part.use, **options})})
    rows = open_rows(
        dataset, task.roles, columns=recipe.data.columns, split=recipe.data.split, limit=recipe.data.limit,
        seed=recipe.train.seed, known=source,
    )  # fmt: skip
    return rows, recipe, task


def _accepted(offered: Any, part: Part, registry: Registry) -> dict[str, Any]:
    """What a data set advises, as far as the task has such an option and the recipe leaves it at its default."""
    model = registry.options_model("task", part.use)
    if model is None:
        return {}
    for key, value in part.options.items():
        if key in offered and key in model.model_fields and value == model.model_fields[key].default:
            part.model_extra.pop(key)  # type: ignore[union-attr]  # ours: validated from the recipe just now
    return {k: v for k, v in dict(offered).items() if k in model.model_fields}


def _open_eval(recipe: Recipe, registry: Registry, task: Task) -> RoleSource:
    from spcore.rows import open_rows

    data: DataPart = recipe.eval.data  # type: ignore[assignment]  # the caller looked
    columns = data.columns or (recipe.data.columns if data.use == recipe.data.use else {})
    return open_rows(
        create(registry, "dataset", data),
        task.roles,
        columns=columns,
        split=data.split,
        limit=data.limit,
        seed=recipe.train.seed,
    )


def _limits(recipe: Recipe, model: LanguageModel) -> Limits:
    most, asked, pack = model.processor.max_length, recipe.data.max_length, recipe.data.pack
    if asked is not None and most is not None and asked > most:
        raise RefusalError(f"data.max_length {asked}: the model has {most} positions; give {most} or less")
    length = asked or most
    if pack is not None:
        length = min(length, pack) if length is not None else pack
    return Limits(length, pack)


def _check(session: Session) -> None:
    """Ask every part what it refuses; the first refusal is raised, the number of others told."""
    spec = run_spec(session)
    if session.train.length is None:
        if session.recipe.train.steps is None:
            raise RefusalError("train.epochs: a streamed data set has no length; give train.steps")
        if isinstance(session.bound, Annotates):
            raise RefusalError(
                "data: the task needs figures of every row before it begins, and a stream has no end; use a file"
            )
    if session.eval is not None and session.eval.length is None:
        raise RefusalError("eval.data: a streamed data set has no length; evaluate on a file")
    refusals = [*session.strategy.check(session.plan), *session.launcher.check(spec)]
    if refusals:
        more = f" (and {len(refusals) - 1} more)" if len(refusals) > 1 else ""
        raise RefusalError(f"{refusals[0]}{more}")


def run_spec(session: Session) -> RunSpec:
    """The run as data for a launcher."""
    return RunSpec(
        recipe=session.recipe.to_json(), registry=session.registry.spec(), layout=session.plan.layout,
        inline=session.strategy.inline, options=part_options(session.recipe.launch, "launcher", session.registry), live=session,
    )  # fmt: skip


def run_rank(spec: RunSpec, place: Place, emit: Emit, control: Control) -> RunResult:
    """One process of a run, called by launchers in each. emit: called on the writer only."""
    recipe = Recipe.model_validate(spec.recipe)
    registry = spec.live.registry if spec.live is not None else Registry.from_spec(spec.registry)
    with silent(not place.is_writer or not shows_progress(recipe, registry)):
        session = spec.live or assemble(recipe, registry, world_size=spec.layout.world_size)
        return _run_rank(session, place, emit, control)


def _run_rank(session: Session, place: Place, emit: Emit, control: Control) -> RunResult:
    from spcore.trainer import Trainer

    store = session.features(session.train) if session.train.length is not None else None
    evaluation = session.features(session.eval) if session.eval is not None else None
    engine = session.strategy.engine(session.plan, place)
    try:
        return Trainer(session, engine, store, evaluation, emit, control).fit()
    finally:
        engine.close()


def check_metric(recipe: Recipe, known: Iterable[str]) -> None:
    """Raise for an `eval.metric` that the task does not give. known: names; none: not known yet."""
    wanted, names = recipe.eval.metric, tuple(known)
    if wanted is not None and names and wanted not in names:
        raise RecipeError(unknown("metric", wanted, names))
