"""Rows made into features: what is stored comes back, what is lost is counted, and large data is kept on disk."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from core_fakes import ListSource, WordTask, store_of

from spcore.errors import DataError
from spcore.features import Counts, FeatureStore, cache_folder, fingerprint, numbered
from spcore.featurizing import featurize
from spcore.interfaces.dataset import Column, Schema
from spcore.interfaces.task import Feature


def texts(*values: str) -> ListSource:
    return ListSource([{"text": value} for value in values], Schema({"text": Column("text")}))


def same(left: Feature, right: Feature) -> None:
    """Equal in every number, shape and type."""
    assert (left.id, left.row_id, left.length) == (right.id, right.row_id, right.length)
    assert left.arrays.keys() == right.arrays.keys()
    for name, array in right.arrays.items():
        np.testing.assert_array_equal(left.arrays[name], array, strict=True)


def awkward(seed: int) -> list[Feature]:
    """Features with ragged, missing, scalar, empty and two-dimensional arrays."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(40):
        n = int(rng.integers(1, 9))
        arrays = {"input_ids": rng.integers(0, 9, n)}
        if rng.random() < 0.5:
            arrays["label"] = np.array(rng.integers(0, 9))
        if rng.random() < 0.5:
            arrays["scores"] = rng.random((2, n)).astype(np.float32)
        if rng.random() < 0.5:
            arrays["tags"] = rng.integers(0, 9, int(rng.integers(0, 3)))
        if rng.random() < 0.3:
            arrays["mask"] = rng.random(n) < 0.5
        made.append(Feature(i * 3, i, arrays, n))
    return made


@pytest.mark.parametrize("seed", range(5))
def test_a_store_gives_back_what_was_put_in(seed: int) -> None:
    made = awkward(seed)
    store = FeatureStore.of(made)
    assert len(store) == len(made)
    assert store.lengths.tolist() == [f.length for f in made]
    assert store.ids.tolist() == [f.id for f in made]
    for i, feature in enumerate(made):
        same(store[i], feature)


def test_features_are_numbered_in_row_order() -> None:
    store = featurize(texts("a b", "c / d e / f", "g"), WordTask(), limit=None)
    assert store.ids.tolist() == [0, 1, 2, 3, 4]
    assert store.rows.tolist() == [0, 1, 1, 1, 2]
    assert store.lengths.tolist() == [2, 1, 2, 1, 1]


def test_dropped_rows_and_cut_texts_are_counted() -> None:
    bad = range(3, 40, 5)
    source = texts(*("" if i in bad else "w " * (1 + i % 7) for i in range(40)))
    store = featurize(source, WordTask(most=4), limit=4)
    lengths = [1 + i % 7 for i in range(40) if i not in bad]
    counts = store.counts
    assert (counts.read, counts.used, counts.features) == (40, 32, 32)
    assert (counts.truncated, counts.truncated_tokens) == (
        sum(n > 4 for n in lengths),
        sum(max(0, n - 4) for n in lengths),
    )
    assert counts.dropped == {"empty text": [3, 8, 13, 18, 23]}
    assert counts.to_json()["dropped"] == {
        "empty text": {
            "rows": 8, "first_rows": [3, 8, 13, 18, 23], "first": ["row 3", "row 8", "row 13", "row 18", "row 23"],
        }
    }  # fmt: skip
    assert counts.remarks() == [
        "8 of 40 rows dropped: empty text (row 3, row 8, row 13, row 18, row 23, ...)",
        f"{counts.truncated} of 32 texts were longer than data.max_length: {counts.truncated_tokens} tokens cut",
    ]
    assert store.rows.tolist() == [i for i in range(40) if i not in bad], "rows keep their own numbers"
    assert store.ids.tolist() == list(range(32)), "features are numbered without gaps"


def test_nothing_lost_is_nothing_said() -> None:
    assert featurize(texts("a", "b"), WordTask(), limit=None).counts.remarks() == []
    assert Counts(read=2, dropped={"x": [1]}, dropped_total={"x": 1}).remarks() == ["1 of 2 rows dropped: x (row 1)"]


def test_only_refusals_of_rows_drop_them() -> None:
    """A fault of the task is not the data's."""

    class Faulty(WordTask):
        def featurize(self, row: dict[str, str]) -> list[Feature]:
            raise KeyError("text")

    with pytest.raises(KeyError):
        featurize(texts("a"), Faulty(), limit=None)


def test_a_task_that_exceeds_the_limit_is_caught() -> None:
    with pytest.raises(AssertionError, match="a feature of 5 tokens where 4 is the limit"):
        featurize(texts("a b c d e"), WordTask(), limit=4)


def test_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SLIMPAJAMA_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == tmp_path / "home/.cache/slimpajama"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg/slimpajama"
    monkeypatch.setenv("SLIMPAJAMA_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"


def test_annotations_become_arrays_of_the_features() -> None:
    store = store_of([2, 3, 1])
    store.annotate(
        [{"feature_id": i, "row_id": i, "reference": np.float64(-i), "per_token": np.arange(i)} for i in range(3)]
    )
    assert [float(store[i].arrays["reference"]) for i in range(3)] == [0.0, -1.0, -2.0]
    assert store[2].arrays["per_token"].tolist() == [0, 1]
    assert store[1].arrays["input_ids"].tolist() == [1, 1, 1]
    assert "row_id" not in store[0].arrays
    store.annotate([{"feature_id": i, "reference": np.float64(i)} for i in range(3)])
    assert float(store[2].arrays["reference"]) == 2.0, "annotated again, the new figures stand"


@pytest.mark.parametrize("ids", [[0, 1], [0, 2, 1], [0, 1, 1], [0, 1, 2, 3]])
def test_annotations_cover_every_feature_once_in_order(ids: list[int]) -> None:
    with pytest.raises(AssertionError, match="annotations do not cover the features"):
        store_of([2, 3, 1]).annotate([{"feature_id": i, "x": np.float64(0)} for i in ids])


def test_fingerprints_depend_on_content_not_on_order_of_keys() -> None:
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})
    values = [(), (None,), (1,), ("1",), ([1],), ({"a": 1},), ({"a": 2},), ("a", "b"), ("ab",), (1.0, 2)]
    random.Random(0).shuffle(values)
    assert len({fingerprint(*v) for v in values}) == len(values)
    assert json.dumps(fingerprint("x"))


def test_data_errors_carry_the_reason_alone() -> None:
    """The reason is what rows are counted by: a hint that names a row would make each its own reason."""

    class Picky(WordTask):
        def featurize(self, row: dict[str, str]) -> list[Feature]:
            raise DataError("label is not a number", hint=f"Found {row['text']}")

    counts = featurize(texts("a", "b"), Picky(), limit=None).counts
    assert counts.dropped_total == {"label is not a number": 2}


def test_counts_of_parts_add_up_to_those_of_the_whole() -> None:
    values = ["" if n % 3 == 0 else "w " * (1 + n % 7) for n in range(40)]
    whole = featurize(texts(*values), WordTask(most=4), limit=4).counts
    added, at = Counts(), 0
    for size in (1, 0, 13, 26):
        part = Counts()
        for row in range(at, at + size):
            numbered({"text": values[row]}, row, WordTask(most=4), part, 4)
        added.add(part)
        at += size
    assert added == whole
