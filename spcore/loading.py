"""Which features make up which step, packs and microbatches, for which rank.

Everything that decides is a pure function of lengths, seed, epoch and sizes, so it is the same on every rank and at every
world size: `order`, `packed`, `cut`. A global batch's groups are sorted by length before they are cut, which changes
nothing in the result (weights are summed before the forward pass) and removes most padding. Short batches are filled with
features of weight 0; nothing is dropped.
"""

from __future__ import annotations

import math
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar, overload

import numpy as np

from spcore.features import FeatureStore
from spcore.interfaces.strategy import BatchRule, Place
from spcore.interfaces.task import Batch, BoundTask, Feature

EVALUATION_EPOCH = 2**32 - 1
FILLER = -1
_OPEN, _BLOCK = 32, 1 << 16
Made = TypeVar("Made")
Group = tuple[int, ...]
"""Positions in the store that share a sequence: one, or a pack of several; (FILLER,) for filler."""


def generator(*address: int | str) -> np.random.Generator:
    """The random generator of an address: seed, epoch, what it is for. Philox would do as well; PCG64 is numpy's default."""
    return np.random.default_rng([zlib.crc32(a.encode()) if isinstance(a, str) else a for a in address])


def order(count: int, seed: int, epoch: int) -> np.ndarray:
    """The order of features in an epoch: int64 [count], a permutation."""
    return generator(seed, epoch, "order").permutation(count)


class Groups(Sequence[Group]):
    """An epoch's groups as two arrays, so that 10^8 features cost no tuple each. flat: int64, positions in the store, group after
    group. starts: int64 [groups + 1]; None: each is alone."""

    def __init__(self, flat: np.ndarray, starts: np.ndarray | None = None) -> None:
        self._flat, self._starts = flat, starts

    def __len__(self) -> int:
        """Groups."""
        return len(self._flat) if self._starts is None else len(self._starts) - 1

    @overload
    def __getitem__(self, at: int) -> Group: ...

    @overload
    def __getitem__(self, at: slice) -> list[Group]: ...

    def __getitem__(self, at: int | slice) -> Group | list[Group]:
        """A group, or several."""
        if isinstance(at, slice):
            return [self[n] for n in range(*at.indices(len(self)))]
        n = range(len(self))[at]
        first, end = (n, n + 1) if self._starts is None else (self._starts[n], self._starts[n + 1])
        return tuple(self._flat[first:end].tolist())


def packed(ids: Sequence[int], lengths: np.ndarray, limit: int) -> list[Group]:
    """Packs of at most `limit` tokens, first fit over the last 32 open ones, in order. A feature longer than `limit` is
    alone (features are cut to `limit` before)."""
    return list(packs(np.asarray(ids, np.int64), lengths, limit))


def packs(ids: np.ndarray, lengths: np.ndarray, limit: int) -> Groups:
    """`packed` of many features. ids: int64 [n]. About a second for 10^6 of them."""
    number = np.empty(len(ids), np.int64)
    room: list[int] = []
    gone, most = 0, -1  # packs that are no longer in `room`; no open pack has more room than `most`
    for at in range(0, len(ids), _BLOCK):
        numbers: list[int] = []
        for need in lengths[ids[at : at + _BLOCK]].tolist():
            fit = len(room)
            if need <= most:
                for n in range(max(0, len(room) - _OPEN), len(room)):
                    if room[n] >= need:
                        fit = n
                        break
                else:
                    most = max(room[-_OPEN:])
            if fit == len(room):
                room.append(limit)
                most = max(most, limit - need)
            room[fit] -= need
            numbers.append(gone + fit)
        number[at : at + _BLOCK] = numbers
        gone, room = gone + max(0, len(room) - _OPEN), room[-_OPEN:]
    starts = np.concatenate([[0], np.cumsum(np.bincount(number, minlength=gone + len(room)))])
    return Groups(ids[np.argsort(number, kind="stable")], starts)


@dataclass(frozen=True)
class Cut:
    """How a step is cut. micro_batch_size None: by `tokens`, padded. data_size: ranks that share the step."""

    micro_batch_size: int | None
    tokens: int
    data_size: int
    rule: BatchRule = field(default_factory=BatchRule)


