"""Which features make up which step: a pure function of seed, epoch and sizes, the same at every world size."""

from __future__ import annotations

import itertools
import math
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from core_fakes import WordTask, ids_in, store_of
from hypothesis import given
from hypothesis import strategies as st

import spcore.loading as loading
from spcore.features import FeatureStore
from spcore.interfaces.strategy import BatchRule, Place
from spcore.interfaces.task import Batch, Feature
from spcore.loading import Cut, StepData, TrainLoader, cut, evaluation_batches, filler, generator, order, packed, packs

RULES = [BatchRule(), BatchRule("step"), BatchRule("none", 8, 1), BatchRule("none", 1, 3), BatchRule("step", 16, 2)]


@dataclass(frozen=True)
class Case:
    """One randomly drawn setting of everything that a loader is told."""

    lengths: tuple[int, ...]
    global_batch_size: int
    micro_batch_size: int | None
    tokens: int
    rule: BatchRule
    pack: int | None
    seed: int

    def store(self) -> FeatureStore:
        return store_of(self.lengths)

    def loader(self, rank: int = 0, size: int = 1, **changes: Any) -> TrainLoader:
        place = Place(rank, size, rank, rank, size, rank == 0)
        how = Cut(self.micro_batch_size, self.tokens, size, self.rule)
        settings = {"global_batch_size": self.global_batch_size, "seed": self.seed, "pack": self.pack, **changes}
        return TrainLoader(self.store(), WordTask(), place=place, how=how, **settings)


def drawn(seed: int) -> Case:
    rng = np.random.default_rng(seed)
    pack = int(rng.integers(40, 80)) if rng.random() < 0.4 else None
    size = int(rng.integers(1, 40))
    return Case(
        lengths=tuple(int(n) for n in rng.integers(1, 40, int(rng.integers(3, 90)))), global_batch_size=size,
        micro_batch_size=int(rng.integers(1, size + 1)) if rng.random() < 0.5 else None, tokens=int(rng.integers(40, 400)),
        rule=RULES[int(rng.integers(len(RULES)))], pack=pack, seed=int(rng.integers(2**32)),
    )  # fmt: skip


CASES = [drawn(seed) for seed in range(60)]


def together(case: Case, size: int, start: int, stop: int) -> Iterator[list[StepData]]:
    """Each step as all ranks see it."""
    yield from zip(*(case.loader(rank, size).steps(start, stop) for rank in range(size)), strict=True)


def contents(ranks: list[StepData]) -> dict[int, tuple[list[int], int]]:
    """Feature id -> its tokens and its augmentation's draw, over all ranks; no feature is there twice."""
    found: dict[int, tuple[list[int], int]] = {}
    for batch in (batch for data in ranks for batch in data.microbatches):
        for s, k in zip(*np.nonzero(batch.feature_ids >= 0), strict=True):
            fid = int(batch.feature_ids[s, k])
            assert fid not in found
            here = batch.inputs["segment_ids"][s] == k + 1
            (noise,) = set(batch.inputs["noise"][s][here].tolist())
            found[fid] = batch.inputs["input_ids"][s][here].tolist(), noise
    return found


@pytest.mark.parametrize("case", CASES)
def test_steps_are_the_same_at_every_world_size(case: Case) -> None:
    total = case.loader().total_steps(2)
    alone = [
        (data.feature_ids, contents([data]), data.epoch, data.rows, data.tokens)
        for data in case.loader().steps(0, total)
    ]
    for size in (2, 4):
        for (ids, held, epoch, rows, tokens), ranks in zip(alone, together(case, size, 0, total), strict=True):
            assert all(data.feature_ids == ids for data in ranks), "the same on every rank, in the same order"
            assert contents(ranks) == held, "the same features, augmented alike"
            assert {(d.epoch, d.rows, d.tokens) for d in ranks} == {(epoch, rows, tokens)}
            assert sorted(held) == sorted(ids)


