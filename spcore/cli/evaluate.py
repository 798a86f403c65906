"""`slimpajama evaluate MODEL --data D`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from spcore.api import Evaluation


def evaluate(
    model: Annotated[str, typer.Argument(help="A saved model's folder.")],
    data: Annotated[str, typer.Option(help="A file, a glob, a Hub name, or a data set component.")],
    task: Annotated[str | None, typer.Option(help="A name the data set knows (--data glue --task sst2).")] = None,
    split: Annotated[str | None, typer.Option(help="A split; 'test[:100]' takes a part.")] = None,
    columns: Annotated[
        list[str] | None, typer.Option("--column", metavar="ROLE=COLUMN", help="Which column is which; repeatable.")
    ] = None,
    max_length: Annotated[int | None, typer.Option(min=4, help="Tokens of a text or window at most.")] = None,
    stride: Annotated[int | None, typer.Option(min=1, help="Tokens by which windows of a long text overlap.")] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any setting of the data or the task (task.KEY); repeatable."),
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
    bootstrap: Annotated[
        int, typer.Option(min=0, metavar="N", help="95% intervals of the figures, from N resamples of the rows.")
    ] = 0,
    group_by: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Also the figures for each value of a column of the data.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the metrics as one JSON object.")] = False,
) -> None:
    """Evaluate a saved model on data."""
    from spcore.api import load_model
    from spcore.artifact import add_to_card
    from spcore.cli.output import aligned, finite, note, result
    from spcore.files import write_text
    from spcore.recipe import checked_device, pairs, runtime_part, typed_pairs

    handle = load_model(model, runtime=runtime_part(runtime, options), device=checked_device(device))
    done = handle.evaluate(
        data, task, split=split, columns=pairs(columns or [], "--column"), max_length=max_length, stride=stride,
        settings=typed_pairs(sets or [], "--set"), bootstrap=bootstrap, group_by=group_by,
    )  # fmt: skip
    for line in done.report["remarks"]:
        note(line)
    for reason, lines in done.report["dropped_lines"].items():
        note(f"{len(lines)} {'row' if len(lines) == 1 else 'rows'} dropped: {reason} (first at line {lines[0]})")
    if name is not None:
        folder = Path(model) / "evaluations" / name
        write_text(folder / "metrics.json", json.dumps(finite(_json(done)), indent=2))
        write_text(
            folder / "predictions.jsonl",
            "".join(json.dumps(finite(row), ensure_ascii=False) + "\n" for row in done.predictions),
        )
        if handle.saved:
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
