"""`slimpajama evaluate MODEL --data D`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


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
    name: Annotated[str | None, typer.Option(help="Keep metrics and predictions in MODEL/evaluations/NAME.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the metrics as one JSON object.")] = False,
) -> None:
    """Evaluate a saved model on data."""
    from spcore.api import load_model
    from spcore.cli.output import finite, note, result
    from spcore.files import write_text
    from spcore.recipe import checked_device, pairs, runtime_part, typed_pairs

    handle = load_model(model, runtime=runtime_part(runtime, options), device=checked_device(device))
    done = handle.evaluate(
        data, task, split=split, columns=pairs(columns or [], "--column"), max_length=max_length, stride=stride,
        settings=typed_pairs(sets or [], "--set"),
    )  # fmt: skip
    for line in done.report["remarks"]:
        note(line)
    for reason, lines in done.report["dropped_lines"].items():
        note(f"{len(lines)} {'row' if len(lines) == 1 else 'rows'} dropped: {reason} (first at line {lines[0]})")
    if name is not None:
        folder = Path(model) / "evaluations" / name
        write_text(folder / "metrics.json", json.dumps(finite(done.metrics), indent=2))
        write_text(
            folder / "predictions.jsonl",
            "".join(json.dumps(finite(row), ensure_ascii=False) + "\n" for row in done.predictions),
        )
        note(f"kept in {folder}")
    result(done.metrics, as_json=as_json)
