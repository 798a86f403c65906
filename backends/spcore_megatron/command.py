"""`slimpajama megatron`: what goes between Megatron-LM and us."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Exchange with Megatron-LM.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _megatron() -> None:
    """Exchange with Megatron-LM."""


@app.command("index")
def index(
    recipe: Annotated[
        Path, typer.Argument(help="The recipe: a YAML, TOML or JSON file. Its training data is written.")
    ],
    output: Annotated[Path, typer.Option(help="The prefix: PREFIX.bin and PREFIX.idx are made.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Overrides, by dotted path.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there by that name.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the counts as one JSON object.")] = False,
) -> None:
    """Write the data that a recipe trains on, tokenised, as an indexed data set of Megatron's."""
    from spcore.cli.output import result
    from spcore.components import default_registry
    from spcore_megatron.indexed_writing import write_index

    made = write_index(recipe, output, default_registry(), overrides=overrides or [], overwrite=overwrite)
    result(made, as_json=as_json)
