"""Training on a source without a length. Its rows are dealt from a fixed number of logical shards, in turn, whatever the world
size; every rank reads all of them and takes its part of each step, so that a step is the same on every rank and at every layout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from spcore.errors import DataError
from spcore.features import Counts, FeatureStore, numbered
from spcore.interfaces.dataset import Row, Source
from spcore.interfaces.strategy import Place
from spcore.interfaces.task import BoundTask, Feature
from spcore.loading import Collator, Cut, StepData, ahead, packed, step_data

SHARDS = 16
"""Logical shards of a stream."""


class StreamLoader:
    """The steps of a run over a stream. counts grow as it is read. limit: longest feature allowed."""

    def __init__(
        self,
        source: Source,
        task: BoundTask,
        *,
        place: Place,
        how: Cut,
        global_batch_size: int,
        seed: int,
        pack: int | None,
        limit: int | None,
        workers: int = 0,
    ) -> None:
        self.source, self.task, self.place, self.how = source, task, place, how
        self.global_batch_size, self.seed, self.pack = global_batch_size, seed, pack
        self.limit, self.workers = limit, workers
        self.counts = Counts()

    def steps(self, start: int, stop: int) -> Iterator[StepData]:
        """Steps start <= step < stop. A later start reads what comes before it and lets it go: the position is then exact. At its
        end the stream begins anew. Raises DataError where it gives no usable row."""
        self.counts = Counts()
        return ahead(self._jobs(start, stop), self.workers)

    def _jobs(self, start: int, stop: int) -> Iterator[Callable[[], StepData]]:
        step, epoch = 0, 0
        while step < stop:
            found = False
            for features, groups in self._chosen():
                found = True
                if step >= start:
                    yield partial(self._step, features, groups, epoch)
                step += 1
                if step == stop:
                    return
            if not found:
                raise DataError(f"no usable row in the stream: {'; '.join(self.counts.remarks()) or 'it has no rows'}")
            epoch += 1

    def _step(self, features: list[Feature], groups: list[tuple[int, ...]], epoch: int) -> StepData:
        collator = Collator(FeatureStore.of(features), self.task, self.how.rule, self.seed)
        return step_data(collator, groups, self.how, self.place.data_rank, epoch, float(epoch))

    def _chosen(self) -> Iterator[tuple[list[Feature], list[tuple[int, ...]]]]:
        """One pass: features and groups of each global batch; the last may be short."""
        held: list[Feature] = []
        for feature in self._features():
            held.append(feature)
            if self.pack is None:
                if len(held) == self.global_batch_size:
                    yield held, [(n,) for n in range(len(held))]
                    held = []
                continue
            groups = (
                packed(range(len(held)), FeatureStore.of(held).lengths, self.pack) if self._may_be_full(held) else []
            )
            if len(groups) > self.global_batch_size:  # the newest pack is open still: it goes on
                full = groups[: self.global_batch_size]
                taken = {n for group in full for n in group}
                order = {n: at for at, n in enumerate(sorted(taken))}
                yield [held[n] for n in sorted(taken)], [tuple(order[n] for n in group) for group in full]
                held = [f for n, f in enumerate(held) if n not in taken]
        if held:
            groups = [(n,) for n in range(len(held))]
            if self.pack is not None:
                groups = packed(range(len(held)), FeatureStore.of(held).lengths, self.pack)
            for at in range(0, len(groups), self.global_batch_size):
                part = groups[at : at + self.global_batch_size]
                flat = [n for group in part for n in group]
                order = {n: k for k, n in enumerate(flat)}
                yield [held[n] for n in flat], [tuple(order[n] for n in group) for group in part]

    def _may_be_full(self, held: list[Feature]) -> bool:
        """Whether enough tokens are held for a global batch of packs: packing is tried only then."""
        assert self.pack is not None
        return sum(f.length for f in held) > self.global_batch_size * self.pack * 0.5

    def _features(self) -> Iterator[Feature]:
        for number, row in enumerate(self._rows()):
            yield from numbered(row, number, self.task, self.counts, self.limit)

    def _rows(self) -> Iterator[Row]:
        """One pass over all shards, a row of each in turn."""
        shards = [self.source.stream(n, SHARDS, 0) for n in range(SHARDS)]
        while shards:
            left = []
            for shard in shards:
                row = next(shard, None)
                if row is not None:
                    left.append(shard)
                    yield row
            shards = left
