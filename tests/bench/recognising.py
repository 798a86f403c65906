"""What `data inspect` makes of every file of a folder: a table, and an exit status of 1 where a file cannot be read.

    python tests/bench/recognising.py FOLDER [--without dedup] [--json]

Files that are called README, and folders named by --without, are left out. "task" is the one that the columns suit best; without one
"problem" says what the first that learns labels lacks.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from spcore.cli.inspection import inspected
from spcore.components import Registry, default_registry
from spcore.errors import SlimPajamaError


def recognised(file: Path, registry: Registry) -> dict[str, Any]:
    """The facts that the table shows."""
    try:
        found = inspected(str(file), registry)
    except SlimPajamaError as error:
        return {"format": None, "task": None, "used": 0, "rows": 0, "columns": {}, "problem": str(error), "remarks": []}
    roles = {column["role"]: name for name, column in found["columns"].items() if column["role"]}
    rows = found["rows"]
    return {
        "format": found["files"][0]["format"], "task": found["task"], "used": rows["used"], "rows": rows["read"], "columns": roles,
        "problem": found["problem"], "remarks": found["remarks"],
    }  # fmt: skip


def main(
    folder: Path,
    without: Annotated[list[str], typer.Option(help="Folders below it that are left out.")] = ["dedup"],  # noqa: B006
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Inspect every file."""
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and not p.name.startswith(("README", "."))]
    files = [p for p in files if not set(p.relative_to(folder).parts[:-1]) & set(without)]
    registry, console = default_registry(), Console(width=200)
    found = {str(file.relative_to(folder)): recognised(file, registry) for file in files}
    if as_json:
        sys.stdout.write(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    else:
        table = Table("file", "format", "task", "used", "of", "columns", "problem", box=None)
        for name, one in found.items():
            columns = ", ".join(f"{role}={column}" for role, column in one["columns"].items())
            problem = (one["problem"] or "").rpartition(f"{name}:1: ")[2]
            table.add_row(
                name, one["format"] or "", one["task"] or "", str(one["used"]), str(one["rows"]), columns, problem
            )
        console.print(table)
        with_task = sum(one["task"] is not None and one["problem"] is None for one in found.values())
        console.print(f"{len(found)} files, {with_task} for a task that is there")
    raise typer.Exit(any(one["format"] is None for one in found.values()))


if __name__ == "__main__":
    typer.run(main)
