"""`slimpajama data inspect FILE`: what is recognised of a data set, before it is trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(help="Look at data.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _data() -> None:
    """Look at data."""


@app.command("inspect")
def inspect(
    source: Annotated[str, typer.Argument(metavar="FILE", help="A file, a glob, a folder, a Hub name: as --data.")],
    model: Annotated[
        str | None,
        typer.Option(
            help="A Hub name or a folder: lengths are then in its tokens, and examples shown as it reads them."
        ),
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="Whose rows these are; default: the one that the columns suit best.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="A split; 'train[:90%]' takes a part.")] = None,
    columns: Annotated[
        list[str] | None, typer.Option("--column", metavar="ROLE=COLUMN", help="Which column is which; repeatable.")
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="A setting of the data set, or of the task (task.KEY); repeatable."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as one JSON object.")] = False,
) -> None:
    """Tell what a data set holds and what is wrong with it. Reads it as a run would."""
    from spcore.cli.inspection import inspected
    from spcore.cli.output import result
    from spcore.components import default_registry
    from spcore.given import parted
    from spcore.recipe import pairs, typed_pairs

    given = typed_pairs(sets or [], "--set")
    named = {key if key.startswith(("data.", "task.")) else f"data.{key}": value for key, value in given.items()}
    options, settings = parted(named, ("data", "task"))
    if columns:
        options["columns"] = pairs(columns, "--column")
    found = inspected(
        source, default_registry(), model=model, task=task, split=split, options=options, settings=settings
    )
    if as_json:
        result(found, as_json=True)
        return
    from rich.console import Console

    show(found, Console(highlight=False, soft_wrap=True))


def show(found: dict[str, Any], console: Console) -> None:
    """For people."""
    from spcore.cli.rendering import show_rendered

    _facts(found, console)
    _columns(found, console)
    _lengths(found["lengths"], console)
    _counted("labels", found["labels"], console)
    _dirt(found, console)
    for example in found["examples"]:
        console.rule(example["place"], align="left", style="dim")
        for name, value in example["row"].items():
            console.print(f"{name}: {value}", markup=False)
        show_rendered(example.get("rendered", ()), console)
        if "more" in example:
            console.print(f"and {example['more']} more like these of the same row", style="dim")


def _facts(found: dict[str, Any], console: Console) -> None:
    for file in found["files"]:
        known = {k: v for k, v in file.items() if k not in ("path", "rows") and v is not None}
        told = ", ".join(f"{k} {v!r}" if k == "delimiter" else f"{k.replace('_', ' ')} {v}" for k, v in known.items())
        console.print(f"{file['path']}: {told}", markup=False)
    rows = found["rows"]
    console.print(
        f"rows: {rows['read']} read, {rows['used']} used, {rows['dropped']} dropped"
        + (f", {rows['truncated']} truncated" if found["lengths"]["unit"] == "tokens" else "")
    )
    console.print(f"task: {found['task'] or 'none of these columns'}", markup=False)
    for line in found["remarks"]:
        console.print(f"remark: {line}", markup=False)
    if found["problem"]:
        console.print(f"a run would refuse it: {found['problem']}", markup=False, style="red")


def _columns(found: dict[str, Any], console: Console) -> None:
    from rich.table import Table

    table = Table("column", "kind", "different", "missing", "read as", box=None, title="columns", title_justify="left")
    for name, column in found["columns"].items():
        different = "over 1000" if column["different"] is None else str(column["different"])
        table.add_row(name, column["kind"], different, str(column["missing"]), column["role"] or "")
    console.print(table)


def _lengths(lengths: dict[str, Any], console: Console) -> None:
    if not lengths["histogram"]:
        return
    console.print(
        f"lengths in {lengths['unit']}: least {lengths['least']}, median {lengths['median']}, 95% up to {lengths['p95']}, "
        f"most {lengths['most']}"
        + (f"; the model takes {lengths['max_length']}" if lengths.get("max_length") is not None else "")
    )
    _counted("", {f"{b['from']}-{b['to']}": b["rows"] for b in lengths["histogram"]}, console)


def _counted(title: str, counts: dict[str, int] | None, console: Console) -> None:
    """Counts with bars."""
    if not counts:
        return
    if title:
        console.print(f"{title}: {len(counts)}")
    shown = list(counts.items())[:30]
    width, most = max(len(name) for name, _ in shown), max(n for _, n in shown)
    for name, n in shown:
        console.print(f"  {name:>{width}}  {n:>7}  {'█' * round(40 * n / max(most, 1))}", markup=False)
    if len(counts) > len(shown):
        console.print(f"  and {len(counts) - len(shown)} more")


def _dirt(found: dict[str, Any], console: Console) -> None:
    for what in found["dirt"]:
        console.print(f"dropped: {what['what']}: {what['rows']} ({', '.join(what['first'])})", markup=False)
    twice = found["duplicates"]
    if twice["rows"]:
        console.print(f"rows that are there twice: {twice['rows']} ({', '.join(twice['first'])})", markup=False)
    if twice["conflicts"]:
        first = ", ".join(twice["first_conflicts"])
        console.print(f"the same text with another label: {twice['conflicts']} ({first})", markup=False)