def cut(groups: Sequence[Group], sizes: Sequence[int], how: Cut) -> list[list[list[Group]]]:
    """rank -> microbatches -> groups. Each rank gets equally many microbatches, a multiple of `rule.count_multiple`;
    those that are missing are filler. sizes: tokens of each group. No microbatch of several groups holds more than
    `how.tokens` tokens and padding."""
    ranked = sorted(range(len(groups)), key=lambda n: (-sizes[n], groups[n]))
    share = math.ceil(len(groups) / (how.data_size * how.rule.count_multiple))
    pieces: list[list[Group]] = []
    at = 0
    while at < len(ranked):
        longest = sizes[ranked[0 if how.rule.equal_length == "step" else at]]
        most = how.micro_batch_size or min(share, max(1, how.tokens // rounded(longest, how.rule)))
        pieces.append([groups[n] for n in ranked[at : at + most]])
        at += most
    while len(pieces) % (how.data_size * how.rule.count_multiple):
        pieces.append([])
    fill = how.micro_batch_size or (max(map(len, pieces)) if how.rule.equal_length == "step" else 1)
    pieces = [piece + [(FILLER,)] * (fill - len(piece)) for piece in pieces]
    return [pieces[rank :: how.data_size] for rank in range(how.data_size)]


def rounded(length: int, rule: BatchRule) -> int:
    """A length as the rule wants it: up to its multiple."""
    return -(-max(1, length) // rule.length_multiple) * rule.length_multiple


@dataclass(frozen=True)
class StepData:
    """One rank's part of a step. epoch: fraction of epochs done after it. The counts are of the whole step, all ranks:
    feature_ids and the ids of their rows, rows (features), tokens, positions (tokens and padding, as cut). place: where a stream
    stands after it (`spcore.streaming.Position`), None where the step's number says that."""

    microbatches: list[Batch]
    feature_ids: list[int]
    row_ids: list[int]
    epoch: float
    rows: int
    tokens: int
    positions: int
    place: Any = None


class Collator:
    """Turns groups into a rank's batches: filler, augmentation, padded length."""

    def __init__(self, store: FeatureStore, task: BoundTask, rule: BatchRule, seed: int) -> None:
        self.store, self.task, self.rule, self.seed = store, task, rule, seed
        self.augments = type(task).augment is not BoundTask.augment  # a generator for each feature is not free

    def spans(self, step: list[list[list[Group]]]) -> list[list[int]]:
        """rank -> microbatches -> padded length, by the rule."""
        spans = [[rounded(max(self.size(g) for g in piece), self.rule) for piece in rank] for rank in step]
        if self.rule.equal_length == "step":
            longest = max(max(rank) for rank in spans)
            spans = [[longest] * len(rank) for rank in spans]
        return spans

    def size(self, group: Group) -> int:
        """Tokens of a group; filler has one."""
        return sum(int(self.store.lengths[i]) if i >= 0 else 1 for i in group)

    def batch(self, piece: list[Group], length: int, epoch: int | None) -> Batch:
        """A microbatch; epoch None: not augmented (predictions)."""
        return self.task.collate([[self._feature(i, epoch) for i in group] for group in piece], length)

    def _feature(self, i: int, epoch: int | None) -> Feature:
        if i < 0:
            return filler(self.store[0])
        feature = self.store[i]
        if epoch is None or not self.augments:
            return feature
        return self.task.augment(feature, generator(self.seed, epoch, "augment", feature.id))


def filler(feature: Feature) -> Feature:
    """Filler made from a feature: one real token, so that a head that pools stays finite; weight 0 by the task. Arrays with
    one value a token are cut to the first, others are kept."""
    arrays = {
        name: a[..., :1] if a.ndim and a.shape[-1] == feature.length and feature.length > 1 else a
        for name, a in feature.arrays.items()
    }
    return replace(feature, id=-1, row_id=-1, arrays=arrays, length=1, filler=True, truncated=0)


class TrainLoader:
    """The steps of a training run over a store, from any step on."""

    def __init__(
        self,
        store: FeatureStore,
        task: BoundTask,
        *,
        place: Place,
        how: Cut,
        global_batch_size: int,
        seed: int,
        pack: int | None,
        workers: int = 0,
    ) -> None:
        self.store, self.place, self.how, self.pack, self.workers = store, place, how, pack, workers
        self.global_batch_size, self.seed = global_batch_size, seed
        self.collator = Collator(store, task, how.rule, seed)
        self._groups: Groups | None = None
        self._epoch, self._sizes = 0, dict[int, int]()
        """The epoch of `_groups`; packs of epochs."""

    def groups(self, epoch: int) -> Groups:
        """All groups of an epoch, in order; kept until another epoch's are asked for."""
        if self._epoch != epoch or self._groups is None:
            ids = order(len(self.store), self.seed, epoch)
            self._groups = packs(ids, self.store.lengths, self.pack) if self.pack else Groups(ids)
            self._epoch, self._sizes[epoch] = epoch, len(self._groups)
        return self._groups

    def report(self) -> dict[str, Any]:
        """For report.json."""
        return self.store.counts.to_json()

    def remarks(self) -> list[str]:
        """Lines for the user about what was dropped or cut."""
        return self.store.counts.remarks()

    def teaches(self) -> bool:
        """Whether any feature has weight in any loss term: not where every label was cut away."""
        singles = (self.collator.batch([(i,)], self.collator.size((i,)), 0) for i in range(len(self.store)))
        return any(any(batch.weights.values()) for batch in singles)

    def steps_in(self, epoch: int) -> int:
        """Steps of an epoch; the last may be short. With packs it may differ between epochs."""
        if self.pack and epoch not in self._sizes:
            self.groups(epoch)
        return math.ceil((self._sizes[epoch] if self.pack else len(self.store)) / self.global_batch_size)

    def total_steps(self, epochs: float) -> int:
        """Steps of that many epochs, at least one."""
        whole = sum(self.steps_in(epoch) for epoch in range(int(epochs)))
        rest = epochs - int(epochs)
        return max(1, whole + (math.ceil(rest * self.steps_in(int(epochs))) if rest else 0))

    def steps(self, start: int, stop: int) -> Iterator[StepData]:
        """Steps start <= step < stop."""
        return ahead(self._jobs(start, stop), self.workers)

    def _jobs(self, start: int, stop: int) -> Iterator[Callable[[], StepData]]:
        epoch, first = 0, 0
        while first < stop:
            count = self.steps_in(epoch)
            if first + count > start:
                groups = self.groups(epoch)
                for n in range(max(0, start - first), min(count, stop - first)):
                    yield partial(self._step, groups, n, count, epoch)
            epoch, first = epoch + 1, first + count

    def _step(self, groups: Groups, n: int, count: int, epoch: int) -> StepData:
        chosen = groups[n * self.global_batch_size : (n + 1) * self.global_batch_size]
        return step_data(self.collator, chosen, self.how, self.place.data_rank, epoch, epoch + (n + 1) / count)


def ahead(jobs: Iterable[Callable[[], Made]], workers: int) -> Iterator[Made]:
    """What jobs give, in their order, made in so many threads as many jobs ahead; 0: in the caller's, when asked for. Jobs draw from
    generators of their own, so what they give does not depend on it."""
    if not workers:
        yield from (job() for job in jobs)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="slimpajama-loading")
    try:
        begun: deque[Future[Made]] = deque()
        for job in jobs:
            begun.append(pool.submit(job))
            if len(begun) > workers:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def step_data(collator: Collator, groups: list[Group], how: Cut, rank: int, epoch: int, progress: float) -> StepData:
    """A rank's part of the step made of these groups of the collator's store. progress: epochs done after it."""
    sizes = [collator.size(group) for group in groups]
    step = cut(groups, sizes, how)
    spans = collator.spans(step)
    batches = [collator.batch(piece, span, epoch) for piece, span in zip(step[rank], spans[rank], strict=True)]
    positions = sum(len(p) * s for ps, ss in zip(step, spans, strict=True) for p, s in zip(ps, ss, strict=True))
    ids = [collator.store.id_of(i) for group in groups for i in group]
    rows = [int(collator.store.rows[i]) for group in groups for i in group]
    return StepData(batches, ids, rows, progress, sum(len(g) for g in groups), sum(sizes), positions)


def evaluation_batches(
    store: FeatureStore, task: BoundTask, *, place: Place, tokens: int, rule: BatchRule, seed: int, augment: bool
) -> Iterator[Batch]:
    """This rank's batches of an evaluation or prediction: features sorted by length, cut by padded tokens, dealt to ranks;
    every rank gets equally many (filler makes up for it). Rows come back by id, so the order here is free."""
    pieces: list[list[Group]] = []
    collator = Collator(store, task, rule, seed)
    for i in np.argsort(-store.lengths.astype(np.int64), kind="stable").tolist():
        first = pieces[0 if rule.equal_length == "step" else -1] if pieces else [(i,)]
        longest = rounded(int(store.lengths[first[0][0]]), rule)
        if pieces and (len(pieces[-1]) + 1) * longest <= tokens:
            pieces[-1].append((i,))
        else:
            pieces.append([(i,)])
    while len(pieces) % (place.data_size * rule.count_multiple):
        pieces.append([(FILLER,)])
    step = [pieces[rank :: place.data_size] for rank in range(place.data_size)]
    spans = collator.spans(step)
    epoch = EVALUATION_EPOCH if augment else None
    for piece, span in zip(step[place.data_rank], spans[place.data_rank], strict=True):
        yield collator.batch(piece, span, epoch)