@pytest.mark.parametrize("case", CASES)
def test_every_feature_comes_once_an_epoch_and_epochs_differ(case: Case) -> None:
    loader = case.loader()
    first, second = loader.steps_in(0), loader.steps_in(1)
    steps = list(loader.steps(0, first + second))
    seen = [[i for data in part for i in data.feature_ids] for part in (steps[:first], steps[first:])]
    everything = list(range(len(case.lengths)))
    assert sorted(seen[0]) == sorted(seen[1]) == everything
    assert seen[0] != seen[1] or len(everything) < 6
    assert [data.epoch for data in steps[first - 1 :: second]][:1] == [1.0]
    assert steps[-1].epoch == 2.0
    assert all(data.rows == len(data.feature_ids) for data in steps)
    assert sum(data.tokens for data in steps) == 2 * sum(case.lengths)


@pytest.mark.parametrize("case", CASES[:30])
def test_any_step_can_be_gone_on_from(case: Case) -> None:
    total = case.loader().total_steps(2.5)
    whole = list(case.loader().steps(0, total))
    assert len(whole) == total
    for start in {0, 1, total // 2, total - 1, total}:
        rest = list(case.loader().steps(start, total))
        assert [d.feature_ids for d in rest] == [d.feature_ids for d in whole[start:]]
        assert [contents([d]) for d in rest] == [contents([d]) for d in whole[start:]]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("size", [1, 3])
def test_microbatches_follow_the_rule(case: Case, size: int) -> None:
    for ranks in together(case, size, 0, case.loader().steps_in(0)):
        batches = [batch for data in ranks for batch in data.microbatches]
        counts = {len(data.microbatches) for data in ranks}
        assert len(counts) == 1, "collective calls need equally many"
        assert counts.pop() % case.rule.count_multiple == 0
        widths = [batch.inputs["input_ids"].shape[1] for batch in batches]
        assert all(width % case.rule.length_multiple == 0 for width in widths)
        assert case.rule.equal_length == "none" or len(set(widths)) == 1
        for batch in batches:
            sequences, width = batch.inputs["input_ids"].shape
            if case.micro_batch_size is not None:
                assert sequences == case.micro_batch_size
            else:
                assert sequences == 1 or sequences * width <= case.tokens
            if case.pack is not None:
                assert (batch.inputs["segment_ids"] > 0).sum(1).max() <= case.pack
        assert sum(b.inputs["input_ids"].size for b in batches) == ranks[0].positions
        real = sum(len(ids_in(batch)) for batch in batches)
        assert sum(batch.weights["loss"] for batch in batches) == real == ranks[0].rows, "filler weighs nothing"


def test_lengths_are_no_longer_than_the_rule_asks() -> None:
    case = Case((3, 5, 17, 30), 4, 1, 100, BatchRule(), None, 0)
    (data,) = case.loader().steps(0, 1)
    assert sorted(batch.inputs["input_ids"].shape[1] for batch in data.microbatches) == [3, 5, 17, 30]
    case = Case((3, 5, 17, 30), 4, 1, 100, BatchRule("none", 8), None, 0)
    (data,) = case.loader().steps(0, 1)
    assert sorted(batch.inputs["input_ids"].shape[1] for batch in data.microbatches) == [8, 8, 24, 32]
    case = Case((3, 5, 17, 30), 4, 1, 100, BatchRule("step", 8), None, 0)
    assert [[b.inputs["input_ids"].shape[1] for b in d.microbatches] for d in case.loader().steps(0, 1)] == [[32] * 4]


def test_like_lengths_go_together() -> None:
    """Half short, half long texts in two microbatches: sorted, almost no padding remains."""
    case = Case((10,) * 16 + (100,) * 16, 32, 16, 0, BatchRule(), None, 0)
    (data,) = case.loader().steps(0, 1)
    assert data.positions == data.tokens == 16 * 10 + 16 * 100


def test_order_and_draws_depend_on_seed_and_epoch_alone() -> None:
    assert order(50, 1, 0).tolist() == order(50, 1, 0).tolist()
    assert len({tuple(order(50, seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9
    assert sorted(order(50, 1, 0)) == list(range(50))
    draws = [generator(*address).integers(2**62) for address in itertools.product((0, 1), (0, 1), ("a", "b"), (0, 7))]
    assert len(set(draws)) == 16
    np.random.seed(7)
    expected = np.random.RandomState(7).randint(2**31)
    list(Case((3, 5, 2), 2, None, 50, BatchRule(), None, 0).loader().steps(0, 5))
    assert np.random.randint(2**31) == expected, "numpy's global generator is the user's"


def test_features_are_augmented_by_seed_epoch_and_their_own_id() -> None:
    case = Case((3, 5, 2, 4), 4, None, 50, BatchRule(), None, 9)
    drawn = [{fid: noise for fid, (_, noise) in contents([data]).items()} for data in case.loader().steps(0, 2)]
    for epoch, found in enumerate(drawn):
        assert found == {i: generator(9, epoch, "augment", i).integers(1, 2**31) for i in range(4)}
    assert not set(drawn[0].values()) & set(drawn[1].values())


def test_the_order_is_a_promise() -> None:
    """A checkpoint of one version is resumed by another: the order must not change by accident."""
    assert order(8, 0, 0).tolist() == [3, 1, 7, 0, 4, 5, 2, 6]


@pytest.mark.parametrize("seed", range(20))
def test_packs_hold_every_feature_once_and_never_too_much(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lengths, limit = rng.integers(1, 50, 200), int(rng.integers(50, 120))
    ids = rng.permutation(200).tolist()
    packs = packed(ids, lengths, limit)
    assert sorted(i for pack in packs for i in pack) == list(range(200))
    assert all(sum(lengths[i] for i in pack) <= limit for pack in packs)
    assert len(packs) <= 1.35 * math.ceil(lengths.sum() / limit), "and are well filled"
    assert packs == packed(ids, lengths, limit)
    assert packed([0], np.array([500]), 100) == [(0,)], "what is too long is alone"


def test_a_fraction_of_an_epoch() -> None:
    loader = Case((4,) * 10, 3, None, 50, BatchRule(), None, 0).loader()
    assert [loader.total_steps(epochs) for epochs in (0.01, 0.25, 0.5, 1, 1.5, 3)] == [1, 1, 2, 4, 6, 12]
    assert [data.epoch for data in loader.steps(0, 6)] == [0.25, 0.5, 0.75, 1.0, 1.25, 1.5]
    assert [data.rows for data in loader.steps(0, 4)] == [3, 3, 3, 1]
    assert list(loader.steps(4, 4)) == []


def test_more_ranks_than_features() -> None:
    case = Case((4, 4), 2, None, 100, BatchRule(), None, 0)
    for ranks in together(case, 4, 0, 1):
        assert [sum(b.weights["loss"] for b in data.microbatches) for data in ranks] == [1, 1, 0, 0]
        assert all(len(data.microbatches) == 1 for data in ranks)


def test_cut_shares_out_evenly_where_tokens_allow_one_microbatch() -> None:
    groups = [(i,) for i in range(10)]
    pieces = cut(groups, [5] * 10, Cut(None, 10**6, 4))
    assert [len(rank) for rank in pieces] == [1, 1, 1, 1]
    assert [len(g) for rank in pieces for g in rank] == [3, 3, 3, 1]


def test_filler_is_one_real_token_and_belongs_to_nobody() -> None:
    arrays = {
        "input_ids": np.arange(5),
        "pairs": np.arange(10).reshape(2, 5),
        "label": np.array(3),
        "scores": np.arange(4),
    }
    made = filler(Feature(7, 4, arrays, 5, truncated=2))
    assert (made.id, made.row_id, made.length, made.filler, made.truncated) == (-1, -1, 1, True, 0)
    assert made.arrays["input_ids"].tolist() == [0]
    assert made.arrays["pairs"].tolist() == [[0], [5]]
    assert (made.arrays["label"], made.arrays["scores"].tolist()) == (3, [0, 1, 2, 3])


def evaluated(
    lengths: list[int], rank: int, size: int, tokens: int = 64, rule: BatchRule = RULES[0], augment: bool = True
) -> list[Batch]:
    place = Place(rank, size, rank, rank, size, rank == 0)
    return list(
        evaluation_batches(
            store_of(lengths), WordTask(), place=place, tokens=tokens, rule=rule, seed=3, augment=augment
        )
    )


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("count", [1, 2, 5, 23, 64])
def test_evaluations_cover_each_feature_once(rule: BatchRule, size: int, count: int) -> None:
    lengths = np.random.default_rng(count).integers(1, 60, count).tolist()
    ranks = [evaluated(lengths, rank, size, rule=rule) for rank in range(size)]
    assert sorted(i for rank in ranks for batch in rank for i in ids_in(batch)) == list(range(count))
    assert len({len(rank) for rank in ranks}) == 1
    assert len(ranks[0]) % rule.count_multiple == 0
    widths = {batch.inputs["input_ids"].shape[1] for rank in ranks for batch in rank}
    assert all(width % rule.length_multiple == 0 for width in widths)
    assert rule.equal_length == "none" or len(widths) == 1
    for batch in itertools.chain(*ranks):
        sequences, width = batch.inputs["input_ids"].shape
        assert sequences == 1 or sequences * width <= 64


def test_five_rows_on_two_ranks() -> None:
    ranks = [evaluated([9, 8, 7, 6, 5], rank, 2, tokens=18) for rank in range(2)]
    assert [[ids_in(batch) for batch in rank] for rank in ranks] == [[[0, 1], [4]], [[2, 3], []]]
    assert [[batch.weights["loss"] for batch in rank] for rank in ranks] == [[2, 1], [2, 0]]


def test_an_evaluation_is_augmented_the_same_each_time_and_predictions_are_not() -> None:
    first, again = evaluated([3, 4, 5], 0, 1), evaluated([3, 4, 5], 0, 1)
    split = [batch for rank in range(3) for batch in evaluated([3, 4, 5], rank, 3, tokens=5)]
    noise = {
        i: {
            int(b.inputs["noise"][s].max())
            for b in (*first, *again, *split)
            for s, f in enumerate(b.feature_ids[:, 0])
            if f == i
        }
        for i in range(3)
    }
    assert all(len(values) == 1 and values != {0} for values in noise.values())
    assert all(batch.inputs["noise"].max() == 0 for batch in evaluated([3, 4, 5], 0, 1, augment=False))
    assert evaluated([], 0, 2) == []


@given(st.lists(st.integers(0, 60), max_size=150), st.integers(16, 200), st.integers(0, 2**32 - 1), st.integers(1, 40))
def test_packs_are_a_plain_first_fit_over_the_last_32(lengths: list[int], limit: int, seed: int, block: int) -> None:
    """Whatever the block in which lengths are fetched."""
    ids = np.random.default_rng(seed).permutation(len(lengths))
    expected: list[list[int]] = []
    for i in ids.tolist():
        open_ones = (pack for pack in expected[-32:] if sum(lengths[n] for n in pack) + lengths[i] <= limit)
        pack = next(open_ones, None)
        if pack is None:
            expected.append([i])
        else:
            pack.append(i)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "_BLOCK", block)
        found = packs(ids, np.array(lengths, np.uint32), limit)
    assert list(found) == [tuple(pack) for pack in expected]
    assert found[1:5:2] == [tuple(pack) for pack in expected[1:5:2]]
    assert len(found) == len(expected)


def test_an_epoch_of_many_features_takes_little_memory() -> None:
    """Two arrays of an epoch's positions, and no object a feature: 10^6 take some 50 MB, where tuples take 200."""
    loader = Case((4,), 8, None, 50, BatchRule(), 512, 0).loader()
    lengths = np.random.default_rng(0).integers(1, 512, 300_000).astype(np.uint32)
    loader.store = FeatureStore(np.arange(len(lengths)), lengths, loader.store._arrays, loader.store.counts)
    tracemalloc.start()
    try:
        steps = loader.total_steps(1)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert steps == math.ceil(len(loader.groups(0)) / 8)
    assert peak < 64 * len(lengths)


def test_microbatches_of_one_shape_have_equally_many_features() -> None:
    """Through a pipeline go tensors of one shape; cut by tokens, the last microbatch would be a shorter one."""
    how = Cut(None, 40, 1, BatchRule(equal_length="step", count_multiple=2))
    (pieces,) = cut([(n,) for n in range(7)], [10, 9, 8, 3, 2, 2, 1], how)
    assert [len(piece) for piece in pieces] == [4, 4]
    assert pieces[1][-1] == (loading.FILLER,)
