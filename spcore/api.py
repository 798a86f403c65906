"""What programs use: `load_model`, `pretrain`, `finetune`, `evaluate`, `export`, `run`.

`import slimpajama` shows these names. Nothing here prints, exits, or leaves process-wide state changed; errors are
`SlimPajamaError`s with one line of text.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spcore import components
from spcore.api_writing import Writes
from spcore.artifact import PROCESSOR, Artifact, adopt, copy_model, is_artifact, open_artifact, open_model
from spcore.bars import on_terminal, silent, terminal_loggers
from spcore.components import Registry
from spcore.errors import ArtifactError, OutputError, RecipeError, RefusalError, RunCancelled, UserError
from spcore.files import read_errors
from spcore.given import Data, data_tree, parted, recipe_tree, scratch, text_rows
from spcore.inference import RowSamples, evaluated_part, evaluation_limits, predict_rows, predictions, task_of
from spcore.interfaces.dataset import Row
from spcore.interfaces.launcher import Control, RunResult
from spcore.interfaces.runtime import Embeds, PrepareReport, Runner, Runtime
from spcore.interfaces.task import BoundTask, Task
from spcore.recipe import DataPart, Recipe, checked_device, data_part, load_recipe, lone_part, part_options
from spcore.sharing import Shared

if TYPE_CHECKING:
    import numpy as np

    from spcore.interfaces.model import LanguageModel
    from spcore.intervals import Figures
    from spcore.rows import RoleSource
    from spcore.running import OnEvent


@dataclass(frozen=True)
class Evaluation:
    """metrics by name. predictions: one dict a row used, see `spcore.inference.predictions`. report: rows read, used, dropped and why.
    intervals: name -> (low, high), where they were asked for. groups: value of a column -> figures of the rows that have it."""

    metrics: dict[str, float]
    predictions: list[dict[str, Any]]
    report: dict[str, Any]
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    groups: dict[str, Figures] = field(default_factory=dict)


class LanguageModelHandle(Writes):
    """A model that can be fine-tuned, saved and asked. Made by `load_model`.

    It stands for a source (a Hub name or a folder) and, once fine-tuned or opened from a saved model, for an artifact on
    disk. Weights are read when it is first asked to predict. Threads may share it: while one fine-tunes it, others are answered by
    what it stood for before.
    """

    def __init__(
        self, source: str | Mapping[str, Any], *, registry: Registry, runtime: str | Mapping[str, Any], device: str
    ) -> None:
        self.registry, self._runtime, self._device = registry, runtime, device
        self._part: dict[str, Any] | None = None
        if not isinstance(source, str):
            source, self._part = _model_part(source, registry)
        with read_errors():
            self.source = str(Path(source).absolute()) if Path(source).exists() else source  # wherever the caller goes
            saved = is_artifact(source)
        self._artifact: Artifact | None = open_artifact(source, registry, self._part) if saved else None
        self._plain: LanguageModel | None = None if self._artifact else open_model(self.source, registry, self._part)
        self._component = _create_runtime(registry, runtime)
        if self._artifact is not None and self._component.portable and self._artifact.manifest.get(PROCESSOR):
            self._component.begin(self._artifact, device)
        else:
            _ = self._model  # what is wrong with it is told here, not when it is first asked
        self._runners: dict[bool, Runner] = {}
        self._users: Counter[Runner] = Counter()
        self._shared: dict[Runner, Shared] = {}
        self._bound: tuple[Task, BoundTask] | None = None
        self._lock = threading.RLock()
        self._temporary: Callable[[], Any] = contextlib.ExitStack().close

    @property
    def _model(self) -> LanguageModel:
        """What the source is, configuration only."""
        if self._artifact is not None:
            return self._artifact.model
        assert self._plain is not None, "a source that is no saved model was opened"
        return self._plain

    def finetune(
        self,
        dataset: Data,
        task: str | Mapping[str, Any] | None = None,
        *,
        epochs: float | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        eval_dataset: Data | None = None,
        seed: int | None = None,
        output: str | Path | None = None,
        settings: Mapping[str, Any] | None = None,
        progress: bool | None = None,
        overwrite: bool = False,
        on_event: OnEvent | None = None,
        cancel: Control | None = None,
    ) -> RunResult:
        """Fine-tune on a data set; the handle then stands for the result.

        task: a task component ("text-classification"), or a name that the data set knows (dataset="glue", task="sst2"); None:
        the one the data set is known for. output: the run's folder; None: a temporary one that lives as long as the handle stands for
        it, and of which nothing is left where the run fails or is cancelled.
        settings: anything else of a recipe by dotted path ({"train.clip_norm": 0.5}). progress: a bar on stderr; None: if that
        is a terminal. cancel: stops at a step's end when set. Raises SlimPajamaError.
        """
        with contextlib.ExitStack() as own:
            result = _trained(
                self._part or self.source, dataset, task, own, registry=self.registry, device=self._device, epochs=epochs, batch_size=batch_size,
                learning_rate=learning_rate, eval_dataset=eval_dataset, seed=seed, output=output, settings=settings, progress=progress,
                overwrite=overwrite, on_event=on_event, cancel=cancel,
            )  # fmt: skip
            if not result.cancelled:
                self._become(result.output, own)
            return result if output is not None or not result.cancelled else replace(result, output="")

    def evaluate(
        self,
        dataset: Data,
        task: str | None = None,
        *,
        split: str | None = None,
        columns: Mapping[str, str] | None = None,
        max_length: int | None = None,
        stride: int | None = None,
        settings: Mapping[str, Any] | None = None,
        bootstrap: int = 0,
        group_by: str | None = None,
    ) -> Evaluation:
        """Metrics on a data set. task: a name that the data set knows ("sst2" of "glue"). max_length: tokens of a feature; None: as it was
        trained. stride: tokens by which windows of a long text overlap; None: they do not. settings: anything else of the data set or
        the task by dotted path ({"task.look_ahead": False}). bootstrap: resamples that 95% intervals are made of; 0: none. group_by: a
        column of the data, for each of whose values the figures are given by themselves. Raises SlimPajamaError."""
        from spcore.intervals import by_group, figures

        with scratch() as spilling:
            tree = data_tree(dataset, task, self.registry, spilling)
            given = {"split": split, "columns": dict(columns or {}) or None, "max_length": max_length, "stride": stride}
            own, options = parted(settings or {}, ("data", "task"))
            tree.update({key: value for key, value in {**given, **own}.items() if value is not None})
            part = data_part(tree, self.registry)
            with self._in_use(lambda: self._otherwise(part, options)) as (runner, bound):
                source = open_part(part, self.task()[0], self.registry, self._trained_columns(tree))
                groups = source.values(group_by, range(source.length or 0)) if group_by is not None else None
                with self.writer(runner, bound) as writer:
                    part_of, counts = evaluated_part(runner, bound, source, writer)
                whole = figures(bound, part_of, bootstrap)
                several = by_group(bound, part_of, groups, bootstrap) if groups is not None else {}
                told = predictions(bound, part_of, source)
        report = {
            **counts.to_json(),
            "remarks": [*source.report.remarks, *counts.remarks()],
            "dropped_lines": dict(source.report.dropped),
        }
        return Evaluation(whole.metrics, told, report, whole.intervals, several)

    def predict(
        self,
        text: str | Sequence[str] | None = None,
        *,
        rows: Sequence[Row] | None = None,
        **columns: str | Sequence[str],
    ) -> list[dict[str, Any]]:
        """Answers in input order, one dict a row ({"label", "score"} for classification, {"text", "finish"} where they are generated).

        text: one text or several, the task's first column. Further columns by the task's names (text_pair=[...]), or whole `rows` as dicts.
        """
        task, _ = self.task()
        if rows is None:
            names = [role.name for role in task.roles if not role.target]
            rows = text_rows({**({names[0]: text} if text is not None else {}), **columns}, names)
        elif text is not None or columns:
            raise UserError("predict: give `rows`, or texts by column, not both")
        return self.predicted(rows)

    def predicted(self, rows: Sequence[Row], place: Callable[[int], str] = "row {}".format) -> list[dict[str, Any]]:
        """As `predict`, of rows by the task's column names. place: what a row is called where it is refused."""
        with self._in_use() as (runner, bound), self.writer(runner, bound) as writer:
            return predict_rows(runner, bound, rows, place, writer)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """One vector a text: float32 [rows, hidden], the mean over its tokens of the last hidden states."""
        with self._leased(task=False) as runner:
            if not isinstance(runner, Embeds):
                raise RefusalError(f"runtime {self._runtime!r} gives no embeddings")
            return runner.embed(texts)

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Save as a Hugging Face folder with slimpajama.json. A folder that is there already needs `overwrite`."""
        target = Path(folder).absolute()
        artifact = self.artifact()
        if target == artifact.folder:
            return target
        if target.is_dir() and any(target.iterdir()) and not overwrite and not is_artifact(target):
            raise OutputError(f"{target}: not empty, and no saved model", hint="Give another folder, or overwrite=True")
        copy_model(artifact.folder, target)
        return target

    def export(
        self,
        runtime: str,
        *,
        output: str | Path | None = None,
        evaluate: Data | None = None,
        calibrate: Data | None = None,
        **options: Any,
    ) -> PrepareReport:
        """Prepare the saved model for a runtime. output: a copy is prepared there, else the model's own folder. A model trained
        elsewhere, whose configuration says for what, needs it: there it becomes a saved model.

        evaluate: labelled rows on which it is scored before and after. calibrate: rows that a quantisation is fitted to. options:
        the runtime's own ({"quantise": "dynamic"}). The report's `refusal` says what was not written, and why. Raises
        SlimPajamaError.
        """
        component = _create_runtime(self.registry, runtime)
        task, bound = self.task()
        if self._artifact is None:
            self._adopt(task, bound, output)
            output = None
        artifact, (task, bound) = self.artifact(), self.task()
        with scratch() as spilling:
            given = {"evaluate": evaluate, "calibrate": calibrate}
            trees = {k: data_tree(d, None, self.registry, spilling) for k, d in given.items() if d is not None}
            data = {k: RowSamples(_called(t), self._opened(t, task), task, bound) for k, t in trees.items()}
            if output is not None:
                self._become(str(self.save(output)), contextlib.ExitStack())
                artifact, bound = self.artifact(), self.task()[1]
            return component.prepare(artifact, bound, options, data)

    def _adopt(self, task: Task, bound: BoundTask, output: str | Path | None) -> None:
        """Stand for a saved model of what was trained elsewhere."""
        if output is None:
            raise ArtifactError(
                f"{self.source}: no model saved by slimpajama",
                hint="Give output, a folder for one that can be exported",
            )
        folder = Path(output).absolute()
        if folder.is_dir() and any(folder.iterdir()):
            raise OutputError(f"{folder}: not empty", hint="Give another folder")
        adopt(self._model, task, bound, folder, self.registry)
        self._become(str(folder), contextlib.ExitStack())

    def artifact(self) -> Artifact:
        """The saved model it stands for. Raises ArtifactError where it is not fine-tuned."""
        if self._artifact is None:
            lacks = "was not fine-tuned here" if self._bound is not None else "has no task yet"
            raise ArtifactError(f"{self.source}: {lacks}", hint="Fine-tune it first, or load a saved model")
        return self._artifact

    @property
    def saved(self) -> bool:
        """Whether it stands for a saved model, not for one that was trained elsewhere."""
        return self._artifact is not None

    def task(self) -> tuple[Task, BoundTask]:
        """The task, and bound to this model: what it was trained for here, else what its configuration says it is."""
        known = self.known_task()
        if known is None:
            self.artifact()  # says what is lacking
        assert known is not None, "a saved model has a task"
        return known

    def known_task(self) -> tuple[Task, BoundTask] | None:
        """As `task`; None for what was not fine-tuned here and does not say what for."""
        with self._lock:
            if self._bound is None:
                saved = self._artifact
                self._bound = saved.task(self.registry) if saved is not None else task_of(self._model, self.registry)
            return self._bound

    def _otherwise(self, data: DataPart, options: Mapping[str, Any]) -> BoundTask:
        """The task, for an evaluation with limits and options of its own. Raises RefusalError for what the model has no room for."""
        saved, (task, bound) = self._artifact, self.task()
        if not (options or data.max_length or data.stride or data.pack):
            return bound
        most = (saved or self._model).processor.max_length
        limits = evaluation_limits(data, most, task, usual=saved.limits().max_length if saved is not None else most)
        if saved is not None:
            return saved.task(self.registry, limits=limits, options=options)[1]
        found = task_of(self._model, self.registry, limits=limits, options=options)
        assert found is not None, "the handle has its task already"
        return found[1]

    def runner(self, *, task: bool = True) -> Runner:
        """The loaded model, with its task's head or as the bare backbone; loaded on the first call."""
        with self._lock:
            if task not in self._runners:
                artifact = self._artifact or Artifact(Path(self.source), self._model, {})
                self._runners[task] = self._component.load(artifact, self.task()[1] if task else None, self._device)
            return self._runners[task]

    def close(self) -> None:
        """Free the loaded weights, once no thread uses them; they are read again when needed."""
        with self._lock:
            runners, self._runners = self._runners, {}
            for runner in runners.values():
                if not self._users[runner]:
                    self._closed(runner)

    @contextlib.contextmanager
    def _leased(self, *, task: bool = True) -> Iterator[Runner]:
        """The runner, which is not closed meanwhile."""
        with self._lock:
            runner = self.runner(task=task)
            self._users[runner] += 1
        try:
            yield runner
        finally:
            with self._lock:
                self._users[runner] -= 1
                if not self._users[runner]:
                    del self._users[runner]
                    if runner not in self._runners.values():
                        self._closed(runner)

    def _closed(self, runner: Runner) -> None:
        self._shared.pop(runner, None)
        runner.close()

    @contextlib.contextmanager
    def _in_use(self, bind: Callable[[], BoundTask] | None = None) -> Iterator[tuple[Runner, BoundTask]]:
        """The runner, and the task that it has the head of. bind: gives that task, before weights are read."""
        with contextlib.ExitStack() as stack:
            with self._lock:
                bound = bind() if bind is not None else self.task()[1]
                runner = stack.enter_context(self._leased())
            yield runner, bound

    def _become(self, folder: str, temporary: contextlib.ExitStack) -> None:
        """Stand for a saved model. temporary: what removes it, if it goes with this handle."""
        artifact = open_artifact(folder, self.registry)
        with self._lock:
            self.close()
            self.source, self._part, self._bound = folder, None, None
            self._artifact = artifact
            self._temporary()
            self._temporary = weakref.finalize(self, temporary.pop_all().close)

    def opened(self, data: Mapping[str, Any]) -> RoleSource:
        """Rows of a data set (as under a recipe's `data`), by the task's column names."""
        return self._opened(data, self.task()[0])

    def _opened(self, tree: Mapping[str, Any], task: Task) -> RoleSource:
        part = data_part(tree, self.registry)
        return open_part(part, task, self.registry, self._trained_columns(tree))

    def _trained_columns(self, tree: Mapping[str, Any]) -> Mapping[str, str]:
        """The training data's column names, for data of the same kind that says none."""
        manifest = self._artifact.manifest if self._artifact is not None else {}
        return {} if tree.get("columns") else manifest.get("recipe", {}).get("data", {}).get("columns", {})


