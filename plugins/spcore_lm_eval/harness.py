"""Harness `lm-eval`: tasks are found, built and judged by the library, through `TaskManager` and `evaluate`, its public interface."""

from __future__ import annotations

import contextlib
import functools
import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from datasets.exceptions import DatasetsError
from jinja2.exceptions import TemplateError
from lm_eval import __version__ as version_of_library
from lm_eval import evaluate
from lm_eval.api import task as tasks_of_library
from lm_eval.tasks import TaskManager
from tqdm import tqdm

from spcore.bars import of_library
from spcore.errors import RefusalError, SourceError, UserError, unknown
from spcore.fitting import chatting
from spcore.interfaces.harness import Harness, HarnessReport, Subject, TaskFigures
from spcore_lm_eval.model import Asked
from spcore_lm_eval.options import LmEvalOptions

_NOT_A_TASK = (
    OSError, ValueError, LookupError, TypeError, AttributeError, ImportError, AssertionError, StopIteration, TemplateError, DatasetsError, yaml.YAMLError,
)  # fmt: skip
"""What lm-eval and `datasets` raise for a file that describes no task, and for data that is not there, is empty or has other columns: a task
that is built has tried its first row."""


class LmEval(Harness):
    """Kind `harness`, `lm-eval`."""

    def __init__(self, options: LmEvalOptions) -> None:
        self.options = options

    def evaluate(self, subject: Subject, tasks: Sequence[str]) -> HarnessReport:
        """See `Harness.evaluate`. A standard error that has no formula is resampled by lm-eval in processes of its own, and a line about it
        printed."""
        options = self.options
        with _heard() as warnings, _drawing(options.seed), _no_bars():
            loaded = self._loaded(tasks)
            for name, task in loaded["tasks"].items():
                self._set(name, task)
            warnings.clear()  # what it says of a task's file it says of each run, and of its own tasks too
            asked = Asked(subject, options)
            if options.chat:
                chatting(subject.processor)
            found: Mapping[str, Any] = evaluate(
                asked, loaded, limit=options.limit, bootstrap_iters=options.bootstrap, log_samples=True, system_instruction=options.system,
                apply_chat_template=options.chat, fewshot_as_multiturn=options.chat,
            )  # fmt: skip
        figures = {name: _figures(name, found) for name in {**found["results"], **found.get("groups", {})}}
        version = f"lm-eval {version_of_library}"
        return HarnessReport(version, figures, found["samples"], (*asked.remarks, *dict.fromkeys(warnings)))

    def _loaded(self, tasks: Sequence[str]) -> Any:
        """Tasks by names and patterns. The library's own, thousands of files, are looked through where the folder's do not do."""
        folder = self.options.tasks_folder
        if folder is not None and not Path(folder).is_dir():
            raise SourceError(f"tasks_folder {folder!r}: no such folder; expected: a folder of lm-eval's YAML files")
        if not tasks:
            raise UserError("tasks: none is named; name one, arc_easy for one")
        if folder is not None:
            own = TaskManager(include_path=folder, include_defaults=False)
            if all(own.match_tasks([name]) for name in tasks):
                with contextlib.suppress(KeyError):  # a group of tasks of which some are the library's
                    return _built(own, tasks)
        manager = TaskManager(include_path=folder)
        for name in tasks:
            if not manager.match_tasks([name]):
                raise UserError(unknown("task", name, manager.all_tasks))
        try:
            return _built(manager, tasks)
        except KeyError as error:
            raise SourceError(f"tasks {', '.join(tasks)}: {_line(error)}") from error

    def _set(self, name: str, task: Any) -> None:
        """Apply the options to a task. Raises RefusalError for one that cannot be run, or not so."""
        shots, own = self.options.shots, task.get_config("num_fewshot")
        if getattr(task, "UNSAFE_CODE", False):
            raise RefusalError(f"task {name!r} runs code that the model writes, which is not done here")
        if getattr(task, "MULTIMODAL", False):
            raise RefusalError(f"task {name!r} shows pictures or sounds, and the model reads text alone")
        if shots and own == 0:
            raise RefusalError(f"shots {shots}: task {name!r} says that it has none; leave it out")
        task.set_config(key="num_fewshot", value=own or 0 if shots is None else shots)
        task.set_fewshot_seed(seed=self.options.seed)


def _built(manager: TaskManager, tasks: Sequence[str]) -> Any:
    """Tasks with their data. Raises SourceError that names the task, KeyError for a name that the manager does not have."""
    whole: dict[str, dict[str, Any]] = {"tasks": {}, "groups": {}, "group_map": {}}
    for name in (name for pattern in tasks for name in manager.match_tasks([pattern])):
        try:
            for what, found in manager.load([name]).items():
                whole[what].update(found)
        except KeyError:
            raise
        except _NOT_A_TASK as error:
            raise SourceError(
                f"task {name!r} cannot be had: {_line(error)}",
                hint="Its data may have to be downloaded; tasks over files of your own: tasks_folder",
            ) from error
    return whole


def _line(error: Exception) -> str:
    """An error of another library in one line."""
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words[:300]}" if words else type(error).__name__


def _figures(name: str, found: Mapping[str, Any]) -> TaskFigures:
    """lm-eval's "acc,none" is `acc`, its "exact_match,strict-match" `exact_match/strict-match`."""
    table = {**found["results"].get(name, {}), **found.get("groups", {}).get(name, {})}
    metrics: dict[str, float] = {}
    stderr: dict[str, float] = {}
    for key, value in table.items():
        metric, comma, judged = key.partition(",")
        if not comma or isinstance(value, str):  # lm-eval writes "N/A" for no standard error
            continue
        end = "" if judged == "none" else f"/{judged}"
        if metric.endswith("_stderr"):
            stderr[metric.removesuffix("_stderr") + end] = float(value)
        else:
            metrics[metric + end] = float(value)
    rows, version = found["n-samples"].get(name, {}), found["versions"].get(name)
    return TaskFigures(
        metrics, stderr, rows.get("effective", table.get("sample_len")), rows.get("original"), found["n-shot"].get(name),
        None if version is None else str(version),
    )  # fmt: skip


class _Warnings(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(" ".join(record.getMessage().split()))


@contextlib.contextmanager
def _heard() -> Iterator[list[str]]:
    """What lm-eval warns of meanwhile."""
    handler, logger = _Warnings(), logging.getLogger("lm_eval")
    logger.addHandler(handler)
    try:
        yield handler.lines
    finally:
        logger.removeHandler(handler)


@contextlib.contextmanager
def _drawing(seed: int) -> Iterator[None]:
    """Tasks' own code draws from the process's generators, which are put back."""
    plain, arrays = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(plain)
        np.random.set_state(arrays)


def _bars_off() -> None:
    tasks_of_library.tqdm = functools.partial(tqdm, disable=True)


def _bars_on() -> None:
    tasks_of_library.tqdm = tqdm


@contextlib.contextmanager
def _no_bars() -> Iterator[None]:
    """Of lm-eval's tasks, whose bars have no switch of their own, and of their data."""
    with (
        of_library(_bars_off, _bars_on, lambda: tasks_of_library.tqdm is not tqdm),
        of_library(disable_progress_bars, enable_progress_bars, are_progress_bars_disabled),
    ):
        yield
