"""Mixtures: several sources trained on as one, each with its share.

Which source the n-th feature is of is a function of (seed, n) alone: the points start(seed) + n / phi mod 1 (the golden ratio's
sequence, the one of lowest discrepancy of its kind) fall into intervals as wide as the shares. Over seeds each draw has exactly its
share; over the draws of a run no source is ever more than a few features behind or ahead, where independent draws would stray by the
square root of their number. Each source gives its features in its own order, pass after pass, whatever the others do.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from spcore.errors import DataError
from spcore.features import FeatureStore, fingerprint
from spcore.interfaces.dataset import Column, ReadReport, Schema
from spcore.interfaces.task import Feature
from spcore.loading import generator
from spcore.rows import RoleSource
from spcore.streaming import Feed

GOLDEN = 0x9E3779B97F4A7C15
"""2^64 / phi: with integers that wrap the sequence is exact at any n."""
_BLOCK = 1024


@dataclass(frozen=True)
class Mixture:
    """Several sources under the task's names. weights: of each, shares of their sum; empty where they are evaluated on. labelled:
    the roles that hold labels."""

    sources: Mapping[str, RoleSource]
    weights: Mapping[str, float]
    labelled: Sequence[str] = ()
    length = None

    @cached_property
    def schema(self) -> Schema:
        """One schema: counts added up. Raises DataError for columns that are not alike."""
        return merged({name: source.schema for name, source in self.sources.items()})

    @property
    def fingerprint(self) -> str:
        """Of all sources; not of the weights, which the recipe holds."""
        return fingerprint([(name, source.fingerprint) for name, source in self.sources.items()])

    @property
    def report(self) -> ReadReport:
        """Their reports as one, each line under its source's name."""
        reports = [(name, source.report) for name, source in self.sources.items()]
        dropped = {f"{name}: {why}": lines for name, report in reports for why, lines in report.dropped.items()}
        remarks = [f"{name}: {line}" for name, report in reports for line in report.remarks]
        if self.weights:
            remarks += self._strange()
        files = tuple(file for _, report in reports for file in report.files)
        return ReadReport(sum(report.read for _, report in reports), dropped, tuple(remarks), files)

    def _strange(self) -> list[str]:
        """Labels that the first source lacks: more classes than were meant, perhaps."""
        (first, known), *others = self.sources.items()
        lines = []
        for role in self.labelled:
            ours = known.schema.columns[role].counts if role in known.schema.columns else None
            for name, source in others:
                theirs = source.schema.columns[role].counts if role in source.schema.columns else None
                if ours is not None and theirs is not None and (more := sorted(set(theirs) - set(ours))):
                    listed = ", ".join(more[:5]) + (", ..." if len(more) > 5 else "")
                    lines.append(
                        f"{name}: labels of {role!r} that {first} has not: {listed}; they are classes of their own"
                    )
        return lines

    @property
    def columns(self) -> dict[str, str]:
        """ "NAME.role" -> column of that source."""
        return {f"{name}.{role}": c for name, source in self.sources.items() for role, c in source.columns.items()}

    def place(self, row: int) -> str:
        """Where a row of a `MixedFeed` stands."""
        number, at = divmod(row, len(self.sources))
        name, source = list(self.sources.items())[at]
        return source.place(number) if source.length is not None else f"{name}:{number}"


def merged(schemas: Mapping[str, Schema]) -> Schema:
    """One schema of several with the same columns. Raises DataError that names the source which differs."""
    (first, known), *others = schemas.items()
    for name, schema in others:
        for role in dict.fromkeys([*known.columns, *schema.columns]):
            ours, theirs = known.columns.get(role), schema.columns.get(role)
            if ours is None or theirs is None:
                has, lacks = (first, name) if theirs is None else (name, first)
                raise DataError(f"data.sources.{lacks}: no column for {role!r}, which data.sources.{has} has")
            if ours.kind != theirs.kind:
                text = f"the column for {role!r} holds {theirs.kind}, in data.sources.{first} {ours.kind}"
                raise DataError(f"data.sources.{name}: {text}: they must be of one kind")
            if ours.labels != theirs.labels:
                text = f"the labels for {role!r} are {_listed(theirs)}, in data.sources.{first} {_listed(ours)}"
                raise DataError(f"data.sources.{name}: {text}: they must be the same")
    columns = {role: _summed([schema.columns[role] for schema in schemas.values()]) for role in known.columns}
    task = known.default_task if all(s.default_task == known.default_task for s in schemas.values()) else None
    alike = all(s.task_options == known.task_options for s in schemas.values())
    return Schema(columns, task, known.task_options if alike else {})


def _summed(columns: list[Column]) -> Column:
    counts: dict[str, int] | None = {}
    for column in columns:
        if column.counts is None or counts is None:
            counts = None
            continue
        for value, rows in column.counts.items():
            counts[value] = counts.get(value, 0) + rows
    largest = [column.largest for column in columns if column.largest is not None]
    return Column(columns[0].kind, columns[0].labels, counts, max(largest, default=None))


def _listed(column: Column) -> str:
    return (
        ", ".join(column.labels[:5]) + (", ..." if len(column.labels) > 5 else "") if column.labels else "not declared"
    )