def load_model(
    source: str | Path | Mapping[str, Any],
    *,
    runtime: str | Mapping[str, Any] = "torch",
    device: str = "auto",
    registry: Registry | None = None,
) -> LanguageModelHandle:
    """Open a model by Hub name, folder or GGUF file, or a saved model.

    source: or a mapping as under a recipe's `model`, with options ({"source": FOLDER, "chat_template": "chatml"}). runtime: what runs it (a component's name, or {"use": name, option: value}). device: "auto", "cpu", "cuda", "cuda:1".
    Raises SourceError that says what was looked for, where, and the nearest names.
    """
    given = source if isinstance(source, Mapping) else str(source)
    return LanguageModelHandle(
        given, registry=registry or components.default_registry(), runtime=runtime, device=checked_device(device)
    )


def _trained(
    model: str | Mapping[str, Any], dataset: Data, task: str | Mapping[str, Any] | None, own: contextlib.ExitStack, *, registry: Registry,
    device: str, epochs: float | None = None, batch_size: int | None = None, learning_rate: float | None = None,
    eval_dataset: Data | None = None, seed: int | None = None, output: str | Path | None = None,
    settings: Mapping[str, Any] | None = None, progress: bool | None = None, overwrite: bool = False, on_event: OnEvent | None = None,
    cancel: Control | None = None,
) -> RunResult:  # fmt: skip
    """A run as `LanguageModelHandle.finetune` says. own: gets what removes the temporary folder, where no output is given."""
    from spcore.running import execute  # what an answer does without

    with scratch() as spilling:
        tree = recipe_tree(
            model, dataset, task, eval_dataset=eval_dataset, registry=registry, scratch=spilling, epochs=epochs, batch_size=batch_size,
            learning_rate=learning_rate, seed=seed,
        )  # fmt: skip
        if output is None:
            folder = Path(tempfile.mkdtemp(prefix="slimpajama-"))
            own.callback(shutil.rmtree, folder, ignore_errors=True)
        tree["output"] = str(Path(output).absolute() if output is not None else folder / "run")
        show = on_terminal() if progress is None else progress
        usual = registry.defaults("logger")
        shown = terminal_loggers(usual, registry)
        kept = [name for name in usual if name not in shown] if output is not None else []
        tree["loggers"] = [*(shown if show else []), *kept]
        recipe = load_recipe(tree, {"device": device, **(settings or {})}, registry=registry)
        return execute(recipe, registry, overwrite=overwrite, on_event=on_event, cancel=cancel)


