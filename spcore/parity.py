"""Whether layouts compute the same: a recipe run for some steps by one process and at each layout, and everything compared.

Same weights and rows at each; dropout off, and Adam's eps raised, as both let runs differ that compute the same: dropout is drawn where
it falls, and an eps far below the gradients makes whole steps of their rounding. What is set so is reported.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from spcore.comparing import (
    DIFFERENT,
    FIGURES,
    Curve,
    Difference,
    Tolerance,
    compared,
    curves_apart,
    masks_apart,
    rows_apart,
    said_of_masks,
    tolerances,
)
from spcore.components import Registry
from spcore.errors import RefusalError, RunCancelled, UserError
from spcore.interfaces.launcher import Control, Probe
from spcore.interfaces.logger import Evaluated, Event, Step
from spcore.laying import Laid, laid_out, parse_layout
from spcore.recipe import Recipe, load_recipe
from spcore.session import assemble, run_spec

ONE = "one process"
"""Name of what is compared with."""
EPS = 1e-5
"""Adam's, at least: gradients of about that size agree to far less."""


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
    is wrong about the rows, "" for nothing. wrong: figures that differ by more than their tolerance. masks: what data ranks' masks are, ""
    where they were not compared; curve: losses with dropout on, None where they were not."""

    layout: str
    strategy: str
    processes: int
    differences: Mapping[str, Difference]
    tokens: tuple[int, int]
    rows: str
    seconds: float
    wrong: Sequence[str]
    masks: str = ""
    curve: Curve | None = None

    @property
    def failed(self) -> list[str]:
        """What is not the same, [] for a layout that computes the same."""
        others = {
            "tokens": self.tokens[0] != self.tokens[1], "rows": bool(self.rows), "masks": self.masks not in ("", DIFFERENT),
            "curve": self.curve is not None and not self.curve.same,
        }  # fmt: skip
        return [*self.wrong, *(name for name, failed in others.items() if failed)]

    def to_json(self) -> dict[str, Any]:
        """Flat where it can be."""
        found = {name: {"difference": d.size, "at": d.at} for name, d in self.differences.items()}
        return {
            "layout": self.layout, "strategy": self.strategy, "processes": self.processes, "same": not self.failed, "failed": self.failed,
            **found, "tokens": self.tokens[0], "tokens_expected": self.tokens[1], "rows": self.rows or "same", "masks": self.masks or None,
            "curve": asdict(self.curve) if self.curve is not None else None, "seconds": self.seconds,
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
    dropout: float | None = None,
    seeds: int | None = None,
    cancel: Control | None = None,
    on_run: Callable[[str, float], None] = lambda layout, seconds: None,
) -> Parity:
    """Compare layouts ("tp=2,pp=2") with one process. strategy: what lays them out; default: see `strategy_for`. dropout: a probability
    at which data ranks' masks are compared in a run of their own; seeds: and losses over so many seeds. on_run: told each run that is
    done, and its seconds.

    Every layout is checked before anything starts. Raises UserError for a layout that cannot be read or is laid out by nothing, and
    what `assemble` raises, which begins with the layout; whatever a run raises.
    """
    wanted = {name: parse_layout(name) for name in dict.fromkeys(layouts)}
    if not wanted:
        raise UserError("--layout: not given; give one or more, for example --layout dp=2")
    read = load_recipe(recipe, overrides, registry=registry)
    given = {text.partition("=")[0].strip() for text in overrides}
    settings = {key: value for key, value in _settings(read, registry).items() if key not in given}
    prepared = load_recipe(recipe, [*overrides, *settings.items(), *_fixed(steps)], registry=registry)
    reference = laid_out(ONE, {}, None, prepared, registry)
    laid = [laid_out(name, axes, strategy, prepared, registry) for name, axes in wanted.items()]
    dropping = [_dropping(one, dropout, registry) for one in (reference, *laid)] if dropout is not None else []
    if seeds is not None and (dropout is None or seeds < 2):
        raise UserError(f"--seeds {seeds}: runs with dropout are compared over two seeds or more; give --dropout too")
    with tempfile.TemporaryDirectory(prefix="slimpajama-parity-") as scratch:
        expected = _measure(reference, Path(scratch) / ONE, cancel)
        on_run(ONE, expected.seconds)
        limits = tolerances(reference.session.plan, max(step.tokens for step in expected.steps))
        found = Parity(steps, settings, limits)
        for one in laid:
            run = _measure(one, Path(scratch) / "run", cancel)
            on_run(one.name, run.seconds)
            found.verdicts.append(_judge(one, run, expected, limits))
            shutil.rmtree(run.folder)
        if dropping:
            for number, one in enumerate(dropping[1:]):
                masks = _masks(one, Path(scratch) / "masks", limits["gradient"], cancel)
                found.verdicts[number] = replace(found.verdicts[number], masks=masks)
        if seeds is not None:
            curves = [_curve(one, seeds, Path(scratch) / "curve", registry, cancel, on_run) for one in dropping]
            found.verdicts = [
                replace(verdict, curve=curves_apart(curve, curves[0]))
                for verdict, curve in zip(found.verdicts, curves[1:], strict=True)
            ]
    return found


def _judge(laid: Laid, run: Measured, wanted: Measured, limits: Mapping[str, Tolerance]) -> Verdict:
    found = compared(run.folder, run.steps, run.metrics, (wanted.folder, wanted.steps, wanted.metrics))
    tokens, expected = (sum(step.tokens for step in one.steps) for one in (run, wanted))
    rows = rows_apart(run.folder, wanted.folder)
    wrong = [name for name in FIGURES if not found[name].size <= limits[name].value]
    processes = laid.session.plan.layout.world_size
    return Verdict(laid.name, laid.strategy, processes, found, (tokens, expected), rows, run.seconds, wrong)


def _masks(laid: Laid, folder: Path, limit: Tolerance, cancel: Control | None) -> str:
    """What data ranks' masks are, "" where there is one data rank."""
    if laid.session.plan.layout.data_size == 1:
        return ""
    run = _measure(laid, folder, cancel, what="masks")
    said = said_of_masks(*masks_apart(run.folder), limit)
    shutil.rmtree(run.folder)
    return said


