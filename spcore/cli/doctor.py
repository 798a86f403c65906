"""`slimpajama doctor`: what is installed, what it runs on, what is wrong."""

from __future__ import annotations

from typing import Annotated

import typer


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print as one JSON object.")] = False) -> None:
    """Tell what is installed, what it runs on, and what is wrong. Exits with 1 where a plugin is broken."""
    import os
    import platform

    from spcore.artifact import versions
    from spcore.cli.output import result
    from spcore.components import default_registry
    from spcore.features import cache_folder

    registry = default_registry()
    facts = {f"version of {k}": v for k, v in versions().items()}
    facts |= {"platform": platform.platform(), "cores": str(os.cpu_count()), "cache": str(cache_folder())}
    facts |= registry.facts()
    problems = [f"plugin {p.name!r} ({p.module}) is broken: {p.error}" for p in registry.plugins() if p.error]
    missing = [
        f"{c.kind} {c.name!r}: needs {', '.join(need)}"
        for _, c in registry.components()
        if (need := registry.missing(c))
    ]
    if as_json:
        result({**facts, "problems": problems, "not_installed": missing}, as_json=True)
    else:
        result(facts, as_json=False)
        for line in missing:
            typer.echo(f"not installed: {line}")
        for line in problems or ["no problem found"]:
            typer.echo(f"problem: {line}" if problems else line)
    if problems:
        raise typer.Exit(1)