def pretrain(
    model: str | Path | Mapping[str, Any],
    dataset: Data,
    task: str | Mapping[str, Any] | None = None,
    *,
    registry: Registry | None = None,
    device: str = "auto",
    **settings: Any,
) -> LanguageModelHandle:
    """Train a model on text, from nothing or further. The trained handle.

    model: a mapping as under a recipe's `model`, for one that is made from nothing (an architecture and its sizes, or a preset; a
    tokenizer), or a Hub name, a folder or a file to go on from. task: an objective, one of the installed tasks. settings: as
    `LanguageModelHandle.finetune` takes them. Raises SlimPajamaError; a run that was cancelled too, and where `output` was given it
    goes on from there when it is started again.
    """
    known = registry or components.default_registry()
    with contextlib.ExitStack() as own:
        source = dict(model) if isinstance(model, Mapping) else str(model)
        result = _trained(source, dataset, task, own, registry=known, device=checked_device(device), **settings)
        if result.cancelled:
            raise RunCancelled("pretrain: cancelled before the model was finished")
        handle = load_model(result.output, registry=known, device=device)
        handle._become(result.output, own)
        return handle


def finetune(
    model: str | Path, dataset: Data, task: str | Mapping[str, Any] | None = None, **settings: Any
) -> LanguageModelHandle:
    """`load_model(model)`, then `finetune` with the same arguments; the fine-tuned handle."""
    with silent(settings.get("progress") is False):
        handle = load_model(model, registry=settings.pop("registry", None), device=settings.pop("device", "auto"))
    handle.finetune(dataset, task, **settings)
    return handle


