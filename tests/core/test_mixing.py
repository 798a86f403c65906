"""Mixtures: shares are exact, every source gives all it has pass after pass, and a run goes on where it was."""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from core_fakes import ListDataset, ListSource, WordTask, seen, source, store_of, stream_of
from hypothesis import given, settings
from hypothesis import strategies as st

from spcore.errors import DataError
from spcore.features import FeatureStore
from spcore.interfaces.dataset import Column, Schema
from spcore.interfaces.task import Role
from spcore.mixing import MixedFeed, Mixture, drawn, merged, mixed
from spcore.rows import open_rows
from spcore.streaming import Feed, Position, StreamFeed, StreamLoader

WEIGHTS = st.lists(st.floats(0.01, 100), min_size=1, max_size=8)


def shares_of(weights: list[float]) -> np.ndarray:
    return np.array(weights) / np.sum(weights)


def behind(shares: np.ndarray, draws: np.ndarray) -> float:
    """The most that any source was ever behind or ahead of its share, in draws."""
    numbers = np.arange(1, len(draws) + 1)
    return max(float(np.abs(np.cumsum(draws == n) - share * numbers).max()) for n, share in enumerate(shares))


@settings(max_examples=50, deadline=None)
@given(weights=WEIGHTS, seed=st.integers(0, 2**32 - 1), first=st.integers(0, 2**40), count=st.integers(1, 3000))
def test_draws_are_a_function_of_seed_and_number(weights: list[float], seed: int, first: int, count: int) -> None:
    shares = shares_of(weights)
    whole = drawn(shares, seed, first, count)
    middle = count // 2
    parts = [drawn(shares, seed, first, middle), drawn(shares, seed, first + middle, count - middle)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert whole.min() >= 0
    assert whole.max() < len(weights)


@settings(max_examples=40, deadline=None)
@given(weights=WEIGHTS, seed=st.integers(0, 2**32 - 1), first=st.integers(0, 2**40))
def test_no_source_is_ever_far_from_its_share(weights: list[float], seed: int, first: int) -> None:
    """The golden rotation's discrepancy grows as the logarithm: an interval is off by less than 2 + log2(n) / 3 points, in practice by
    4 in a million. Independent draws would be off by some sqrt(n) / 2 = 100 here."""
    draws = drawn(shares_of(weights), seed, first, 40_000)
    assert behind(shares_of(weights), draws) < 2 + math.log2(40_000) / 3


def test_each_draw_has_its_share_over_seeds() -> None:
    """At a fixed number the source is random over seeds: within four standard deviations of a binomial."""
    shares, seeds = shares_of([6, 3, 1]), 4000
    for number in (0, 1, 17, 10**9):
        counts = Counter(int(drawn(shares, seed, number, 1)[0]) for seed in range(seeds))
        for n, share in enumerate(shares):
            assert abs(counts[n] - seeds * share) < 4 * math.sqrt(seeds * share * (1 - share)), (number, n)


def store(name: str, count: int) -> FeatureStore:
    return store_of([1 + (n + len(name)) % 4 for n in range(count)])


def stream(count: int, buffer: int = 0, seed: int = 0) -> StreamFeed:
    rows = [{"text": "" if n % 7 == 3 else "word " * (1 + n % 5)} for n in range(count)]
    opened = ListSource(rows, Schema({"text": Column("text")}), streamed=True)
    view = open_rows(ListDataset(train=opened), (Role("text"),), columns={}, split=None, limit=None)
    return StreamFeed(view, WordTask(), seed=seed, limit=None, buffer=buffer)


@settings(max_examples=25, deadline=None)
@given(
    counts=st.tuples(st.integers(1, 30), st.integers(1, 30), st.sampled_from([2, 20, 40])), seed=st.integers(0, 3),
    weights=st.tuples(*[st.floats(0.05, 20)] * 3), pack=st.sampled_from([None, 8]), buffer=st.sampled_from([0, 5]),
    size=st.sampled_from([1, 2]), workers=st.sampled_from([0, 2]), cut=st.integers(1, 29),
)  # fmt: skip
def test_a_mixture_goes_on_where_it_was(
    counts: tuple[int, int, int], seed: int, weights: tuple[float, float, float], pack: int | None, buffer: int, size: int, workers: int,
    cut: int,
) -> None:  # fmt: skip
    """Two stores and a stream."""

    def new(**more: Any) -> StreamLoader:
        data: dict[str, FeatureStore | Feed] = {"a": store("a", counts[0]), "b": store("b", counts[1])}
        data["c"] = stream(counts[2], buffer, seed)
        feed = mixed(data, dict(zip("abc", weights, strict=True)), seed=seed, tokens=False)
        return stream_of(feed, pack=pack, seed=seed, **more)

    whole = new(rank=size - 1, size=size, workers=workers)
    steps = []
    for data in whole.steps(0, 30):
        whole.position = data.place
        steps.append(data)
    again = new(rank=size - 1, size=size)
    with tempfile.TemporaryDirectory() as folder:
        steps[cut - 1].place.save(Path(folder))
        again.position = Position.load(Path(folder)) or again.position
    assert again.position.step == cut
    for data, wanted in zip(again.steps(cut, 30), steps[cut:], strict=True):
        assert seen(data) == seen(wanted)
        again.position = data.place
    assert again.report() == whole.report()
    assert [step.row_ids for step in new().steps(0, 30)] == [step.row_ids for step in steps], "at every world size"


@settings(max_examples=30, deadline=None)
@given(counts=st.lists(st.integers(1, 40), min_size=2, max_size=4), seed=st.integers(0, 9), draws=st.integers(1, 400))
def test_each_source_gives_all_it_has_pass_after_pass(counts: list[int], seed: int, draws: int) -> None:
    names = [f"s{n}" for n in range(len(counts))]
    feed = mixed(
        {name: store(name, count) for name, count in zip(names, counts, strict=True)},
        {name: n + 1.0 for n, name in enumerate(names)}, seed=seed, tokens=False,
    )  # fmt: skip
    features = [feed.next() for _ in range(draws)]
    assert [f.id for f in features] == list(range(draws)), (
        "numbers of their own: what is drawn for one is drawn anew in each pass"
    )
    rows = [[f.row_id // len(names) for f in features if f.row_id % len(names) == n] for n in range(len(names))]
    report = feed.report(feed.state()[0])["sources"]
    for name, count, own in zip(names, counts, rows, strict=True):
        for at in range(0, len(own) - count + 1, count):
            assert sorted(own[at : at + count]) == list(range(count)), "a pass has each once"
        assert report[name]["features_drawn"] == len(own)
        assert report[name]["passes"] == len(own) / count


def test_passes_and_sources_have_orders_of_their_own() -> None:
    feed = mixed({"a": store("a", 50), "b": store("b", 50)}, {"a": 1, "b": 1}, seed=0, tokens=False)
    rows = [feed.next().row_id for _ in range(210)]
    first, second = ([row // 2 for row in rows if row % 2 == n] for n in (0, 1))
    assert first[:50] != second[:50]
    assert first[:50] != first[50:100]


def test_weights_of_tokens() -> None:
    """Ten times as long, a tenth as often: tokens are half and half to a hundredth."""
    data = {"short": store_of([2, 4] * 50), "long": store_of([20, 40] * 50)}
    feed = mixed(data, {"short": 3, "long": 3}, seed=1, tokens=True)
    for _ in range(11_000):
        feed.next()
    taken = feed.report(feed.state()[0])["sources"]
    total = taken["short"]["tokens_drawn"] + taken["long"]["tokens_drawn"]
    assert taken["long"]["tokens_drawn"] / total == pytest.approx(0.5, abs=0.01)
    assert taken["short"]["features_drawn"] == pytest.approx(10_000, abs=4)


def test_a_stream_that_is_through_begins_again() -> None:
    feed = MixedFeed({"a": stream(6), "b": stream(40)}, {"a": 1, "b": 1}, seed=0)
    for _ in range(50):
        feed.next()
    report = feed.report(feed.state()[0])["sources"]
    assert (report["a"]["passes"], report["b"]["passes"]) == (4, 0)
    assert report["a"]["dropped"]["empty text"]["rows"] == 5, "one in each pass, the fifth not over yet"
    assert feed.remarks(feed.state()[0])[0].startswith("a: ")


def test_a_mixture_reads_as_one() -> None:
    views = {
        name: open_rows(
            ListDataset(train=source(count, fingerprint=name)), (Role("text", guesses=("sentence",)),), columns={}, split=None,
            limit=None,
        )
        for name, count in (("a", 4), ("b", 6))
    }  # fmt: skip
    both = Mixture(views, {"a": 1, "b": 1})
    assert both.length is None
    assert both.columns == {"a.text": "sentence", "b.text": "sentence"}
    assert both.place(2 * 3 + 1) == "row 3"
    other = Mixture({**views, "a": views["b"]}, {"a": 1, "b": 1})
    assert both.fingerprint != other.fingerprint


LABELLED = Schema({"label": Column("text", None, {"x": 2, "y": 1})}, "text-classification", {"metric": "f1"})


def test_counts_of_labels_add_up() -> None:
    other = Schema({"label": Column("text", None, {"y": 4, "z": 1})}, "text-classification", {})
    both = merged({"a": LABELLED, "b": other})
    assert both.columns["label"].counts == {"x": 2, "y": 5, "z": 1}
    assert (both.default_task, dict(both.task_options)) == ("text-classification", {})
    unknown = Schema({"label": Column("text")})
    assert merged({"a": LABELLED, "b": unknown}).columns["label"].counts is None
    assert merged({"a": LABELLED, "b": unknown}).default_task is None


@pytest.mark.parametrize(
    ("column", "said"),
    [
        (Column("integer"), "data.sources.b: the column for 'label' holds integer, in data.sources.a text: they must be of one kind"),
        (Column("text", ("p", "q")), "data.sources.b: the labels for 'label' are p, q, in data.sources.a not declared: they must be the same"),
        (None, "data.sources.b: no column for 'label', which data.sources.a has"),
    ],
)  # fmt: skip
def test_sources_that_differ_are_one_line(column: Column | None, said: str) -> None:
    with pytest.raises(DataError) as caught:
        merged({"a": LABELLED, "b": Schema({} if column is None else {"label": column})})
    assert str(caught.value) == said


def test_labels_that_the_first_source_lacks_are_told() -> None:
    roles = (Role("text", guesses=("sentence",)), Role("label", "label", target=True))
    counts = [{"neg": 1, "pos": 2}, {"bad": 2, "neg": 1}]
    views = {}
    for name, found in zip("ab", counts, strict=True):
        columns = {"sentence": Column("text"), "label": Column("text", None, found)}
        rows = [{"sentence": "x", "label": label} for label, n in found.items() for _ in range(n)]
        opened = ListDataset(train=ListSource(rows, Schema(columns)))
        views[name] = open_rows(opened, roles, columns={}, split=None, limit=None)
    wanted = ("b: labels of 'label' that a has not: bad; they are classes of their own",)
    assert Mixture(views, {"a": 1, "b": 1}, ["label"]).report.remarks == wanted
    assert Mixture(views, {}, ["label"]).report.remarks == (), "an evaluation binds nothing"
