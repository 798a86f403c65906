"""From a recipe to a checked plan: `assemble` resolves every part and checks it against the others.

It runs in the caller's process before anything starts, and again in each child process. Configuration and data sizes are
read, weights are not.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from spcore.bars import shows_progress, silent
from spcore.components import Registry, RegistryBridges
from spcore.errors import DataError, RecipeError, RefusalError, unknown
from spcore.files import read_errors
from spcore.interfaces.launcher import Control, Emit, Launcher, Probe, RunResult, RunSpec
from spcore.interfaces.model import LearnsTexts, Model, Steps
from spcore.interfaces.strategy import ParallelStrategy, Place, Plan
from spcore.interfaces.task import Annotates, BoundTask, Limits, Prompts, Task
from spcore.recipe import DataPart, Part, Recipe, part_options

if TYPE_CHECKING:
    from spcore.features import FeatureStore
    from spcore.interfaces.model import LanguageModel
    from spcore.interfaces.optimizer import Schedule
    from spcore.mixing import Mixture
    from spcore.rows import RoleSource
    from spcore.streaming import Feed

log = logging.getLogger("slimpajama.session")


@dataclass
class Session:
    """A recipe with every part resolved. plan: what engines get. train, eval: rows under the task's names; limits, eval_limits: of
    their features."""

    recipe: Recipe
    registry: Registry
    plan: Plan
    strategy: ParallelStrategy
    launcher: Launcher
    schedule: Schedule
    task: Task
    train: RoleSource | Mixture
    eval: RoleSource | Mixture | None
    limits: Limits
    eval_limits: Limits
    warnings: list[str] = field(default_factory=list)

    @property
    def bound(self) -> BoundTask:
        """The task, bound."""
        return self.plan.task

    @property
    def metric(self) -> str | None:
        """The metric that counts: the recipe's, else the first that the task names."""
        return self.recipe.eval.metric or next(iter(known_metrics(self.recipe, self.bound)), None)

    @property
    def generates(self) -> bool:
        """Whether evaluations generate answers."""
        return self.eval is not None and self.recipe.eval.generate != 0 and isinstance(self.bound, Prompts)

    def features(self, source: RoleSource, limits: Limits | None = None) -> FeatureStore:
        """The features of a source, from the cache where they are many. limits: default, those of training. Raises DataError where none
        is usable."""
        from spcore.features import fingerprint
        from spcore.featurizing import featurize

        assert self.recipe.task is not None
        processor = self.plan.model.processor
        limits = limits or self.limits
        code = self.registry.owner("task", self.recipe.task.use).version  # another version may cut texts otherwise
        key = fingerprint(
            source.fingerprint, self.recipe.task.use, code, self.bound.state(), processor.fingerprint, astuple(limits)
        )
        store = featurize(source, self._cutting(limits), limit=self.plan.max_length, key=key)
        if not len(store):
            reasons = "; ".join(store.counts.remarks()) or "the data has no rows"
            raise DataError(f"no usable row: {reasons}")
        return store

    def _cutting(self, limits: Limits) -> BoundTask:
        """The task that makes features. Only where texts are cut into windows do those of an evaluation differ."""
        if limits == self.limits or not self.task.windows:
            return self.bound
        return self.task.bind(self.plan.model.processor, self.plan.model.config, self.bound.state(), limits)

    def training(self) -> FeatureStore | Feed:
        """What is trained on: a store of all features, or a feed of a stream's or a mixture's."""
        from spcore.mixing import Mixture, mixed

        if not isinstance(self.train, Mixture):
            return self._given(self.train)
        data = {name: self._given(source, name) for name, source in self.train.sources.items()}
        tokens = self.recipe.data.weights_of == "tokens"
        return mixed(data, self.train.weights, seed=self.plan.seed, tokens=tokens)

    def _given(self, source: RoleSource, name: str = "") -> FeatureStore | Feed:
        from spcore.streaming import StreamFeed

        if source.length is None:
            seed, limit, buffer = self.plan.seed, self.plan.max_length, self.recipe.data.shuffle_buffer
            return StreamFeed(source, self.bound, seed=seed, limit=limit, buffer=buffer)
        try:
            return self.features(source)
        except DataError as error:
            if name:
                raise DataError(f"data.sources.{name}: {error.message}", hint=error.hint) from error
            raise

    def evaluation(self) -> dict[str, FeatureStore] | None:
        """The features that are evaluated on, by the name of their source."""
        if self.eval is None:
            return None
        return {name: self.features(part, self.eval_limits) for name, part in sources_of(self.eval).items()}


