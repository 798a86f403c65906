"""`slimpajama finetune MODEL --task T --data D ...`: builds a recipe and carries it out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def finetune(
    model: Annotated[str | None, typer.Argument(help="A Hub name or a folder.")] = None,
    task: Annotated[str | None, typer.Option(help="A task, or a name the data set knows (--data glue --task sst2).")] = None,
    data: Annotated[str | None, typer.Option(help="A file, a glob, a Hub name, or a data set component.")] = None,
    eval_data: Annotated[str | None, typer.Option(help="The same, to evaluate on.")] = None,
    split: Annotated[str | None, typer.Option(help="Split of --data; 'train[:90%]' takes a part.")] = None,
    eval_split: Annotated[str | None, typer.Option(help="Split of --eval-data (default: of --data).")] = None,
    strategy: Annotated[str | None, typer.Option(help="How the run is laid over processes.")] = None,
    precision: Annotated[str | None, typer.Option(help="Number formats: fp32, bf16, ...")] = None,
    output: Annotated[Path | None, typer.Option(help="The run's folder, which becomes the saved model.")] = None,
    recipe: Annotated[Path | None, typer.Option(help="A recipe to start from.")] = None,
    sets: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any setting of a recipe; repeatable.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is in the output folder.")] = False,
    print_recipe: Annotated[bool, typer.Option("--print-recipe", help="Print the resolved recipe and stop.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, start nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Fine-tune a model on labelled data."""
    from spcore.cli.run import carry_out
    from spcore.components import default_registry
    from spcore.errors import UserError
    from spcore.recipe import load_recipe, overlay
    from spcore.recipe_files import Text, place_paths

    registry = default_registry()
    given = {"MODEL": model, "--data": data} if recipe is None else {}
    for name, value in given.items():
        if value is None:
            raise UserError(f"{name} is missing; give it, or a recipe with --recipe")
    tree: dict[str, Any] = {}
    if recipe is not None:
        tree = place_paths(Text.read(recipe).tree, recipe.resolve().parent)
    flags = flag_tree(model, task, data, eval_data, split, eval_split, registry)
    flags |= {k: v for k, v in {"strategy": strategy, "precision": precision, "output": str(output) if output else None}.items() if v}
    merged = overlay(tree, place_paths(flags, Path.cwd()))
    resolved = load_recipe(merged, sets or [], registry=registry)
    carry_out(resolved, overwrite=overwrite, print_recipe=print_recipe, dry_run=dry_run, as_json=as_json)


def flag_tree(
    model: str | None, task: str | None, data: str | None, eval_data: str | None, split: str | None, eval_split: str | None, registry: Any
) -> dict[str, Any]:
    """What the flags say, as a recipe. A `--task` that is no component is the data set's `name`."""
    from spcore.api import data_tree

    component = task if task is not None and registry.has("task", task) else None
    name = task if component is None else None
    tree: dict[str, Any] = {"model": model} if model is not None else {}
    if component is not None:
        tree["task"] = component
    if data is not None:
        tree["data"] = {**data_tree(data, name, registry, None), **({"split": split} if split else {})}
    if eval_data is not None or eval_split is not None:
        source = eval_data if eval_data is not None else data
        if source is not None:
            tree["eval"] = {"data": {**data_tree(source, name, registry, None), **({"split": eval_split} if eval_split else {})}}
    return tree
