"""Layouts as `slimpajama parity` takes them, "tp=2,pp=2": which strategy lays processes out so, and the run, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from spcore.components import Registry
from spcore.errors import ComponentError, RecipeError, RefusalError, UserError, nearest
from spcore.given import started, starts
from spcore.interfaces.strategy import AXES, ParallelStrategy
from spcore.recipe import Part, Recipe, load_recipe, lone_part
from spcore.session import Session, assemble, create


@dataclass(frozen=True)
class Laid:
    """A layout that is ready to run. name: as it was asked for. strategy: what lays it out. session: checked."""

    name: str
    strategy: str
    session: Session


def parse_layout(text: str) -> dict[str, int]:
    """ "tp=2,pp=2" as axes; sizes of 1 are left out. Raises UserError."""
    axes: dict[str, int] = {}
    for part in text.split(","):
        name, _, size = (piece.strip() for piece in part.partition("="))
        if not name.isidentifier() or not size.isdigit() or int(size) < 1:
            raise UserError(f"--layout {text!r}: found {part!r}, expected: AXIS=SIZE, for example tp=2,pp=2")
        if name in axes:
            raise UserError(f"--layout {text!r}: {name} is there twice; give it once")
        axes[name] = int(size)
    return {name: size for name, size in axes.items() if size > 1}


def strategy_for(
    axes: Mapping[str, int], named: str | None, recipe: Recipe, registry: Registry
) -> dict[str, Any] | None:
    """The part `strategy` that lays processes out by these axes, None where none does: the named one; else the recipe's own, else of
    those of its plugin, else of all, the one that needs fewest options for it."""
    plugin = registry.owner("strategy", recipe.strategy.use).name
    found = []
    for name in [named] if named is not None else registry.names("strategy"):
        own = registry.find("strategy", name) == registry.find("strategy", recipe.strategy.use)
        options = _options_for(axes, recipe.strategy if own else name, registry, needed=named is not None)
        if options is not None:
            other = registry.owner("strategy", name).name != plugin
            base = recipe.strategy.options if own else {}
            found.append(((not own, other, len(options), name), {"use": name, **base, **options}))
    return min(found, key=lambda item: item[0])[1] if found else None


def _options_for(
    axes: Mapping[str, int], part: str | Part, registry: Registry, *, needed: bool
) -> dict[str, Any] | None:
    try:
        made = part if not isinstance(part, str) else lone_part(part, "strategy", registry)
        strategy: ParallelStrategy = create(registry, "strategy", made)
    except (ComponentError, RecipeError):  # not installed whole, or it needs options that nobody gave
        if needed:
            raise
        return None
    options = strategy.options_for(axes)
    return None if options is None else dict(options)


def laid_out(name: str, axes: Mapping[str, int], strategy: str | None, recipe: Recipe, registry: Registry) -> Laid:
    """A recipe on a layout, checked. strategy: see `strategy_for`. Raises UserError, and what `assemble` does, under the layout's name."""
    processes = 1
    for size in axes.values():
        processes *= size
    try:
        part = strategy_for(axes, strategy, recipe, registry)
        if part is None:
            raise UserError(_unlaid(axes, strategy, registry))
        launch = _launch(processes, recipe, registry)
        tree = {**recipe.to_json(), "strategy": part, "launch": launch}
        session = assemble(load_recipe(tree, registry=registry), registry)
    except UserError as error:
        raise RefusalError(f"--layout {name}: {error.message}" if axes else error.message, hint=error.hint) from error
    assert session.plan.layout.world_size == processes, f"{part}: lays out {dict(session.plan.layout.axes)}"
    return Laid(name, part["use"], session)


def _unlaid(axes: Mapping[str, int], strategy: str | None, registry: Registry) -> str:
    strange = next((axis for axis in axes if axis not in AXES), None)
    if strange is not None:
        near = nearest(strange, AXES)
        known = ", ".join(f"{axis} ({words})" for axis, words in AXES.items())
        return f"unknown axis {strange!r}{f'; did you mean {near!r}?' if near else ';'} known: {known}"
    if strategy is not None:
        return f"strategy {strategy!r} does not lay processes out so; leave --strategy out, or give another layout"
    return f"no strategy lays processes out so; installed: {', '.join(registry.names('strategy'))}"


def _launch(processes: int, recipe: Recipe, registry: Registry) -> dict[str, Any]:
    """The recipe's own launcher where it starts so many, else one that does. Raises RefusalError for one that starts none."""
    own = recipe.launch
    if "processes" not in own.options:
        raise RefusalError(
            f"launch {own.use!r}: processes are started here for each layout, and it starts none; leave launch out"
        )
    if starts(own.use, processes, registry):
        return {"use": own.use, **own.options, "processes": processes}
    return started(processes, registry, "processes")
