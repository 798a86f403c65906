"""`slimpajama parity RECIPE [KEY=VALUE ...] --layout dp=2 --layout tp=2,pp=2`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from spcore.parity import Parity

COLUMNS = {
    "initial": "initial weights", "loss": "loss", "grad_norm": "gradient norm", "gradient": "gradients", "losses": "losses", "weights": "weights",
    "evaluation": "evaluation",
}  # fmt: skip


def parity(
    recipe: Annotated[Path, typer.Argument(help="The recipe: a YAML, TOML or JSON file.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Overrides, by dotted path.")
    ] = None,
    layouts: Annotated[
        list[str] | None,
        typer.Option("--layout", metavar="AXIS=SIZE[,...]", help="dp=2, fsdp=2, tp=2,pp=2; repeatable."),
    ] = None,
    strategy: Annotated[str | None, typer.Option(help="What lays processes out. Default: what can.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps to compare.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Compare what layouts compute with one process. Exit code 1 where one computes something else."""
    from spcore.cli.output import note, result
    from spcore.cli.run import stopping
    from spcore.components import default_registry
    from spcore.parity import parity as compare

    with stopping() as cancel:
        found = compare(
            recipe, layouts or [], default_registry(), overrides=overrides or [], strategy=strategy, steps=steps, cancel=cancel,
            on_run=lambda layout, seconds: note(f"{layout}: {seconds:.1f} s"),
        )  # fmt: skip
    if as_json:
        result(found.to_json(), as_json=True)
    else:
        _show(found)
    if not found.same:
        raise typer.Exit(1)


def _show(found: Parity) -> None:
    """The table, what is worst in it, and what was allowed."""
    from spcore.cli.output import aligned

    lines = [["layout", "strategy", *COLUMNS.values(), "tokens", "rows", "verdict"]]
    for one in found.verdicts:
        sizes = [f"{one.differences[name].size:.1e}" for name in COLUMNS]
        counted, expected = one.tokens
        tokens = f"{counted}" if counted == expected else f"{counted}, not {expected}"
        verdict = "same" if not one.failed else "differs: " + ", ".join(COLUMNS.get(name, name) for name in one.failed)
        lines.append([one.layout, one.strategy, *sizes, tokens, "same" if not one.rows else "others", verdict])
    lines.append(["tolerance", "", *(f"{found.tolerances[name].value:.0e}" for name in COLUMNS), "", "", ""])
    for line in aligned(lines):
        typer.echo(line)
    typer.echo("")
    for one in found.verdicts:
        worst = [
            f"{COLUMNS[name]} at {d.at}"
            for name, d in one.differences.items()
            if d.at and (d.size or name in one.failed)
        ]
        typer.echo(
            f"{one.layout}: worst: {'; '.join(worst) or 'nothing differs'}{f'; rows: {one.rows}' if one.rows else ''}"
        )
    for name, words in COLUMNS.items():
        typer.echo(f"{words}: {found.tolerances[name].value:.0e}: {found.tolerances[name].reason}")
    for key, value in found.settings.items():
        typer.echo(f"set for the comparison: {key}={value}")
