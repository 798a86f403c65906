"""Where a stream stands: a run that goes on gives the batches it would have given, and reads nothing of what came before."""

from __future__ import annotations

import itertools
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from core_fakes import ListDataset, ListSource, WordTask, seen, stream_of
from hypothesis import given, settings
from hypothesis import strategies as st

from spcore.errors import CheckpointError, DataError, SourceError
from spcore.interfaces.dataset import Column, Row, Schema
from spcore.interfaces.task import Feature, Role
from spcore.loading import packed
from spcore.rows import open_rows
from spcore.streaming import SHARDS, Position, StreamFeed, StreamLoader

ROLES = (Role("text"),)


class Watched(ListSource):
    """A stream that counts the rows taken from it, and breaks off at a row where it is told to."""

    def __init__(self, rows: list[Row], breaks: int | None = None) -> None:
        super().__init__(rows, Schema({"text": Column("text")}), streamed=True)
        self.taken, self.breaks = 0, breaks

    def stream(self, shard: int, shards: int, skip: int) -> Iterator[Row]:
        for number in range(shard + skip * shards, len(self.rows), shards):
            if number == self.breaks:
                raise OSError("the line went dead")
            self.taken += 1
            yield self.rows[number]


def texts(count: int) -> list[Row]:
    """Rows of one to three features of one to five words; every ninth has no word, and is dropped."""
    parts = [" / ".join(["word " * (1 + (n + k) % 5) for k in range(1 + n % 3)]) for n in range(count)]
    return [{"text": "" if n % 9 == 4 else part} for n, part in enumerate(parts)]


def fed(source: Watched, *, seed: int = 0, buffer: int = 0) -> StreamFeed:
    rows = open_rows(ListDataset(train=source), ROLES, columns={}, split=None, limit=None)
    return StreamFeed(rows, WordTask(), seed=seed, limit=None, buffer=buffer)


def loader(source: Watched, *, seed: int = 0, buffer: int = 0, **more: Any) -> StreamLoader:
    return stream_of(fed(source, seed=seed, buffer=buffer), seed=seed, **more)


@settings(max_examples=40, deadline=None)
@given(
    count=st.sampled_from([1, 6, 33, 60, 200]), seed=st.integers(0, 3), pack=st.sampled_from([None, 8, 16]),
    buffer=st.sampled_from([0, 1, 7, 500]), size=st.sampled_from([1, 2]), workers=st.sampled_from([0, 2]),
)  # fmt: skip
def test_every_step_can_be_gone_on_from(
    count: int, seed: int, pack: int | None, buffer: int, size: int, workers: int
) -> None:
    more: dict[str, Any] = {"seed": seed, "pack": pack, "buffer": buffer, "size": size, "workers": workers}
    stop, rank = 14, size - 1
    source = Watched(texts(count))
    whole = loader(source, rank=rank, **more)
    steps, counts = [], []
    for data in whole.steps(0, stop):
        whole.position = data.place
        steps.append(data)
        counts.append(whole.report())
    assert len(steps) == stop
    for cut, reached in enumerate(steps[:-1], 1):
        again = loader(Watched(source.rows), rank=rank, **more)
        with tempfile.TemporaryDirectory() as folder:
            reached.place.save(Path(folder))
            found = Position.load(Path(folder))
        assert found is not None
        again.position = found
        assert again.report() == counts[cut - 1], "counts go on from those of the steps that were trained"
        for data, wanted in zip(again.steps(cut, stop), steps[cut:], strict=True):
            assert seen(data) == seen(wanted)
            again.position = data.place
        assert again.report() == counts[-1]


@pytest.mark.parametrize("buffer", [0, 50])
def test_going_on_reads_nothing_of_what_came_before(buffer: int) -> None:
    source = Watched(texts(900))
    whole = loader(source, buffer=buffer)
    for data in whole.steps(0, 100):
        whole.position = data.place
    before, source.taken = source.taken, 0
    list(whole.steps(100, 101))
    assert before > 200
    assert source.taken <= 4, "as many rows as the step needs"


def test_without_a_position_the_stream_is_read_again() -> None:
    """What a checkpoint of an earlier version lacks."""
    steps = [seen(data) for data in loader(Watched(texts(40))).steps(0, 9)]
    assert [seen(data) for data in loader(Watched(texts(40))).steps(5, 9)] == steps[5:]