def _curve(
    laid: Laid,
    seeds: int,
    folder: Path,
    registry: Registry,
    cancel: Control | None,
    on_run: Callable[[str, float], None],
) -> list[float]:
    """The mean loss of the later half of the steps, for each seed, from the recipe's on."""
    recipe, losses = laid.session.recipe, []
    for seed in range(recipe.train.seed, recipe.train.seed + seeds):
        session = assemble(load_recipe(recipe.to_json(), {"train.seed": seed}, registry=registry), registry)
        run = _measure(replace(laid, session=session), folder, cancel)
        on_run(f"{laid.name}, seed {seed}", run.seconds)
        losses.append(statistics.fmean(step.loss for step in run.steps[len(run.steps) // 2 :]))
        shutil.rmtree(folder)
    return losses


def _dropping(laid: Laid, dropout: float, registry: Registry) -> Laid:
    """The run with dropout on. Raises RefusalError."""
    session = laid.session
    if not dropout > 0:
        raise RefusalError(f"--dropout {dropout:g}: nothing is drawn; give a probability above 0, or leave it out")
    if not _has(registry, "model", session.recipe.model.use, "dropout"):
        raise RefusalError(
            f"--dropout {dropout:g}: model {session.recipe.model.use!r} has no option dropout; leave it out"
        )
    if session.train.length is None:
        raise RefusalError(
            f"--dropout {dropout:g}: rows of streams and mixtures come as they are read; give data with a length"
        )
    recipe = load_recipe(session.recipe.to_json(), {"model.dropout": dropout}, registry=registry)
    return replace(laid, session=assemble(recipe, registry))


def _has(registry: Registry, kind: str, name: str, option: str) -> bool:
    model = registry.options_model(kind, name)
    return model is not None and option in model.model_fields


def _settings(recipe: Recipe, registry: Registry) -> dict[str, Any]:
    """What the parts of a recipe are set to for a comparison, as far as they have such options."""
    settings: dict[str, Any] = {}
    if _has(registry, "model", recipe.model.use, "dropout"):
        settings["model.dropout"] = 0.0
    eps = recipe.optimizer.options.get("eps")
    if isinstance(eps, float) and eps < EPS:
        settings["optimizer.eps"] = EPS
    return settings


def _fixed(steps: int) -> list[tuple[str, Any]]:
    """What a comparison leaves out of a recipe, or says itself."""
    return [("output", None), ("loggers", []), ("train.epochs", None), ("train.steps", steps)]


def _measure(laid: Laid, folder: Path, cancel: Control | None, *, what: Literal["run", "masks"] = "run") -> Measured:
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
    spec = replace(run_spec(session), probe=Probe(str(folder), what))
    result = session.launcher.launch(spec, heard, cancel or threading.Event())
    if result.cancelled:
        raise RunCancelled(f"{laid.name}: stopped on request")
    assert any(folder.iterdir()), f"launcher {session.recipe.launch.use!r} does not pass on `RunSpec.probe`"
    return Measured(folder, [steps[n] for n in sorted(steps)], metrics, time.monotonic() - began)