def create(registry: Registry, kind: str, part: Part, **more: Any) -> Any:
    """The component that a recipe's part names, with its options."""
    return registry.create(kind, part.use, part_options(part, kind, registry, **more))


def assemble(recipe: Recipe, registry: Registry, *, world_size: int | None = None, here: bool = True) -> Session:
    """Resolve and check. world_size: processes, for a dry run; default: what the recipe's launcher starts. here: whether this process
    would start it; else the launcher is asked nothing.

    Raises RecipeError, SourceError, DataError, RefusalError: all before any process starts or any weight is read.
    """
    with recipe.at("adapter"):
        if recipe.adapter is not None and recipe.adapter.use:
            raise RefusalError(f"{recipe.adapter.use!r} cannot be saved by this version; leave `adapter` out")
    with recipe.at("model", "source"), read_errors():
        source = registry.bare("model", recipe.model.use, str(recipe.model.options.get("source", "")))
        opener: Model = create(registry, "model", recipe.model)
        learns = isinstance(opener, LearnsTexts) and opener.learns
        opened = None if learns else opener.open(source)
    with recipe.at("launch"):
        launcher: Launcher = create(registry, "launcher", recipe.launch)
    with recipe.at("strategy"):
        strategy: ParallelStrategy = create(registry, "strategy", recipe.strategy)
        layout = strategy.layout(world_size or launcher.processes)
    with recipe.at("data", "source"):
        train, recipe, task = _bind_data(recipe, registry)
    with recipe.at("model", "source"), read_errors():
        model: LanguageModel = opened or _learnt(opener, train, task).open(source)
    with recipe.at("eval", "data", "source"):
        evaluation = _open_eval(recipe, registry, task) if recipe.eval.data else None
    with recipe.at("data"):
        limits = limited(recipe.data, model.processor.max_length, task)
    with recipe.at("eval", "data"):
        own = recipe.eval.data.stride if recipe.eval.data else None
        eval_limits = replace(with_stride(limits, own or limits.stride, task), evaluation=True)
    with recipe.at("task"):
        bound = task.bind(model.processor, model.config, train.schema, limits)
        _check_attention(model, bound)
    with recipe.at("eval", "metric"):
        several = sources_of(evaluation) if evaluation is not None else {}
        known = known_metrics(recipe, bound)
        check_metric(recipe, [*known, *(f"{metric}/{name}" for name in several if name for metric in known)])
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
        bridges=RegistryBridges(registry),
    )  # fmt: skip
    schedule: Schedule = create(registry, "schedule", recipe.schedule)
    session = Session(
        recipe, registry, plan, strategy, launcher, schedule, task, train, evaluation, limits, eval_limits
    )
    with recipe.at("eval", "generate"):
        _check_generating(session)
    with recipe.at("strategy"):
        _check(session, here)
    session.warnings += [line for source in (train, evaluation) if source is not None for line in _remarks(source)]
    return session


def _learnt(opener: Model, train: RoleSource | Mixture, task: Task) -> Model:
    """A model source that has learnt what it makes of the training texts."""
    from spcore.texts import Texts

    assert isinstance(opener, LearnsTexts), "it was not opened for this"
    texts = Texts(sources_of(train), task.roles)
    opener.learn(texts, texts.rows, texts.fingerprint)
    return opener


def sources_of(rows: RoleSource | Mixture) -> dict[str, RoleSource]:
    """The sources of data by name; the only one has the name ""."""
    from spcore.rows import RoleSource

    return {"": rows} if isinstance(rows, RoleSource) else dict(rows.sources)


def _remarks(source: RoleSource | Mixture) -> list[str]:
    """What the reader of a data set has to say."""
    dropped = [
        f"{len(lines)} {'row' if len(lines) == 1 else 'rows'} dropped: {why} (first at line {lines[0]})"
        for why, lines in source.report.dropped.items()
        if lines
    ]
    return [*source.report.remarks, *dropped]