def test_what_is_read_ahead_is_no_part_of_the_position() -> None:
    ahead, behind = (loader(Watched(texts(60)), workers=workers) for workers in (3, 0))
    for one, other in itertools.islice(zip(ahead.steps(0, 20), behind.steps(0, 20), strict=True), 5):
        ahead.position, behind.position = one.place, other.place
    assert ahead.report() == behind.report()
    assert ahead.position.state == behind.position.state


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 80).filter(lambda n: n != 5), buffer=st.integers(0, 100), seed=st.integers(0, 9))
def test_a_buffer_gives_each_feature_once_a_pass(count: int, buffer: int, seed: int) -> None:
    plain, mixed = (fed(Watched(texts(count)), seed=seed, buffer=size) for size in (0, buffer))
    for _ in range(2):
        wanted, found = ([f.id for f in iter(feed.next, None)] for feed in (plain, mixed))
        assert sorted(found) == wanted
        if buffer > 1:
            # A feature is given at the earliest when the buffer behind it is full.
            assert all(place >= number - buffer for place, number in enumerate(i - wanted[0] for i in found))


def test_a_buffer_draws_evenly() -> None:
    """A whole pass in the buffer is a permutation: over many seeds each feature is first equally often (chi-square, p < 1e-4)."""
    first: Counter[int] = Counter()
    for seed in range(600):
        feature = fed(Watched([{"text": "w"}] * 6), seed=seed, buffer=6).next()
        assert feature is not None
        first[feature.id] += 1
    assert sum((first[n] - 100) ** 2 / 100 for n in range(6)) < 25.7, first  # five degrees of freedom
    orders = set()
    for epoch_seed in range(2):
        feed = loader(Watched(texts(30)), seed=epoch_seed, buffer=20).feed
        orders |= {tuple(f.row_id for f in iter(feed.next, None)) for _ in range(2)}
    assert len(orders) == 4, "each pass and each seed draws anew"


def test_a_source_that_breaks_off_says_where() -> None:
    broken = loader(Watched(texts(40), breaks=23))
    with pytest.raises(DataError) as caught:
        list(broken.steps(0, 100))
    said = f"row 23 of the stream (pass 1, shard 7, its row {23 // SHARDS}) cannot be read: OSError: the line went dead"
    assert str(caught.value).startswith(said)
    assert "last checkpoint" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_plugin_s_own_error_keeps_its_words() -> None:
    source = Watched(texts(3))

    def refused(*_: int) -> Iterator[Row]:
        raise SourceError("the server is away")

    source.stream = refused  # type: ignore[method-assign]
    with pytest.raises(DataError, match=r"row 0 of the stream .* cannot be read: the server is away\. Mend it"):
        list(loader(source).steps(0, 1))


def test_a_damaged_position_is_one_line(tmp_path: Path) -> None:
    run = loader(Watched(texts(20)))
    next(run.steps(0, 3)).place.save(tmp_path)
    (tmp_path / "position.json").write_text('{"step": 1}')
    with pytest.raises(CheckpointError, match=r"position\.json: cannot be read"):
        Position.load(tmp_path)


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=150), size=st.integers(1, 9), limit=st.integers(12, 24)
)
def test_packs_are_those_of_a_store(lengths: list[int], size: int, limit: int) -> None:
    source = Watched([{"text": "word " * n} for n in lengths])
    run = loader(source, pack=limit, batch=size)
    order = list(iter(loader(source).feed.next, None))
    wanted = packed(range(len(order)), np.array([f.length for f in order]), limit)
    found: list[tuple[int, ...]] = []
    for step in itertools.takewhile(lambda step: step.epoch == 0, run.steps(0, 10_000)):
        found += sorted(tuple(i for i in g if i >= 0) for b in step.microbatches for g in b.feature_ids.tolist())
    assert sorted(filter(None, found)) == wanted


def test_features_keep_their_kinds_and_shapes(tmp_path: Path) -> None:
    arrays = {
        "pair": np.arange(6, dtype=np.int32).reshape(2, 3), "score": np.array(0.25, np.float32), "mask": np.array([True, False]),
        "none": np.empty((0, 2), np.float64),
    }  # fmt: skip
    features = [Feature(7, 3, arrays, 3), Feature(8, 4, {"pair": arrays["pair"] + 1}, 3)]
    Position(1, {}, 2, False, features).save(tmp_path)
    found = Position.load(tmp_path)
    assert found is not None
    for ours, theirs in zip(found.features, features, strict=True):
        assert (ours.id, ours.row_id, ours.length, set(ours.arrays)) == (
            theirs.id,
            theirs.row_id,
            theirs.length,
            set(theirs.arrays),
        )
        for name, array in theirs.arrays.items():
            np.testing.assert_array_equal(ours.arrays[name], array, strict=True)


def test_a_position_is_small(tmp_path: Path) -> None:
    """No more than the features that wait, whatever was read."""
    run = loader(Watched(texts(3000)))
    *_, last = run.steps(0, 400)
    last.place.save(tmp_path)
    assert sum(p.stat().st_size for p in tmp_path.rglob("*") if p.is_file()) < 10_000
    assert len(last.place.features) < 8
    assert np.sum(last.place.state["rows"]) > 700
