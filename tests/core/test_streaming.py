"""Streams: every row once a pass, the same steps at any layout, exact resume, packs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from core_fakes import ListDataset

from spcore.errors import DataError
from spcore.interfaces.dataset import Column, Row, Schema, Source
from spcore.interfaces.strategy import Place
from spcore.interfaces.task import Limits
from spcore.loading import Cut
from spcore.rows import open_rows
from spcore.streaming import StreamFeed, StreamLoader
from spcore.testing.fakes import FakeNextWord, FakeProcessor


class Stream(Source):
    """Rows of different lengths, without a length."""

    def __init__(self, count: int) -> None:
        self.schema, self.fingerprint, self.length = Schema({"text": Column("text")}), "stream", None
        self._rows: list[Row] = [
            {"text": " ".join(["word"] * (n % 7 + 1)), "label": "a" if n % 2 else "b"} for n in range(count)
        ]

    def read(self, ids: object) -> list[Row]:
        raise NotImplementedError

    def stream(self, shard: int, shards: int, skip: int) -> Iterator[Row]:
        yield from self._rows[shard::shards][skip:]


def loader(count: int, *, rank: int = 0, size: int = 1, pack: int | None = None, batch: int = 8) -> StreamLoader:
    task = FakeNextWord().bind(
        FakeProcessor(),
        None,
        Schema({"text": Column("text"), "label": Column("text", ("a", "b"), {"a": 1, "b": 1})}),
        Limits(None, pack),
    )
    place = Place(rank=rank, world_size=size, data_rank=rank, data_size=size)
    rows = open_rows(
        ListDataset(train=Stream(count)),
        FakeNextWord().roles,
        columns={},
        split=None,
        limit=None,
        targets=False,
    )
    feed = StreamFeed(rows, task, seed=0, limit=None)
    return StreamLoader(feed, task, place=place, how=Cut(None, 64, size), global_batch_size=batch, seed=0, pack=pack)


@pytest.mark.parametrize("pack", [None, 24])
def test_every_row_once_a_pass(pack: int | None) -> None:
    found = loader(75, pack=pack)
    seen: list[int] = []
    for step in found.steps(0, 200):
        if step.epoch > 0:
            break
        seen += step.feature_ids
    assert sorted(seen) == list(range(75))


@pytest.mark.parametrize("pack", [None, 24])
def test_ranks_share_the_same_steps(pack: int | None) -> None:
    alone = [step.feature_ids for step in loader(50, pack=pack).steps(0, 5)]
    for size in (2, 4):
        ranks = [list(loader(50, rank=r, size=size, pack=pack).steps(0, 5)) for r in range(size)]
        assert all([step.feature_ids for step in rank] == alone for rank in ranks)
        for number, ids in enumerate(alone):
            held = np.concatenate([b.feature_ids.ravel() for rank in ranks for b in rank[number].microbatches])
            assert sorted(held[held >= 0].tolist()) == sorted(ids)


def test_a_later_start_gives_the_same_steps() -> None:
    whole = [step.feature_ids for step in loader(50).steps(0, 12)]
    assert [step.feature_ids for step in loader(50).steps(5, 12)] == whole[5:]


def test_an_empty_stream_is_an_error_and_no_endless_loop() -> None:
    with pytest.raises(DataError, match="no usable row in the stream"):
        list(loader(0).steps(0, 1))