def _bind_data(recipe: Recipe, registry: Registry) -> tuple[RoleSource | Mixture, Recipe, Task]:
    """Open the training rows and settle the task: the recipe's, else the one the data set is known for."""
    from spcore.interfaces.dataset import Schema
    from spcore.rows import open_rows

    weights = {name: part.weight or 0.0 for name, part in (recipe.data.sources or {}).items()}
    opened = {}
    for name, part in recipe.data.parts.items():
        with recipe.at("data", *_below(name), "source"), read_errors():
            dataset = create(registry, "dataset", part)
            opened[name] = part, dataset, dataset.open((part.split or "").partition("[")[0] or None)
    schemas: list[Schema] = [source.schema for _, _, source in opened.values()]
    known, options = schemas[0].default_task, schemas[0].task_options
    if any(schema.default_task != known for schema in schemas):
        known = None
    chosen = recipe.task or (Part.model_validate({"use": known}) if known else None)
    if chosen is None:
        names = ", ".join(registry.names("task"))
        raise RecipeError(f"task: not given, and the data set names none; known: {names}")
    offered = options if all(schema.task_options == options for schema in schemas) else {}
    merged = part_options(chosen, "task", registry, **_accepted(offered, chosen, registry))
    task: Task = registry.create("task", chosen.use, merged)
    given = merged.model_dump(mode="json") if merged is not None else {}
    recipe = recipe.model_copy(update={"task": Part.model_validate({"use": chosen.use, **given})})
    rows = {}
    for name, (data, dataset, source) in opened.items():
        with recipe.at("data", *_below(name), "source"):
            rows[name] = open_rows(
                dataset, task.roles, columns=data.columns, split=data.split, limit=data.limit, known=source
            )  # fmt: skip
    labelled = [role.name for role in task.roles if role.kind == "label"]
    return _whole(rows, weights, labelled), recipe, task


def _below(name: str) -> tuple[str, ...]:
    """Where a source stands under `data`."""
    return ("sources", name) if name else ()


def _whole(
    rows: dict[str, RoleSource], weights: dict[str, float], labelled: Sequence[str] = ()
) -> RoleSource | Mixture:
    from spcore.mixing import Mixture

    return rows[""] if "" in rows else Mixture(rows, weights, labelled)


def _accepted(offered: Any, part: Part, registry: Registry) -> dict[str, Any]:
    """What a data set advises, as far as the task has such an option and the recipe leaves it at its default."""
    model = registry.options_model("task", part.use)
    if model is None:
        return {}
    for key, value in part.options.items():
        if key in offered and key in model.model_fields and value == model.model_fields[key].default:
            part.model_extra.pop(key)  # type: ignore[union-attr]  # ours: validated from the recipe just now
    return {k: v for k, v in dict(offered).items() if k in model.model_fields}


def _open_eval(recipe: Recipe, registry: Registry, task: Task) -> RoleSource | Mixture:
    from spcore.rows import open_rows

    data: DataPart = recipe.eval.data  # type: ignore[assignment]  # the caller looked
    rows = {}
    for name, part in data.parts.items():
        trained = recipe.data.parts.get(name)
        columns = part.columns or (trained.columns if trained is not None and part.use == trained.use else {})
        with recipe.at("eval", "data", *_below(name), "source"):
            dataset = create(registry, "dataset", part)
            rows[name] = open_rows(dataset, task.roles, columns=columns, split=part.split, limit=part.limit)
    return _whole(rows, {})


def limited(data: DataPart, most: int | None, task: Task, *, usual: int | None = None) -> Limits:
    """The limits of a data set's features. most: tokens that the model's positions allow; usual: where the data set says nothing, None
    for `most`. Raises RefusalError."""
    if data.max_length is not None and most is not None and data.max_length > most:
        raise RefusalError(f"data.max_length {data.max_length}: the model has {most} positions; give {most} or less")
    length = data.max_length or usual or most
    if data.pack is not None:
        length = min(length, data.pack) if length is not None else data.pack
    return with_stride(Limits(length, data.pack), data.stride, task)


def _check_attention(model: LanguageModel, bound: BoundTask) -> None:
    """Raise RefusalError where the model attends otherwise than the task needs."""
    needed = bound.head.causal
    if needed is None or model.anatomy(bound.head).causal == needed:
        return
    has, lacks = ("all positions", "earlier ones only") if needed else ("earlier positions only", "all of them")
    raise RefusalError(f"family {model.family!r} attends to {has}, and the task needs a model that attends to {lacks}")


