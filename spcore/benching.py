"""`bench`: runtimes and precisions side by side on a user's own model and data, each in a process of its own."""

from __future__ import annotations

import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from typing import Any

from spcore.components import Registry, RegistrySpec
from spcore.errors import RunError, SlimPajamaError, UserError, unknown

SINGLE = 100
"""Rows that are asked one at a time, at most."""


@dataclass(frozen=True)
class Measured:
    """runtime: with its options. rows_per_second: all rows, tokenizing included, the best of the repeats. p50_ms, p99_ms: of one row at
    a time. memory_mb: the process's peak. metric: the task's first, by name. provider: what it ran on. refused: why it did not run."""

    runtime: str
    provider: str = ""
    rows_per_second: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    memory_mb: float = 0.0
    metric: Mapping[str, float] | None = None
    refused: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Flat, the metric under its own name."""
        told = {k: v for k, v in asdict(self).items() if k != "metric"}
        return (
            {**told, **(self.metric or {})}
            if self.refused is None
            else {"runtime": self.runtime, "refused": self.refused}
        )


def bench(
    model: str,
    data: Mapping[str, Any],
    registry: Registry,
    *,
    runtimes: Sequence[str] = (),
    device: str = "auto",
    repeats: int = 3,
) -> Iterator[Measured]:
    """Measure a saved model under each runtime (default: all installed) and each of its variants. data: as under a recipe's
    `data`. Raises UserError for a runtime that is not known, and whatever the first of them raises about the data."""
    names = registry.names("runtime")
    for name in runtimes:
        if name not in names:
            raise UserError(f"bench: {unknown('runtime', name, names)}")
    spec = registry.spec()
    for name in runtimes or names:
        component = registry.find("runtime", name)
        if registry.missing(component):
            continue
        for options in _variants(model, name, registry):
            words = " ".join([name, *(f"{k}={v}" for k, v in options.items())])
            # A process of its own: so that memory is its own, and what one library sets does not slow another.
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                try:
                    yield pool.submit(
                        _measured, spec, words, model, {"use": name, **options}, dict(data), device, repeats
                    ).result()
                except BrokenProcessPool as error:
                    raise RunError(
                        f"bench: the process that measured {words!r} died; was there memory enough?"
                    ) from error


def _variants(model: str, name: str, registry: Registry) -> Sequence[Mapping[str, Any]]:
    from spcore.api import load_model

    options = registry.options_model("runtime", name)
    runtime = registry.create("runtime", name, options() if options is not None else None)
    found: Sequence[Mapping[str, Any]] = runtime.variants(load_model(model, registry=registry).artifact())
    return found


def _measured(
    spec: RegistrySpec, words: str, model: str, runtime: dict[str, Any], data: dict[str, Any], device: str, repeats: int
) -> Measured:
    """In the child process."""
    from spcore.api import load_model
    from spcore.inference import evaluate_rows

    registry = Registry.from_spec(spec)
    handle = load_model(model, runtime=runtime, device=device, registry=registry)
    task, bound = handle.task()
    source = handle.opened(data)
    try:
        runner = handle.runner()
    except SlimPajamaError as error:
        return Measured(words, refused=str(error))
    roles = [role.name for role in task.roles if not role.target]
    rows = [{k: row[k] for k in roles if k in row} for row in source.read(range(source.length or 0))]
    with handle.writer(runner, bound) as writer:
        metrics, _, counts = evaluate_rows(runner, bound, source, writer)
    if counts.dropped_total:
        rows = [row for row in rows if _usable(bound, row)]
    speeds, waits = [], []
    for _ in range(repeats):
        began = time.perf_counter()
        handle.predicted(rows)
        speeds.append(len(rows) / (time.perf_counter() - began))
        for row in rows[:SINGLE]:
            began = time.perf_counter()
            handle.predicted([row])
            waits.append(1e3 * (time.perf_counter() - began))
    waits.sort()
    name = next(iter(bound.metric_names or metrics))
    # Kilobytes, but on macOS bytes.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return Measured(
        words,
        runner.provider,
        max(speeds),
        statistics.median(waits),
        waits[int(0.99 * (len(waits) - 1))],
        peak,
        {name: metrics[name]},
    )


def _usable(bound: Any, row: Mapping[str, Any]) -> bool:
    from spcore.errors import DataError

    try:
        bound.featurize(row)
    except DataError:
        return False
    return True
