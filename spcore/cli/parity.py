"""`slimpajama parity RECIPE [KEY=VALUE ...] --layout dp=2 --layout tp=2,pp=2`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from spcore.parity import Parity, Verdict

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
    dropout: Annotated[float | None, typer.Option(help="Compare masks of data ranks too, at this probability.")] = None,
    seeds: Annotated[
        int | None, typer.Option(min=2, help="With --dropout: compare losses over so many seeds too.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Compare what layouts compute with one process. Exit code 1 where one computes something else."""
    from spcore.cli.output import note, result
    from spcore.cli.run import stopping
    from spcore.components import default_registry
    from spcore.parity import parity as compare

    with stopping() as cancel:
        found = compare(
            recipe, layouts or [], default_registry(), overrides=overrides or [], strategy=strategy, steps=steps, dropout=dropout, seeds=seeds, cancel=cancel,
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

    for line in aligned([_HEADER, *map(_line, found.verdicts), _allowed(found)]):
        typer.echo(line)
    for one in found.verdicts:
        named = [(words, one.differences[name]) for name, words in COLUMNS.items() if one.differences[name].size]
        worst = [f"{words} {d.size:.1e} at {d.at}" for words, d in named]
        if one.curve is not None:
            c = one.curve
            worst.append(
                f"losses over seeds {c.difference:.1e}: {c.errors:.1f} standard errors of {c.allowed:.1f} allowed"
            )
        more = [
            f"{what} {words}"
            for what, words in (("rows:", one.rows), ("dropout masks of data ranks:", one.masks))
            if words
        ]
        typer.echo(f"{one.layout}: {'; '.join([*worst, *more]) or 'no difference'}")
    reasons: dict[str, list[str]] = {}
    for name, words in COLUMNS.items():
        reasons.setdefault(found.tolerances[name].reason, []).append(words)
    for reason, figures in reasons.items():
        typer.echo(f"tolerance of {', '.join(figures)}: {reason}")
    for key, value in found.settings.items():
        typer.echo(f"set for the comparison: {key}={value}")


_HEADER = ["layout", "strategy", *COLUMNS.values(), "tokens", "verdict"]


def _line(one: Verdict) -> list[str]:
    counted, expected = one.tokens
    tokens = f"{counted}" if counted == expected else f"{counted}, not {expected}"
    verdict = "differs: " + ", ".join(COLUMNS.get(name, name) for name in one.failed) if one.failed else "same"
    return [one.layout, one.strategy, *(f"{one.differences[name].size:.1e}" for name in COLUMNS), tokens, verdict]


def _allowed(found: Parity) -> list[str]:
    return ["tolerance", "", *(f"{found.tolerances[name].value:.1e}" for name in COLUMNS), "", ""]