def with_stride(limits: Limits, stride: int | None, task: Task) -> Limits:
    """Limits with that overlap. Raises RefusalError where the task knows no windows, or they would not move on."""
    if stride is None:
        return limits
    if not task.windows:
        raise RefusalError(f"data.stride {stride}: the task does not cut texts into windows; leave data.stride out")
    if limits.max_length is not None and stride >= limits.max_length:
        most = limits.max_length
        raise RefusalError(f"data.stride {stride}: windows of {most} tokens overlap by {most - 1} at most; give less")
    return replace(limits, stride=stride)


def known_metrics(recipe: Recipe, bound: BoundTask) -> tuple[str, ...]:
    """Names of the metrics that a run's evaluations give, as far as the task names them, the one that counts first."""
    if recipe.eval.generate == 0 and isinstance(bound, Prompts):
        return tuple(name for name in bound.metric_names if name not in bound.answer_metrics)
    return bound.metric_names


def _check_generating(session: Session) -> None:
    """Raise RefusalError where evaluations are to generate, and the parts cannot, or have nothing to generate for."""
    recipe, model = session.recipe, session.plan.model
    if recipe.eval.generate is not None and not isinstance(session.bound, Prompts):
        assert recipe.task is not None
        raise RefusalError(f"eval.generate: task {recipe.task.use!r} is not evaluated by generating; leave it out")
    if not session.generates:
        return
    if not isinstance(model, Steps):
        raise RefusalError(
            f"family {model.family!r} gives no text token by token: eval.generate=0 evaluates the loss alone"
        )
    if not session.strategy.decodes:
        raise RefusalError(
            f"strategy {recipe.strategy.use!r} does not generate: eval.generate=0 evaluates the loss alone, or use another strategy"
        )


def _check(session: Session, here: bool) -> None:
    """Ask every part what it refuses; the first refusal is raised, the number of others told."""
    _check_data(session)
    refusals = session.strategy.check(session.plan)
    if here:
        refusals = [*refusals, *session.launcher.check(run_spec(session))]
    if refusals:
        more = f" (and {len(refusals) - 1} more)" if len(refusals) > 1 else ""
        raise RefusalError(f"{refusals[0]}{more}")


def _check_data(session: Session) -> None:
    """What streams and mixtures cannot do."""
    from spcore.rows import RoleSource

    data, streams = session.recipe.data, [n for n, rows in sources_of(session.train).items() if rows.length is None]
    if data.shuffle_buffer and not streams:
        raise RefusalError(
            "data.shuffle_buffer: only streams have one; data with a length is shuffled whole: leave it out"
        )
    if data.weights_of == "tokens" and streams:
        at = f"data.sources.{streams[0]}" if streams[0] else "data"
        raise RefusalError(f"data.weights_of: the tokens of a stream are not known before: {at} is one; give features")
    if session.train.length is None:
        what = "a streamed data set has no length" if isinstance(session.train, RoleSource) else "a mixture has no end"
        if session.recipe.train.steps is None:
            raise RefusalError(f"train.epochs: {what}; give train.steps")
        if isinstance(session.bound, Annotates):
            raise RefusalError(f"data: the task needs figures of every row before it begins, and {what}; use a file")
    if session.eval is not None and (streamed := [n for n, r in sources_of(session.eval).items() if r.length is None]):
        at = ".".join(("eval.data", *_below(streamed[0])))
        raise RefusalError(f"{at}: a streamed data set has no length; evaluate on a file")


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
        return _run_rank(session, place, emit, control, spec.probe)


def _run_rank(session: Session, place: Place, emit: Emit, control: Control, probe: Probe | None) -> RunResult:
    from spcore.probing import probed
    from spcore.trainer import Trainer

    data, evaluation = session.training(), session.evaluation()
    engine = session.strategy.engine(session.plan, place)
    try:
        trainer = Trainer(session, engine, data, evaluation, emit, control)
        return trainer.fit() if probe is None else probed(trainer, probe)
    finally:
        engine.close()


def check_metric(recipe: Recipe, known: Iterable[str]) -> None:
    """Raise for an `eval.metric` that the task does not give. known: names; none: not known yet."""
    wanted, names = recipe.eval.metric, tuple(known)
    if wanted is not None and names and wanted not in names:
        raise RecipeError(unknown("metric", wanted, names))