def evaluate(model: str | Path, dataset: Data, task: str | None = None, **options: Any) -> Evaluation:
    """`load_model(model).evaluate(dataset, task)`."""
    return load_model(model, registry=options.pop("registry", None)).evaluate(dataset, task, **options)


def export(model: str | Path, runtime: str, **options: Any) -> PrepareReport:
    """`load_model(model).export(runtime, ...)`."""
    return load_model(model, registry=options.pop("registry", None)).export(runtime, **options)


def run(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    overrides: Mapping[str, Any] | Sequence[str] = (),
    *,
    registry: Registry | None = None,
    overwrite: bool = False,
    on_event: OnEvent | None = None,
    cancel: Control | None = None,
) -> RunResult:
    """Carry out a recipe: a file, a mapping, or a `Recipe`. Raises SlimPajamaError."""
    from spcore.running import execute

    registry = registry or components.default_registry()
    resolved = recipe if isinstance(recipe, Recipe) else load_recipe(recipe, overrides, registry=registry)
    return execute(resolved, registry, overwrite=overwrite, on_event=on_event, cancel=cancel)


def _called(tree: Mapping[str, Any]) -> str:
    """A data set's name, for people."""
    return str(tree.get("source") or tree.get("use"))


def open_part(part: DataPart, task: Task, registry: Registry, columns: Mapping[str, str]) -> RoleSource:
    """Rows of a data set for a task. columns: where `part` maps none. Raises RefusalError for a stream, which has no end."""
    from spcore.rows import open_rows

    dataset = registry.create("dataset", part.use, part_options(part, "dataset", registry))
    rows = open_rows(dataset, task.roles, columns=part.columns or columns, split=part.split, limit=part.limit)
    if rows.length is None:
        raise RefusalError("data: a streamed data set has no length; use a file")
    return rows


def _model_part(given: Mapping[str, Any], registry: Registry) -> tuple[str, dict[str, Any]]:
    """(source, the part in full) of a model as a recipe names it. Raises RecipeError."""
    part = lone_part(given, "model", registry)
    source = str(given.get("source") or "")
    if not source:
        raise RecipeError("model.source: missing, expected: a name on the Hub, a folder or a file")
    return source, {**part.options, "use": part.use, "source": source}


def _create_runtime(registry: Registry, runtime: str | Mapping[str, Any]) -> Runtime:
    part = lone_part(runtime, "runtime", registry)
    created: Runtime = registry.create("runtime", part.use, part_options(part, "runtime", registry))
    return created
