"""`slimpajama predict MODEL [TEXT ...]`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from spcore.api import LanguageModelHandle
    from spcore.rows import RoleSource


def predict(
    model: Annotated[str, typer.Argument(help="A saved model's folder.")],
    texts: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TEXT]...", help="Texts; a JSON object by column for several columns."),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option("--input", "--data", help="A file of rows, in any format that `evaluate --data` takes."),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Write the answers there as JSON lines.")] = None,
    runtime: Annotated[str, typer.Option(help="What runs the model.")] = "torch",
    options: Annotated[
        list[str] | None,
        typer.Option("--runtime-option", metavar="KEY=VALUE", help="An option of the runtime; repeatable."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the answers as one JSON array.")] = False,
) -> None:
    """Ask a saved model. Without texts, lines are read from standard input."""
    from spcore.api import load_model
    from spcore.cli.output import finite, note, prepare_output, result
    from spcore.errors import UserError
    from spcore.files import write_text
    from spcore.recipe import checked_device, runtime_part

    if texts and source is not None:
        raise UserError("predict: give texts or --input, not both")
    prepare_output(output, as_json=as_json)
    handle = load_model(model, runtime=runtime_part(runtime, options), device=checked_device(device))
    if source is not None:
        view = file_rows(handle, source)
        answers = handle.predicted(view.read(range(view.length or 0)), view.place)
    else:
        answers = handle.predict(rows=typed_rows(handle, texts or [line.rstrip("\n") for line in sys.stdin]))
    if output is not None:
        write_text(output, "".join(json.dumps(finite(answer), ensure_ascii=False) + "\n" for answer in answers))
        note(f"{len(answers)} answers in {output}")
    else:
        result(answers, as_json=as_json)


def typed_rows(handle: LanguageModelHandle, texts: list[str]) -> list[dict[str, Any]]:
    """Rows of what was typed: a text is the task's first column; a JSON object names its columns."""
    from spcore.errors import UserError, unknown

    roles = [role.name for role in handle.task()[0].roles if not role.target]
    rows: list[dict[str, Any]] = []
    for text in texts:
        row: Any = {roles[0]: text}
        if text.lstrip().startswith("{"):
            try:
                parsed = json.loads(text)
            except ValueError:
                parsed = None  # a text that begins with a brace
            row = parsed if isinstance(parsed, dict) and roles[0] in parsed else row
        for name in row:
            if name not in roles:
                raise UserError(f"predict: {unknown('column', name, roles)}")
        rows.append(row)
    return rows


def file_rows(handle: LanguageModelHandle, source: str) -> RoleSource:
    """Rows of a file, by the task's column names; labels may be missing."""
    from spcore.components import default_registry
    from spcore.errors import DataError
    from spcore.given import data_tree
    from spcore.recipe import data_part, part_options
    from spcore.rows import open_rows

    registry = default_registry()
    part = data_part(data_tree(source, None, registry, None), registry)
    roles = [role for role in handle.task()[0].roles if not role.target]
    dataset = registry.create("dataset", part.use, part_options(part, "dataset", registry))
    rows = open_rows(dataset, roles, columns=part.columns, split=part.split, limit=None, targets=False)
    if rows.length is None:
        raise DataError(f"{source}: a stream; predict reads files")
    dropped = {reason: lines for reason, lines in rows.report.dropped.items() if lines}
    if dropped:
        reason, lines = next(iter(dropped.items()))
        raise DataError(f"{source}:{lines[0]}: {reason} (the first of {len(lines)}); answers would not match rows")
    return rows
