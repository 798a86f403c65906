"""`slimpajama pretrain [MODEL] --task OBJECTIVE --data D ...`: builds a recipe and carries it out."""

from __future__ import annotations

from typing import Annotated

import typer

from spcore.cli.finetune import (
    AsJson,
    DataName,
    DryRun,
    EvalData,
    EvalSplit,
    Output,
    Overwrite,
    Precision,
    PrintRecipe,
    Processes,
    RecipeFile,
    Sets,
    Split,
    Strategy,
    data_flags,
    needed,
    resolve,
    run_flags,
)


def pretrain(
    model: Annotated[
        str | None, typer.Argument(help="To go on from: a Hub name, a folder, a file; from nothing: see --preset.")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="A known architecture with its sizes.")] = None,
    architecture: Annotated[
        str | None, typer.Option(help="A family, its sizes by --set model.hidden_size=256, ...")
    ] = None,
    tokenizer: Annotated[str | None, typer.Option(help="Folder or Hub name of the tokenizer of a new model.")] = None,
    task: Annotated[str | None, typer.Option(help="The objective, one of `plugins list`.")] = None,
    data: DataName = None,
    eval_data: EvalData = None,
    split: Split = None,
    eval_split: EvalSplit = None,
    max_length: Annotated[int | None, typer.Option(min=4, help="Tokens of a window at most.")] = None,
    pack: Annotated[
        int | None, typer.Option(min=16, help="Tokens of a row that windows of several texts share.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimizer steps, instead of epochs.")] = None,
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
    """Train a model on text, from nothing or further."""
    from spcore.cli.run import carry_out
    from spcore.components import default_registry

    new = {"preset": preset, "architecture": architecture, "tokenizer": tokenizer}
    in_sets = any(text.startswith("model.") for text in sets or [])
    source = model or preset or architecture or ("" if in_sets else None)
    needed(recipe, {"MODEL, --preset or --architecture": source, "--task": task, "--data": data})
    registry = default_registry()
    flags = data_flags(model, task, data, eval_data, split, eval_split, registry)
    flags += [(f"model.{key}", value, f"--{key}") for key, value in new.items()]
    flags += [("data.max_length", max_length, "--max-length"), ("data.pack", pack, "--pack")]
    flags += [("train.steps", steps, "--steps"), *run_flags(strategy, precision, processes, output, registry)]
    resolved = resolve(recipe, flags, sets, registry)
    carry_out(resolved, overwrite=overwrite, print_recipe=print_recipe, dry_run=dry_run, as_json=as_json)
