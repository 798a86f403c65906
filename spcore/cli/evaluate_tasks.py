"""`slimpajama evaluate MODEL --tasks NAME[,NAME]`: a harness's own tasks."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spcore.api import LanguageModelHandle
    from spcore.interfaces.harness import HarnessReport, TaskFigures


def on_tasks(
    handle: LanguageModelHandle, tasks: str, given: Mapping[str, Any], settings: Mapping[str, Any], folder: Path | None, name: str | None,
    *, as_json: bool,
) -> None:  # fmt: skip
    """Ask, keep and show. given: options of the command line; what was not given is None, or 0 resamples."""
    from spcore.artifact import add_to_card
    from spcore.cli.output import aligned, note, result

    options = {key: value for key, value in given.items() if value is not None and (key, value) != ("bootstrap", 0)}
    names = [part.strip() for part in tasks.split(",") if part.strip()]
    own = _own(settings)
    with contextlib.redirect_stdout(sys.stderr):  # what a harness prints is for people
        done = handle.evaluate_tasks(names, harness=own.pop("use", None), **{**options, **own})
    for line in done.remarks:
        note(line)
    if folder is not None:
        _keep(done, folder)
        if name is not None and handle.saved:
            add_to_card(handle.artifact(), f"Evaluation {name}", [f"{done.harness}: `{tasks}`", "", *_table(done)])
        note(f"kept in {folder}")
    if as_json:
        result(_json(done), as_json=True)
    else:
        for row in aligned([line[1:-1].split("|") for line in _table(done) if not line.startswith("|-")]):
            print(row)


def _own(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the harness. Raises UserError for others."""
    from spcore.errors import UserError

    for key in settings:
        if not key.startswith("harness."):
            raise UserError(f"evaluate: setting {key!r}, expected with --tasks: harness.KEY")
    return {key.removeprefix("harness."): value for key, value in settings.items()}


def _keep(done: HarnessReport, folder: Path) -> None:
    """metrics.json, and samples/TASK.jsonl for each task. Raises OutputError."""
    from spcore.cli.output import finite
    from spcore.files import write_text

    write_text(folder / "metrics.json", json.dumps(finite(_json(done)), indent=2))
    for task, rows in done.samples.items():
        lines = [json.dumps(finite(row), ensure_ascii=False, default=str) for row in rows]
        write_text(folder / "samples" / f"{task.replace('/', '_')}.jsonl", "".join(f"{line}\n" for line in lines))


def _json(done: HarnessReport) -> dict[str, Any]:
    return {"harness": done.harness, "tasks": {name: _figures(own) for name, own in done.tasks.items()}}


def _figures(own: TaskFigures) -> dict[str, Any]:
    about = {"rows": own.rows, "of": own.of, "shots": own.shots, "version": own.version}
    return {
        "metrics": dict(own.metrics), "stderr": dict(own.stderr), **{key: value for key, value in about.items() if value is not None},
    }  # fmt: skip


def _table(done: HarnessReport) -> list[str]:
    """Markdown: a line a metric, with its standard error."""
    lines = ["| task | metric | value | standard error | rows | shots |", "|---|---|---|---|---|---|"]
    for task, own in done.tasks.items():
        for metric, value in own.metrics.items():
            error = f"{own.stderr[metric]:.4g}" if metric in own.stderr else "-"
            rest = ("-" if number is None else str(number) for number in (own.rows, own.shots))
            lines.append(f"| {task.replace('|', '/')} | {metric} | {value:.4g} | {error} | {' | '.join(rest)} |")
    return lines
