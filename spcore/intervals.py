"""How sure an evaluation's figures are: intervals by resampling rows, and the figures of groups of rows.

Called by `LanguageModelHandle.evaluate`. A figure is computed anew from each resample by the task itself, so one that is no mean (F1, BLEU, a
correlation) has an interval too. What a row was cut into stays together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np

from spcore.errors import DataError
from spcore.interfaces.task import BoundTask, EvalPart

LEVEL = 0.95
MOST_GROUPS = 50
Unit = list[dict[str, Any]]
"""The evaluation rows of one row of the data."""


@dataclass(frozen=True)
class Figures:
    """rows: of the data. metrics by name. intervals: name -> (low, high), which hold LEVEL of the resamples' figures."""

    rows: int
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """For reports."""
        intervals = {"intervals": {name: list(ends) for name, ends in self.intervals.items()}} if self.intervals else {}
        return {"rows": self.rows, "metrics": self.metrics, **intervals}


def figures(task: BoundTask, part: EvalPart, resamples: int) -> Figures:
    """All figures of an evaluation with their intervals; resamples 0: without. Intervals lack figures that rows do not tell, see `BoundTask.sums`."""
    units = _units(part)
    return Figures(len(units), task.metrics(part), _intervals(task, part, units, resamples))


def by_group(task: BoundTask, part: EvalPart, groups: Sequence[str], resamples: int) -> dict[str, Figures]:
    """group -> its figures, those that its rows tell, with their intervals. groups: of each row of the data, by its id. Raises DataError for more
    than MOST_GROUPS."""
    own: dict[str, list[Unit]] = {}
    for unit in _units(part):
        own.setdefault(groups[unit[0]["row_id"]], []).append(unit)
    if len(own) > MOST_GROUPS:
        raise DataError(
            f"group_by: the column has {len(own)} different values; {MOST_GROUPS} groups at most",
            hint="Give a column of few values",
        )
    told = _told(task, part)
    return {
        name: Figures(
            len(units),
            {key: value for key, value in task.metrics(_part(task, part, units)).items() if key in told},
            _intervals(task, part, units, resamples),
        )
        for name, units in sorted(own.items())
    }  # fmt: skip


def _units(part: EvalPart) -> list[Unit]:
    return [list(rows) for _, rows in groupby(part.rows, key=lambda row: row["row_id"])]


def _part(task: BoundTask, part: EvalPart, units: Sequence[Unit]) -> EvalPart:
    """An evaluation of these rows alone, numbered anew, so that one that is there twice counts as two."""
    rows: list[dict[str, Any]] = []
    for n, unit in enumerate(units):
        rows += [{**row, "feature_id": len(rows) + k, "row_id": n} for k, row in enumerate(unit)]
    sums = task.sums(rows)
    return EvalPart(part.sums if sums is None else sums, rows)


def _told(task: BoundTask, part: EvalPart) -> set[str]:
    """Names of the figures that do not change with sums which rows do not tell."""
    found = task.metrics(part)
    if task.sums(part.rows) is not None:
        return set(found)
    other = task.metrics(EvalPart({name: 2 * value + 1 for name, value in part.sums.items()}, part.rows))
    return {name for name, value in found.items() if other.get(name) == value}


def _intervals(
    task: BoundTask, part: EvalPart, units: Sequence[Unit], resamples: int
) -> dict[str, tuple[float, float]]:
    """Percentile intervals (Efron 1979, https://doi.org/10.1214/aos/1176344552): of `resamples` draws of as many rows, with replacement, by one
    seed, so that they are the same each time."""
    if not resamples:
        return {}
    rng, told = np.random.default_rng(0), _told(task, part)
    drawn: dict[str, list[float]] = {}
    for _ in range(resamples):
        chosen = [units[n] for n in rng.integers(len(units), size=len(units)).tolist()]
        for name, value in task.metrics(_part(task, part, chosen)).items():
            if name in told and name != "rows":
                drawn.setdefault(name, []).append(value)
    ends = [50 * (1 - LEVEL), 100 - 50 * (1 - LEVEL)]
    return {
        name: (float(low), float(high)) for name, (low, high) in ((n, np.percentile(v, ends)) for n, v in drawn.items())
    }
