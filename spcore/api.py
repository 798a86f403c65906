"""What programs use: `load_model`, `finetune`, `evaluate`, `export`, `run`.

`import slimpajama` shows these names. Nothing here prints, exits, or leaves process-wide state changed; errors are
`SlimPajamaError`s with one line of text.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spcore import components
from spcore.artifact import Artifact, copy_model, is_artifact, open_artifact, open_model
from spcore.components import Registry
from spcore.errors import ArtifactError, DataError, OutputError, RefusalError, UserError, unknown
from spcore.interfaces.dataset import Row
from spcore.interfaces.launcher import Control, RunResult
from spcore.interfaces.runtime import Embeds, PrepareReport, Runner, Runtime
from spcore.interfaces.task import BoundTask, Task
from spcore.recipe import DataPart, Recipe, data_part, load_recipe, part_options
from spcore.running import OnEvent, execute

if TYPE_CHECKING:
    import numpy as np

    from spcore.interfaces.model import LanguageModel

Data = str | Path | Mapping[str, Any] | Sequence[Row]
"""A data set: a name, a path, a mapping as under a recipe's `data`, or rows as dicts."""


@dataclass(frozen=True)
class Evaluation:
    """metrics by name. predictions: one dict a row used. report: rows read, used, dropped and why."""

    metrics: dict[str, float]
    predictions: list[dict[str, Any]]
    report: dict[str, Any]


