"""`slimpajama evaluate MODEL`, with `--data D` or `--tasks NAME`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from spcore.api import Evaluation, LanguageModelHandle


def evaluate(
    model: Annotated[str, typer.Argument(help="A model's folder, its file, or its name on the Hub.")],
    data: Annotated[str | None, typer.Option(help="A file, a glob, a Hub name, or a data set component.")] = None,
    tasks: Annotated[
        str | None, typer.Option(metavar="NAME[,NAME]", help="In place of --data: a harness's tasks, or patterns.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="A name the data set knows (--data glue --task sst2).")] = None,
    split: Annotated[str | None, typer.Option(help="A split; 'test[:100]' takes a part.")] = None,
    columns: Annotated[
        list[str] | None, typer.Option("--column", metavar="ROLE=COLUMN", help="Which column is which; repeatable.")
    ] = None,
    max_length: Annotated[int | None, typer.Option(min=4, help="Tokens of a text or window at most.")] = None,
    stride: Annotated[int | None, typer.Option(min=1, help="Tokens by which windows of a long text overlap.")] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Any setting of the data or the task (task.KEY), of --tasks harness.KEY; repeatable.",
        ),
    ] = None,
    runtime: Annotated[str, typer.Option(help="What runs the model.")] = "torch",
    options: Annotated[
        list[str] | None,
        typer.Option("--runtime-option", metavar="KEY=VALUE", help="An option of the runtime; repeatable."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N.")] = "auto",
    name: Annotated[
        str | None,
        typer.Option(
            help="Keep figures and predictions in MODEL/evaluations/NAME, and the figures in the model's card."
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Keep figures and predictions in this folder; for models that lie in no folder.")
    ] = None,
    bootstrap: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="N",
            help="95% intervals of the figures, from N resamples of the rows; of --tasks: standard errors that have no formula.",
        ),
    ] = 0,
    group_by: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Also the figures for each value of a column of the data.")
    ] = None,
    tasks_folder: Annotated[str | None, typer.Option(help="Of --tasks: a folder of task files of your own.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Of --tasks: rows of each, the first ones.")] = None,
    shots: Annotated[int | None, typer.Option(min=0, help="Of --tasks: solved examples before each row.")] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Of --tasks: prompts by the model's chat template.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the metrics as one JSON object.")] = False,
) -> None:
    """Evaluate a model: on data, by its own task, or on tasks that others publish figures of."""
    from spcore.api import load_model
    from spcore.recipe import checked_device, runtime_part, typed_pairs

    of_data = {"task": task, "split": split, "stride": stride, "column": columns, "group-by": group_by}
    of_tasks = {"tasks_folder": tasks_folder, "limit": limit, "shots": shots, "chat": chat or None}
    _one_of(data, tasks, of_data, of_tasks)
    folder = _kept_in(model, name, output)
    handle = load_model(model, runtime=runtime_part(runtime, options), device=checked_device(device))
    settings, both = typed_pairs(sets or [], "--set"), {"max_length": max_length, "bootstrap": bootstrap}
    if tasks is not None:
        from spcore.cli.evaluate_tasks import on_tasks

        on_tasks(handle, tasks, {**of_tasks, **both}, settings, folder, name, as_json=as_json)
    elif data is not None:
        _on_data(handle, data, {**of_data, **both}, settings, folder, name, as_json=as_json)


def _one_of(data: str | None, tasks: str | None, of_data: dict[str, Any], of_tasks: dict[str, Any]) -> None:
    """One of the two, and nothing of the other. Raises UserError."""
    from spcore.errors import UserError

    if (data is None) == (tasks is None):
        given = "neither" if data is None else "both"
        raise UserError(f"evaluate: {given} of --data and --tasks is given; give one of them")
    other, whose, not_whose = (of_data, "--data", "--tasks") if data is None else (of_tasks, "--tasks", "--data")
    for key, value in other.items():
        if value is not None and value != []:
            option = f"--{key.replace('_', '-')}"
            raise UserError(f"evaluate: {option} goes with {whose}, and {not_whose} is given; leave it out")


def _kept_in(model: str, name: str | None, output: Path | None) -> Path | None:
    """The folder for figures and predictions. Raises UserError."""
    from spcore.errors import UserError

    if name is None or output is not None:
        if name is not None:
            raise UserError("evaluate: --name and --output both say where figures are kept; give one of them")
        return output
    if not Path(model).is_dir():
        raise UserError(f"evaluate: --name {name}: {model} is no folder to keep figures in; give --output FOLDER")
    return Path(model) / "evaluations" / name


def _on_data(
    handle: LanguageModelHandle, data: str, given: dict[str, Any], settings: dict[str, Any], folder: Path | None, name: str | None,
    *, as_json: bool,
) -> None:  # fmt: skip
    from spcore.artifact import add_to_card
    from spcore.cli.output import aligned, finite, note, result
    from spcore.files import write_text
    from spcore.recipe import pairs

    done = handle.evaluate(
        data, given["task"], split=given["split"], columns=pairs(given["column"] or [], "--column"), max_length=given["max_length"],
        stride=given["stride"], settings=settings, bootstrap=given["bootstrap"], group_by=given["group-by"],
    )  # fmt: skip
    for line in done.report["remarks"]:
        note(line)
    for reason, lines in done.report["dropped_lines"].items():
        note(f"{len(lines)} {'row' if len(lines) == 1 else 'rows'} dropped: {reason} (first at line {lines[0]})")
    if folder is not None:
        write_text(folder / "metrics.json", json.dumps(finite(_json(done)), indent=2))
        write_text(
            folder / "predictions.jsonl",
            "".join(json.dumps(finite(row), ensure_ascii=False) + "\n" for row in done.predictions),
        )
        if name is not None and handle.saved:
            add_to_card(handle.artifact(), f"Evaluation {name}", [f"`{data}`", "", *_table(done)])
        note(f"kept in {folder}")
    if as_json or not (done.intervals or done.groups):
        result(_json(done), as_json=as_json)
    else:
        for line in aligned([row[1:-1].split("|") for row in _table(done) if not row.startswith("|-")]):
            print(line)


def _json(done: Evaluation) -> dict[str, Any]:
    """The metrics; intervals and groups where they were asked for."""
    found: dict[str, Any] = dict(done.metrics)
    if done.intervals:
        found["intervals"] = {name: list(ends) for name, ends in done.intervals.items()}
    if done.groups:
        found["groups"] = {name: group.to_json() for name, group in done.groups.items()}
    return found


def _table(done: Evaluation) -> list[str]:
    """Markdown: a line a metric, with its interval; a column a group."""
    columns = {"all": (done.metrics, done.intervals)}
    columns |= {name or "(missing)": (group.metrics, group.intervals) for name, group in done.groups.items()}
    lines = [f"| metric | {' | '.join(name.replace('|', '/') for name in columns)} |", f"|---|{'---|' * len(columns)}"]
    for metric in done.metrics:
        cells = []
        for metrics, intervals in columns.values():
            ends = f" ({intervals[metric][0]:.4g} to {intervals[metric][1]:.4g})" if metric in intervals else ""
            cells.append(f"{metrics[metric]:.4g}{ends}" if metric in metrics else "-")
        lines.append(f"| {metric} | {' | '.join(cells)} |")
    return lines
