"""`slimpajama finetune MODEL --task T --data D ...`: builds a recipe and carries it out. What it and `pretrain` take stands here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

TaskName = Annotated[str | None, typer.Option(help="A task, or a name the data set knows (--data glue --task sst2).")]
DataName = Annotated[str | None, typer.Option(help="A file, a glob, a Hub name, or a data set component.")]
EvalData = Annotated[str | None, typer.Option(help="The same, to evaluate on.")]
Split = Annotated[str | None, typer.Option(help="Split of --data; 'train[:90%]' takes a part.")]
EvalSplit = Annotated[str | None, typer.Option(help="Split of --eval-data (default: of --data).")]
Strategy = Annotated[str | None, typer.Option(help="How the run is laid over processes.")]
Precision = Annotated[str | None, typer.Option(help="Number formats: fp32, bf16, ...")]
Processes = Annotated[int | None, typer.Option(min=1, help="Processes to start on this machine.")]
Output = Annotated[Path | None, typer.Option(help="The run's folder, which becomes the saved model.")]
RecipeFile = Annotated[Path | None, typer.Option(help="A recipe to start from.")]
Sets = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any setting of a recipe; repeatable.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is in the output folder.")]
PrintRecipe = Annotated[bool, typer.Option("--print-recipe", help="Print the resolved recipe and stop.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything, start nothing.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def finetune(
    model: Annotated[str | None, typer.Argument(help="A Hub name or a folder.")] = None,
    task: TaskName = None,
    data: DataName = None,
    eval_data: EvalData = None,
    split: Split = None,
    eval_split: EvalSplit = None,
    strategy: Strategy = None,
    precision: Precision = None,
    processes: Processes = None,
    output: Output = None,
    recipe: RecipeFile = None,
    sets: Sets = None,
    overwrite: Overwrite = False,
    print_recipe: PrintRecipe = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Fine-tune a model on labelled data."""
    from spcore.cli.run import carry_out
    from spcore.components import default_registry

    needed(recipe, {"MODEL": model, "--data": data})
    registry = default_registry()
    flags = data_flags(model, task, data, eval_data, split, eval_split, registry)
    flags += run_flags(strategy, precision, processes, output, registry)
    resolved = resolve(recipe, flags, sets, registry)
    carry_out(resolved, overwrite=overwrite, print_recipe=print_recipe, dry_run=dry_run, as_json=as_json)


def needed(recipe: Path | None, given: Mapping[str, Any]) -> None:
    """Raise UserError for what is missing where no recipe has it."""
    from spcore.errors import UserError

    for name, value in given.items() if recipe is None else ():
        if value is None:
            raise UserError(f"{name} is missing; give it, or a recipe with --recipe")


def run_flags(
    strategy: str | None, precision: str | None, processes: int | None, output: Path | None, registry: Any
) -> list[tuple[str, Any, str]]:
    """How it is run, as overrides: (path, value, flag)."""
    from spcore.given import started

    return [
        ("strategy", strategy, "--strategy"),
        ("precision", precision, "--precision"),
        ("launch", None if processes is None else started(processes, registry, "--processes"), "--processes"),
        ("output", output, "--output"),
    ]


def resolve(recipe: Path | None, flags: list[tuple[str, Any, str]], sets: list[str] | None, registry: Any) -> Any:
    """The recipe with what the flags say, those that were given, and then --set."""
    from spcore.recipe import load_recipe

    overrides: list[Any] = [(key, value, flag) for key, value, flag in flags if value is not None]
    return load_recipe(recipe or {}, [*overrides, *(sets or [])], registry=registry)


def data_flags(
    model: str | None,
    task: str | None,
    data: str | None,
    eval_data: str | None,
    split: str | None,
    eval_split: str | None,
    registry: Any,
) -> list[tuple[str, Any, str]]:
    """What the flags say, as overrides in order: (path, value, flag). A `--task` that is no component is the data set's `name`."""
    from spcore.given import data_tree

    component = task if task is not None and registry.has("task", task) else None
    name = task if component is None else None
    if data is not None:
        data_tree(data, name, registry, None)  # raises where the data set knows no names
    return [
        ("model", model, "MODEL"), ("task", component, "--task"), ("data", data, "--data"), ("data.name", name, "--task"),
        ("data.split", split, "--split"), ("eval.data", eval_data, "--eval-data"),
        ("eval.data.name", name if eval_data is not None else None, "--task"), ("eval.data.split", eval_split, "--eval-split"),
    ]  # fmt: skip
