"""`slimpajama export MODEL --runtime R`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def export(
    model: Annotated[str, typer.Argument(help="A saved model's folder.")],
    runtime: Annotated[str, typer.Option(help="What shall run the model.")],
    quantise: Annotated[
        str | None,
        typer.Option("--quantise", "--quantize", help="int8 beside float32: dynamic, or static with --calibrate."),
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="A further file in this format: float16, bfloat16.")] = None,
    calibrate: Annotated[str | None, typer.Option(help="Data that a static quantisation is fitted to.")] = None,
    eval_data: Annotated[str | None, typer.Option(help="Labelled data on which it is scored before and after.")] = None,
    max_drop: Annotated[
        float | None, typer.Option(help="Write nothing that loses more of the task's metric on --eval-data.")
    ] = None,
    single_file: Annotated[
        bool | None, typer.Option("--single-file", help="All tensors inside the graph's file, as browsers want it.")
    ] = None,
    options: Annotated[
        list[str] | None,
        typer.Option("--runtime-option", metavar="KEY=VALUE", help="An option of the export; repeatable."),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Export a copy there; else into the model's folder.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as one JSON object.")] = False,
) -> None:
    """Prepare a saved model for a runtime, its numbers checked against the eager model's."""
    from spcore.api import load_model
    from spcore.cli.output import complain, note, result
    from spcore.recipe import typed_pairs

    named = {"quantise": quantise, "dtype": dtype, "max_drop": max_drop, "single_file": single_file}
    given: dict[str, Any] = {k: v for k, v in named.items() if v is not None}
    given |= typed_pairs(options or [], "--runtime-option")
    report = load_model(model).export(runtime, output=output, evaluate=eval_data, calibrate=calibrate, **given)
    for line in report.remarks:
        note(line)
    if as_json:
        told = {"files": list(report.files), "figures": dict(report.figures), "remarks": list(report.remarks)}
        result({**told, "details": dict(report.details), "refusal": report.refusal}, as_json=True)
    else:
        result({**report.figures, "files": ", ".join(report.files)}, as_json=False)
    if report.refusal is not None:
        complain(report.refusal)
        raise typer.Exit(1)
