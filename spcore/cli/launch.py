"""`slimpajama launch RECIPE [KEY=VALUE ...] [--print]`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from spcore.components import Registry
    from spcore.recipe import Recipe


def launch(
    recipe: Annotated[Path, typer.Argument(help="The recipe: a YAML, TOML or JSON file.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Overrides, by dotted path.")
    ] = None,
    print_only: Annotated[
        bool,
        typer.Option("--print", help="Check the recipe and print what starts it on every node; start nothing."),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is in the output folder.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Start a recipe's processes, or show the command that does on every node."""
    from spcore.cli.run import carry_out
    from spcore.components import default_registry
    from spcore.errors import UserError
    from spcore.recipe import load_recipe

    registry = default_registry()
    resolved = load_recipe(recipe, overrides or [], registry=registry)
    if not print_only:
        carry_out(resolved, overwrite=overwrite, print_recipe=False, dry_run=False, as_json=as_json)
        return
    if overwrite or as_json:
        raise UserError(f"{'--overwrite' if overwrite else '--json'}: goes without --print, which starts nothing")
    typer.echo(script(resolved, ["slimpajama", "run", str(recipe)], overrides or [], registry).rstrip("\n"))


def script(recipe: Recipe, run: list[str], overrides: list[str], registry: Registry) -> str:
    """What starts a recipe on every node. run: the words of the command that reads it, to which overrides are added. Raises what
    `assemble` raises, and RefusalError."""
    from spcore.session import assemble

    launcher = assemble(recipe, registry, here=False).launcher
    if launcher.scripts_all and not launcher.joins:
        kept = [text for text in overrides if text.partition("=")[0].partition(".")[0] != "launch"]
        return launcher.script([*run, *kept, f"launch={_joining(registry)}"])
    return launcher.script([*run, *overrides])


def _joining(registry: Registry) -> str:
    """The launcher of processes that others have started."""
    from spcore.errors import ComponentError, RefusalError

    for name in registry.names("launcher"):
        try:
            if registry.load("launcher", name).joins:
                return name
        except ComponentError:  # lacks what it needs
            continue
    raise RefusalError("--print: no installed launcher takes processes that others have started")