def drawn(shares: np.ndarray, seed: int, first: int, count: int) -> np.ndarray:
    """Which source each of the draws first <= n < first + count takes: int64 [count]. shares: float64 [sources], of sum 1."""
    start = generator(seed, "mixture").integers(2**64, dtype=np.uint64)
    numbers = np.arange(count, dtype=np.uint64) + np.uint64(first)
    edges = [min(2**64 - 1, int(edge * 2**64)) for edge in np.cumsum(shares)[:-1].tolist()]
    return np.searchsorted(np.array(edges, np.uint64), start + numbers * np.uint64(GOLDEN), side="right").astype(
        np.int64
    )


class StoreFeed(Feed):
    """The features of a store, pass after pass, each pass in an order of its own. name: of the source, so that sources that are
    equally long have different orders."""

    def __init__(self, store: FeatureStore, *, seed: int, name: str) -> None:
        self.store, self.seed, self.name = store, seed, name
        self._given = 0
        self._order: tuple[int, np.ndarray] | None = None

    def next(self) -> Feature:
        """See `Feed.next`: never None."""
        self.epoch, at = divmod(self._given, len(self.store))
        if self._order is None or self._order[0] != self.epoch:
            drawn = generator(self.seed, self.epoch, "order", self.name).permutation(len(self.store))
            self._order = self.epoch, drawn
        self._given += 1
        return self.store[int(self._order[1][at])]

    def state(self) -> tuple[dict[str, Any], list[Feature]]:
        """See `Feed.state`."""
        return {"given": self._given}, []

    def restore(self, state: dict[str, Any], features: list[Feature]) -> None:
        """See `Feed.restore`."""
        self._given = state["given"]

    def report(self, state: dict[str, Any]) -> dict[str, Any]:
        """See `Feed.report`."""
        return {**self.store.counts.to_json(), "passes": state["given"] / len(self.store)}

    def remarks(self, state: dict[str, Any]) -> list[str]:
        """See `Feed.remarks`."""
        return self.store.counts.remarks()


class MixedFeed(Feed):
    """The features of several feeds by weight, without end: one that is through begins its next pass. They are numbered as they are
    drawn, so that nothing that is drawn for a feature (a mask) repeats with it; row_id: row * sources + source.

    weights: above 0, of any sum.
    """

    def __init__(self, feeds: Mapping[str, Feed], weights: Mapping[str, float], *, seed: int) -> None:
        self.feeds, self.seed = dict(feeds), seed
        given = np.array([weights[name] for name in self.feeds], np.float64)
        self.shares = given / given.sum()
        self._names = list(self.feeds)
        self._drawn = 0
        self._totals = {name: [0, 0] for name in self.feeds}
        self._block: tuple[int, list[int]] | None = None

    def next(self) -> Feature:
        """See `Feed.next`: never None."""
        block, at = divmod(self._drawn, _BLOCK)
        if self._block is None or self._block[0] != block:
            self._block = block, drawn(self.shares, self.seed, block * _BLOCK, _BLOCK).tolist()
        source = self._block[1][at]
        feed = self.feeds[self._names[source]]
        feature = feed.next() or feed.next()
        assert feature is not None, "a feed whose pass is over begins another"
        totals = self._totals[self._names[source]]
        totals[0], totals[1] = totals[0] + 1, totals[1] + feature.length
        numbered = replace(feature, id=self._drawn, row_id=feature.row_id * len(self._names) + source)
        self._drawn += 1
        return numbered

    def state(self) -> tuple[dict[str, Any], list[Feature]]:
        """See `Feed.state`."""
        sources, features = {}, []
        for name, feed in self.feeds.items():
            state, more = feed.state()
            taken, tokens = self._totals[name]
            sources[name] = {"state": state, "features": len(more), "drawn": taken, "tokens": tokens}
            features += more
        return {"drawn": self._drawn, "sources": sources}, features

    def restore(self, state: dict[str, Any], features: list[Feature]) -> None:
        """See `Feed.restore`."""
        self._drawn, waiting = state["drawn"], iter(features)
        for name, feed in self.feeds.items():
            own = state["sources"][name]
            feed.restore(own["state"], list(itertools.islice(waiting, own["features"])))
            self._totals[name] = [own["drawn"], own["tokens"]]

    def report(self, state: dict[str, Any]) -> dict[str, Any]:
        """See `Feed.report`: of each source, with its share and what was drawn."""
        found = {}
        for (name, feed), share in zip(self.feeds.items(), self.shares.tolist(), strict=True):
            own = state["sources"][name]
            taken = {"share": share, "features_drawn": own["drawn"], "tokens_drawn": own["tokens"]}
            found[name] = {**taken, **feed.report(own["state"])}
        return {"sources": found}

    def remarks(self, state: dict[str, Any]) -> list[str]:
        """See `Feed.remarks`."""
        named = [(name, feed.remarks(state["sources"][name]["state"])) for name, feed in self.feeds.items()]
        return [f"{name}: {line}" for name, lines in named for line in lines]


def mixed(
    data: Mapping[str, FeatureStore | Feed], weights: Mapping[str, float], *, seed: int, tokens: bool
) -> MixedFeed:
    """A mixture of stores and feeds. tokens: weights are shares of tokens: a source whose features are longer is drawn less often."""
    shares = dict(weights)
    if tokens:
        for name, store in data.items():
            assert not isinstance(store, Feed), "`assemble` refuses streams here"
            shares[name] /= float(store.lengths.mean())
    feeds = {n: d if isinstance(d, Feed) else StoreFeed(d, seed=seed, name=n) for n, d in data.items()}
    return MixedFeed(feeds, shares, seed=seed)
