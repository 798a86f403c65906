"""Whether layouts compute the same: a recipe run for some steps by one process and at each layout, and everything compared.

Same weights and rows at each; dropout off, and Adam's eps raised, as both let runs differ that compute the same: dropout is drawn where
it falls, and an eps far below the gradients makes whole steps of their rounding. What is set so is reported.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from spcore.comparing import FIGURES, Difference, Tolerance, compared, rows_apart, tolerances
from spcore.components import Registry
from spcore.errors import ComponentError, RecipeError, RefusalError, RunCancelled, UserError, nearest
from spcore.given import started, starts
from spcore.interfaces.launcher import Control
from spcore.interfaces.logger import Evaluated, Event, Step
from spcore.interfaces.strategy import AXES, ParallelStrategy
from spcore.recipe import Part, Recipe, load_recipe, lone_part
from spcore.session import Session, assemble, create, run_spec

EPS = 1e-5
"""Adam's, at least: gradients of about that size agree to far less."""


@dataclass(frozen=True)
class Laid:
    """A layout that is ready to run. name: as it was asked for, "one process" for the reference. session: checked."""

    name: str
    strategy: str
    session: Session


@dataclass(frozen=True)
class Measured:
    """What a run computed. folder: see `spcore.probing`. steps, metrics: from its events; of the last evaluation, {} for none."""

    folder: Path
    steps: Sequence[Step]
    metrics: Mapping[str, float]
    seconds: float


@dataclass(frozen=True)
class Verdict:
    """A layout against one process. differences: by figure, in `FIGURES`' order. tokens: counted there and by one process. rows: what
    is wrong about the rows, "" for nothing. failed: what is not the same, [] for a layout that computes the same."""

    layout: str
    strategy: str
    processes: int
    differences: Mapping[str, Difference]
    tokens: tuple[int, int]
    rows: str
    seconds: float
    failed: Sequence[str]

    def to_json(self) -> dict[str, Any]:
        """Flat where it can be."""
        found = {name: {"difference": d.size, "at": d.at} for name, d in self.differences.items()}
        return {
            "layout": self.layout, "strategy": self.strategy, "processes": self.processes, "same": not self.failed, "failed": list(self.failed),
            **found, "tokens": self.tokens[0], "tokens_expected": self.tokens[1], "rows": self.rows or "same", "seconds": self.seconds,
        }  # fmt: skip


@dataclass
class Parity:
    """All layouts. settings: what was set for the comparison. steps: of each run."""

    steps: int
    settings: Mapping[str, Any]
    tolerances: Mapping[str, Tolerance]
    verdicts: list[Verdict] = field(default_factory=list)

    @property
    def same(self) -> bool:
        """Whether every layout computes what one process does."""
        return all(not verdict.failed for verdict in self.verdicts)

    def to_json(self) -> dict[str, Any]:
        """What `--json` prints."""
        return {
            "same": self.same, "steps": self.steps, "settings": dict(self.settings),
            "tolerances": {name: {"value": t.value, "reason": t.reason} for name, t in self.tolerances.items()},
            "layouts": [verdict.to_json() for verdict in self.verdicts],
        }  # fmt: skip