class LanguageModelHandle:
    """A model that can be fine-tuned, saved and asked. Made by `load_model`.

    It stands for a source (a Hub name or a folder) and, once fine-tuned or opened from a saved model, for an artifact on
    disk. Weights are read when it is first asked to predict.
    """

    def __init__(self, source: str, *, registry: Registry, runtime: str | Mapping[str, Any], device: str) -> None:
        self.registry, self._runtime, self._device = registry, runtime, device
        self.source = source
        self._artifact: Artifact | None = open_artifact(source, registry) if is_artifact(source) else None
        self._model: LanguageModel = self._artifact.model if self._artifact else open_model(source, registry)
        self._runners: dict[bool, Runner] = {}
        self._bound: tuple[Task, BoundTask] | None = None

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
        the one the data set is known for. output: the run's folder; None: a temporary one that lives as long as the handle.
        settings: anything else of a recipe by dotted path ({"train.clip_norm": 0.5}). progress: a bar on stderr; None: if that
        is a terminal. cancel: stops at a step's end when set. Raises SlimPajamaError.
        """
        tree = recipe_tree(
            self.source, dataset, task, eval_dataset=eval_dataset, registry=self.registry, scratch=self._scratch,
            epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, seed=seed,
        )  # fmt: skip
        tree["output"] = str(Path(output).absolute() if output is not None else self._scratch() / "run")
        show = sys.stderr.isatty() if progress is None else progress
        tree["loggers"] = [*(["progress"] if show else []), *(["jsonl"] if output is not None else [])]
        recipe = load_recipe(tree, {"device": self._device, **(settings or {})}, registry=self.registry)
        result = execute(recipe, self.registry, overwrite=overwrite, on_event=on_event, cancel=cancel)
        if not result.cancelled:
            self._become(result.output)
        return result

    def evaluate(
        self,
        dataset: Data,
        task: str | None = None,
        *,
        split: str | None = None,
        columns: Mapping[str, str] | None = None,
    ) -> Evaluation:
        """Metrics on a data set. task: a name that the data set knows ("sst2" of "glue"). Raises SlimPajamaError."""
        from spcore.inference import evaluate_rows

        task_part, bound = self.task()
        tree = data_tree(dataset, task, self.registry, self._scratch)
        if split is not None:
            tree["split"] = split
        if columns:
            tree["columns"] = dict(columns)
        source = _open(data_part(tree, self.registry), task_part, self.registry, self._trained_columns(tree))
        metrics, rows, counts = evaluate_rows(self.runner(), bound, source)
        report = {
            **counts.to_json(),
            "remarks": [*source.report.remarks, *counts.remarks()],
            "dropped_lines": dict(source.report.dropped),
        }
        return Evaluation(metrics, rows, report)

    def predict(
        self,
        text: str | Sequence[str] | None = None,
        *,
        rows: Sequence[Row] | None = None,
        **columns: str | Sequence[str],
    ) -> list[dict[str, Any]]:
        """Answers in input order, one dict a row ({"label", "score"} for classification).

        text: one text or several. Further columns by the task's names (text_pair=[...]), or whole `rows` as dicts.
        """
        from spcore.inference import predict_rows

        task, bound = self.task()
        if rows is None:
            given = {**({"text": text} if text is not None else {}), **columns}
            rows = _rows(given, [r.name for r in task.roles if not r.target])
        elif text is not None or columns:
            raise UserError("predict: give `rows`, or texts by column, not both")
        return predict_rows(self.runner(), bound, rows)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """One vector a text: float32 [rows, hidden], the mean over its tokens of the last hidden states."""
        runner = self.runner(task=False)
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

    def export(self, runtime: str, *, output: str | Path | None = None, **options: Any) -> PrepareReport:
        """Prepare the saved model for a runtime. output: a copy is prepared there, else the model's own folder."""
        if output is not None:
            self._become(str(self.save(output)))
        component: Runtime = _create_runtime(self.registry, runtime)
        return component.prepare(self.artifact(), self.task()[1], options)

    def artifact(self) -> Artifact:
        """The saved model it stands for. Raises ArtifactError where it is not fine-tuned."""
        if self._artifact is None:
            raise ArtifactError(f"{self.source}: has no task yet", hint="Fine-tune it first, or load a saved model")
        return self._artifact

    def task(self) -> tuple[Task, BoundTask]:
        """The task, and bound to this model."""
        if self._bound is None:
            self._bound = self.artifact().task(self.registry)
        return self._bound

    def runner(self, *, task: bool = True) -> Runner:
        """The loaded model, with its task's head or as the bare backbone; loaded on the first call."""
        if task not in self._runners:
            runtime = _create_runtime(self.registry, self._runtime)
            artifact = self._artifact or Artifact(Path(self.source), self._model, {})
            self._runners[task] = runtime.load(artifact, self.task()[1] if task else None, self._device)
        return self._runners[task]

    def close(self) -> None:
        """Free the loaded weights; they are read again when needed."""
        for runner in self._runners.values():
            runner.close()
        self._runners = {}

    def _become(self, folder: str) -> None:
        self.close()
        self.source, self._bound = folder, None
        self._artifact = open_artifact(folder, self.registry)
        self._model = self._artifact.model

    def _scratch(self) -> Path:
        """A new temporary folder that goes with this handle."""
        folder = Path(tempfile.mkdtemp(prefix="slimpajama-"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return folder

    def _trained_columns(self, tree: Mapping[str, Any]) -> Mapping[str, str]:
        """The training data's column names, for data of the same kind that says none."""
        return (
            {} if tree.get("columns") else self.artifact().manifest.get("recipe", {}).get("data", {}).get("columns", {})
        )


def load_model(
    source: str | Path,
    *,
    runtime: str | Mapping[str, Any] = "torch",
    device: str = "auto",
    registry: Registry | None = None,
) -> LanguageModelHandle:
    """Open a model by Hub name or folder, or a saved model.

    runtime: what runs it (a component's name, or {"use": name, option: value}). device: "auto", "cpu", "cuda", "cuda:1".
    Raises SourceError that says what was looked for, where, and the nearest names.
    """
    return LanguageModelHandle(
        str(source), registry=registry or components.default_registry(), runtime=runtime, device=device
    )


def finetune(
    model: str | Path, dataset: Data, task: str | Mapping[str, Any] | None = None, **settings: Any
) -> LanguageModelHandle:
    """`load_model(model)`, then `finetune` with the same arguments; the fine-tuned handle."""
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
    registry = registry or components.default_registry()
    resolved = recipe if isinstance(recipe, Recipe) else load_recipe(recipe, overrides, registry=registry)
    return execute(resolved, registry, overwrite=overwrite, on_event=on_event, cancel=cancel)


def recipe_tree(
    model: str, dataset: Data, task: str | Mapping[str, Any] | None, *, eval_dataset: Data | None, registry: Registry, scratch: Any,
    epochs: float | None = None, batch_size: int | None = None, learning_rate: float | None = None, seed: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The recipe of a fine-tuning, not yet checked. A `task` that is no component is the data set's `name`."""
    component = task if not isinstance(task, str) or registry.has("task", task) else None
    name = task if component is None and isinstance(task, str) else None
    data = data_tree(dataset, name, registry, scratch)
    tree: dict[str, Any] = {"model": model, "data": data}
    if component is not None:
        tree["task"] = component
    train = {"epochs": epochs, "global_batch_size": batch_size, "seed": seed}
    tree["train"] = {k: v for k, v in train.items() if v is not None}
    if learning_rate is not None:
        tree["optimizer"] = {"lr": learning_rate}
    if eval_dataset is not None:
        tree["eval"] = {"data": data_tree(eval_dataset, name, registry, scratch)}
    return tree


def data_tree(dataset: Data, name: str | None, registry: Registry, scratch: Any) -> dict[str, Any]:
    """A data set as a recipe's mapping. Rows are spilled to a file, so that every process can read them."""
    if isinstance(dataset, str | Path):
        known = registry.has("dataset", str(dataset))
        tree: dict[str, Any] = {"use": str(dataset)} if known else {"source": str(dataset)}
    elif isinstance(dataset, Mapping):
        tree = dict(dataset)
    else:
        tree = {"source": str(_spilled(dataset, scratch()))}
    if name is not None:
        component = tree.get("use") or registry.claiming("dataset", str(tree.get("source", ""))).name
        options = registry.options_model("dataset", component)
        if options is None or "name" not in options.model_fields:
            raise UserError(unknown("task", name, registry.names("task")))
        tree["name"] = name
    return tree


def _spilled(rows: Sequence[Row], folder: Path) -> Path:
    path = folder / "rows.jsonl"
    if not rows:
        raise DataError("dataset: an empty list of rows")
    with path.open("w", encoding="utf-8") as file:
        for n, row in enumerate(rows):
            if not isinstance(row, Mapping):
                raise DataError(f"dataset: row {n} is {type(row).__name__}, expected a dict of column -> value")
            try:
                file.write(json.dumps(dict(row)) + "\n")  # ASCII: halves of surrogate pairs are no UTF-8
            except TypeError as error:
                raise DataError(f"dataset: row {n}: {error}") from error
    return path


def _rows(given: Mapping[str, str | Sequence[str]], roles: Sequence[str]) -> list[Row]:
    """Columns of texts as rows."""
    for name in given:
        if name not in roles:
            raise UserError(f"predict: {unknown('column', name, roles)}")
    if not given:
        raise UserError(f"predict: no text given; columns: {', '.join(roles)}")
    columns = {name: [value] if isinstance(value, str) else list(value) for name, value in given.items()}
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise UserError(f"predict: columns of different lengths: {', '.join(f'{n} {k}' for n, k in lengths.items())}")
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _open(part: DataPart, task: Task, registry: Registry, columns: Mapping[str, str]) -> Any:
    from spcore.rows import open_rows

    dataset = registry.create("dataset", part.use, part_options(part, "dataset", registry))
    return open_rows(dataset, task.roles, columns=part.columns or columns, split=part.split, limit=part.limit, seed=0)


def _create_runtime(registry: Registry, runtime: str | Mapping[str, Any]) -> Runtime:
    name = runtime if isinstance(runtime, str) else str(runtime["use"])
    options = {} if isinstance(runtime, str) else {k: v for k, v in runtime.items() if k != "use"}
    model = registry.options_model("runtime", name)
    created: Runtime = registry.create("runtime", name, model.model_validate(options) if model else None)
    return created
