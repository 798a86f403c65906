"""`slimpajama run RECIPE [KEY=VALUE ...]`."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from spcore.recipe import Recipe


def run(
    recipe: Annotated[Path, typer.Argument(help="The recipe: a YAML, TOML or JSON file.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Overrides, by dotted path.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is in the output folder.")] = False,
    print_recipe: Annotated[bool, typer.Option("--print-recipe", help="Print the resolved recipe and stop.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, start nothing.")] = False,
    world_size: Annotated[
        int | None, typer.Option("--world-size", min=1, help="Processes to check a dry run for.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Carry out a recipe."""
    from spcore.components import default_registry
    from spcore.errors import UserError
    from spcore.recipe import load_recipe

    if world_size is not None and not dry_run:
        raise UserError("--world-size goes with --dry-run; a run starts what `launch` says")
    resolved = load_recipe(recipe, overrides or [], registry=default_registry())
    carry_out(
        resolved,
        overwrite=overwrite,
        print_recipe=print_recipe,
        dry_run=dry_run,
        world_size=world_size,
        as_json=as_json,
    )


def carry_out(
    recipe: Recipe, *, overwrite: bool, print_recipe: bool, dry_run: bool, world_size: int | None = None, as_json: bool
) -> None:
    """What `run` and `finetune` do with a resolved recipe."""
    from spcore.cli.output import note, result
    from spcore.components import default_registry
    from spcore.errors import RunCancelled, UserError

    if print_recipe:
        typer.echo(recipe.to_yaml(), nl=False)
        return
    if dry_run:
        result(planned(recipe, world_size), as_json=as_json)
        return
    with recipe.at("output"):
        if recipe.output is None:
            raise UserError("output: not given; say where the run and its model shall lie: output=FOLDER")
    from spcore.running import execute

    with stopping() as cancel:
        done = execute(recipe, default_registry(), overwrite=overwrite, cancel=cancel)
    if done.leads:
        result({**done.metrics, "steps": done.steps, "output": done.output}, as_json=as_json)
    if done.cancelled:
        note(f"stopped and saved after step {done.steps}; the same command goes on from there")
        raise typer.Exit(RunCancelled.exit_code)


@contextlib.contextmanager
def stopping() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set; a second signal does what it would have done without us."""
    cancel = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def asked(number: int, frame: Any) -> None:
        cancel.set()
        for known, handler in before.items():
            signal.signal(known, handler)

    for number in before:
        signal.signal(number, asked)
    try:
        yield cancel
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def planned(recipe: Recipe, world_size: int | None) -> dict[str, Any]:
    """A dry run's result: what would be run, on which layout."""
    from spcore.components import default_registry
    from spcore.session import assemble

    session = assemble(recipe, default_registry(), world_size=world_size)
    return {
        "family": session.plan.model.family, "task": session.recipe.task.use if session.recipe.task else "",
        "rows": session.train.length, "columns": session.train.columns, "labels": list(session.plan.head.labels),
        "layout": dict(session.plan.layout.axes), "max_length": session.plan.max_length, "remarks": session.warnings,
    }  # fmt: skip