def parity(
    recipe: str | Path | Mapping[str, Any],
    layouts: Sequence[str],
    registry: Registry,
    *,
    overrides: Sequence[str] = (),
    strategy: str | None = None,
    steps: int = 5,
    cancel: Control | None = None,
    on_run: Callable[[str, float], None] = lambda layout, seconds: None,
) -> Parity:
    """Compare layouts ("tp=2,pp=2") with one process. strategy: what lays them out; default: see `strategy_for`. on_run: told each run
    that is done, and its seconds.

    Every layout is checked before anything starts. Raises UserError for a layout that cannot be read or is laid out by nothing, and
    what `assemble` raises, which begins with the layout.
    """
    settings = _settings(recipe, overrides, registry)
    own = {text.partition("=")[0].strip() for text in overrides}
    settings = {key: value for key, value in settings.items() if key not in own}
    prepared = load_recipe(recipe, [*overrides, *settings.items(), *_fixed(steps)], registry=registry)
    wanted = {name: parse_layout(name) for name in dict.fromkeys(layouts)}
    if not wanted:
        raise UserError("--layout: not given; give one or more, for example --layout dp=2")
    laid = [_laid("one process", {}, None, prepared, registry)]
    laid += [_laid(name, axes, strategy, prepared, registry) for name, axes in wanted.items()]
    with tempfile.TemporaryDirectory(prefix="slimpajama-parity-") as scratch:
        reference = _measure(laid[0], Path(scratch) / "0", cancel)
        on_run(laid[0].name, reference.seconds)
        limits = tolerances(laid[0].session.plan, max(step.tokens for step in reference.steps))
        found = Parity(steps, settings, limits)
        for n, one in enumerate(laid[1:], 1):
            measured = _measure(one, Path(scratch) / str(n), cancel)
            on_run(one.name, measured.seconds)
            found.verdicts.append(_judge(one, measured, reference, limits))
    return found


def _judge(laid: Laid, run: Measured, wanted: Measured, limits: Mapping[str, Tolerance]) -> Verdict:
    found = compared(run.folder, run.steps, run.metrics, (wanted.folder, wanted.steps, wanted.metrics))
    tokens, expected = (sum(step.tokens for step in one.steps) for one in (run, wanted))
    rows = rows_apart(run.folder, wanted.folder)
    failed = [name for name in FIGURES if not found[name].size <= limits[name].value]
    failed += [name for name, wrong in (("tokens", tokens != expected), ("rows", bool(rows))) if wrong]
    processes = laid.session.plan.layout.world_size
    return Verdict(laid.name, laid.strategy, processes, found, (tokens, expected), rows, run.seconds, failed)


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


def _settings(recipe: str | Path | Mapping[str, Any], overrides: Sequence[str], registry: Registry) -> dict[str, Any]:
    """What the parts of a recipe are set to for a comparison, as far as they have such options."""
    read = load_recipe(recipe, overrides, registry=registry)
    model, optimizer = read.model, read.optimizer
    fields = registry.options_model("model", model.use)
    settings: dict[str, Any] = {}
    if fields is not None and "dropout" in fields.model_fields:
        settings["model.dropout"] = 0.0
    eps = optimizer.options.get("eps")
    if isinstance(eps, float) and eps < EPS:
        settings["optimizer.eps"] = EPS
    return settings


def _fixed(steps: int) -> list[tuple[str, Any]]:
    """What a comparison leaves out of a recipe, or says itself."""
    return [("output", None), ("loggers", []), ("train.epochs", None), ("train.steps", steps)]


def _laid(name: str, axes: Mapping[str, int], strategy: str | None, recipe: Recipe, registry: Registry) -> Laid:
    """A layout, checked. Raises UserError, and what `assemble` does, under the layout's name."""
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


def _measure(laid: Laid, folder: Path, cancel: Control | None) -> Measured:
    """Run a layout. Raises what the run raises, RunCancelled where it was told to stop."""
    folder.mkdir()
    steps: dict[int, Step] = {}
    metrics: dict[str, float] = {}

    def heard(event: Event) -> None:
        if isinstance(event, Step):
            steps[event.step] = event
        elif isinstance(event, Evaluated):
            metrics.clear()
            metrics.update(event.metrics)

    began = time.monotonic()
    session = laid.session
    spec = replace(run_spec(session), probe=str(folder))
    result = session.launcher.launch(spec, heard, cancel or threading.Event())
    if result.cancelled:
        raise RunCancelled(f"{laid.name}: stopped on request")
    return Measured(folder, [steps[n] for n in sorted(steps)], metrics, time.monotonic() - began)
