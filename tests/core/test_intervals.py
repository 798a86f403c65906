"""Intervals of an evaluation's figures, and figures of groups of its rows, against scipy and by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from spcore.errors import DataError
from spcore.interfaces.task import EvalPart
from spcore.intervals import by_group, figures


class Means:
    """Rows with a value: their mean, and the root of the mean of their squares; loss, of sums that rows do not tell. tells: whether they do."""

    def __init__(self, tells: bool) -> None:
        self.tells = tells

    def sums(self, rows: Any) -> dict[str, float] | None:
        return {"loss": math.fsum(row["value"] for row in rows)} if self.tells else None

    def metrics(self, part: EvalPart) -> dict[str, float]:
        assert [row["feature_id"] for row in part.rows] == list(range(len(part.rows)))
        values = np.array([row["value"] for row in part.rows])
        found = {"mean": float(values.mean()), "rms": float(np.sqrt((values**2).mean()))}
        return {**found, "loss": part.sums["loss"] / len(values), "rows": float(len(values))}


VALUES = np.random.default_rng(3).gamma(2.0, 1.0, 60)
ROWS = [{"feature_id": n, "row_id": n, "value": float(value)} for n, value in enumerate(VALUES)]
PART = EvalPart({"loss": float(VALUES.sum())}, ROWS)


def test_intervals_are_those_of_scipy() -> None:
    found = figures(Means(False), PART, 2000)  # type: ignore[arg-type]
    assert found.metrics["mean"] == pytest.approx(VALUES.mean())
    assert set(found.intervals) == {"mean", "rms"}, "rows do not tell the loss"
    for name, statistic in (("mean", np.mean), ("rms", lambda x, axis: np.sqrt((x**2).mean(axis)))):
        theirs = stats.bootstrap((VALUES,), statistic, n_resamples=4000, method="percentile", rng=1).confidence_interval
        # Ends of percentiles from 2,000 draws part by some hundredths of the interval's width.
        width = theirs.high - theirs.low
        assert found.intervals[name] == pytest.approx((theirs.low, theirs.high), abs=0.08 * width)
    assert figures(Means(False), PART, 50).intervals == figures(Means(False), PART, 50).intervals  # type: ignore[arg-type]
    assert figures(Means(False), PART, 0).intervals == {}  # type: ignore[arg-type]


def test_sums_that_rows_tell_have_intervals_too() -> None:
    found = figures(Means(True), PART, 200).intervals  # type: ignore[arg-type]
    assert found["loss"] == pytest.approx(found["mean"])
    assert "rows" not in found


def test_what_a_row_was_cut_into_stays_together() -> None:
    """Pairs that add up to nothing: the mean of any resample is 0."""
    rows = [{"feature_id": n, "row_id": n // 2, "value": float(VALUES[n // 2] * (-1) ** n)} for n in range(60)]
    found = figures(Means(True), EvalPart({"loss": 0.0}, rows), 50)  # type: ignore[arg-type]
    assert found.rows == 30
    assert found.intervals["mean"] == pytest.approx((0.0, 0.0))


def test_groups_have_the_figures_of_their_rows() -> None:
    names = ["a" if n % 3 else "b" for n in range(60)]
    found = by_group(Means(False), PART, names, 100)  # type: ignore[arg-type]
    assert list(found) == ["a", "b"]
    for name, group in found.items():
        own = VALUES[np.array(names) == name]
        assert (group.rows, group.metrics["mean"]) == (len(own), pytest.approx(own.mean()))
        assert set(group.metrics) == {"mean", "rms", "rows"}, "the loss of a group is not known"
        assert group.intervals["mean"][0] < own.mean() < group.intervals["mean"][1]
    with pytest.raises(DataError, match="group_by: the column has 60 different values; 50 groups at most"):
        by_group(Means(False), PART, [str(n) for n in range(60)], 0)  # type: ignore[arg-type]
