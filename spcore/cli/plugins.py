"""`slimpajama plugins list | show KIND/NAME | check [PLUGIN]`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

app = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="The parts that are installed.")


@app.command("list")
def list_(
    kind: Annotated[str | None, typer.Argument(help="Only this kind.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as one JSON object.")] = False,
) -> None:
    """List plugins and components; no implementation is imported."""
    from spcore.cli.output import result
    from spcore.components import KINDS, default_registry
    from spcore.errors import UserError, unknown

    registry = default_registry()
    known = {*KINDS, *(c.kind for _, c in registry.components())}
    if kind is not None and kind not in known:
        raise UserError(unknown("kind", kind, known))
    components = [(plugin, c) for plugin, c in registry.components() if kind in (None, c.kind)]
    broken = [p for p in registry.plugins() if p.error]
    if as_json:
        listed = [
            {"kind": c.kind, "name": c.name, "plugin": plugin, "summary": c.summary, "aliases": list(c.aliases)}
            for plugin, c in components
        ]
        plugins = [
            {"name": p.name, "module": p.module, "distribution": p.distribution, "version": p.version, "error": p.error}
            for p in registry.plugins()
        ]
        result({"components": listed, "plugins": plugins}, as_json=True)
        return
    _print_components(components)
    for plugin in broken:
        typer.echo(
            f"broken: plugin {plugin.name!r} ({plugin.module}, {plugin.distribution or 'by hand'}): {plugin.error}"
        )


def _print_components(components: list[tuple[str, Any]]) -> None:
    widths = [
        max((len(text) for text in column), default=0)
        for column in zip(*((c.kind, c.name, p) for p, c in components), strict=True)
    ]
    for plugin, c in components:
        typer.echo(f"{c.kind:<{widths[0]}}  {c.name:<{widths[1]}}  {plugin:<{widths[2]}}  {c.summary}")


@app.command()
def show(
    which: Annotated[str, typer.Argument(metavar="KIND/NAME", help="For example optimizer/adamw.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print as one JSON object.")] = False,
) -> None:
    """Show a component with its options."""
    from spcore.cli.output import result
    from spcore.components import default_registry, describe
    from spcore.errors import UserError

    kind, slash, name = which.partition("/")
    if not slash or not name:
        raise UserError(f"{which!r}: expected KIND/NAME, for example optimizer/adamw")
    data = describe(default_registry(), kind, name)
    if as_json:
        result(data, as_json=True)
        return
    options = data.pop("options")
    result(
        {k: ", ".join(v) if isinstance(v, list) else v for k, v in data.items() if v not in ([], None)}, as_json=False
    )
    if options:
        typer.echo("options:")
    for option, schema in options.items():
        typer.echo(f"  {option}  ({_type(schema)}, default {schema.get('default', 'none: it must be given')!r})")
        if schema.get("description"):
            typer.echo(f"      {schema['description']}")


def _type(schema: dict[str, Any]) -> str:
    """A JSON schema's type in a word or two."""
    if "anyOf" in schema:
        return " | ".join(_type(part) for part in schema["anyOf"])
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    return str(schema.get("const", schema.get("type", "object")))


@app.command()
def check(
    plugin: Annotated[str | None, typer.Argument(help="A plugin's name; all of them if none is given.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as one JSON object.")] = False,
) -> None:
    """Run the conformance suites on a plugin's parts. Exits with 1 where a part breaks its contract."""
    from spcore.cli.output import result
    from spcore.components import default_registry
    from spcore.testing import check_plugin

    report = check_plugin(default_registry(), plugin)
    if as_json:
        result(report.to_json(), as_json=True)
    else:
        typer.echo(str(report))
    if report.findings:
        raise typer.Exit(1)
