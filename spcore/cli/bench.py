"""`slimpajama bench MODEL --data D`."""

from __future__ import annotations

from typing import Annotated

import typer


def bench(
    model: Annotated[str, typer.Argument(help="A saved model's folder.")],
    data: Annotated[str, typer.Option(help="Labelled data: a file, a glob, a Hub name, or a data set component.")],
    runtimes: Annotated[
        list[str] | None, typer.Option("--runtime", help="Measure this runtime; repeatable. Default: all installed.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N.")] = "auto",
    repeats: Annotated[int, typer.Option(min=1, help="Passes over the data.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON array.")] = False,
) -> None:
    """Measure a saved model under each runtime and precision: rows a second, waiting times, memory, the metric."""
    from spcore.benching import bench as measure
    from spcore.cli.output import aligned, note, result, shown
    from spcore.components import default_registry
    from spcore.given import data_tree
    from spcore.recipe import checked_device

    registry = default_registry()
    tree = data_tree(data, None, registry, None)
    found = []
    for one in measure(model, tree, registry, runtimes=runtimes or [], device=checked_device(device), repeats=repeats):
        found.append(one.to_json())
        note(f"measured {one.runtime}" if one.refused is None else f"{one.runtime}: {one.refused}")
    if as_json:
        result(found, as_json=True)
        return
    rows = [row for row in found if row["refused"] is None]
    columns = [name for name in (rows[0] if rows else {}) if name != "refused"]
    for line in aligned([columns, *([shown(row[name]) for name in columns] for row in rows)]) if rows else ():
        typer.echo(line)
