"""Columns under the task's names, parts of splits, limits, and counts of what is left."""

from __future__ import annotations

import random
from typing import Any

import pytest
from core_fakes import ListDataset, ListSource, source

from spcore.errors import DataError, RecipeError
from spcore.interfaces.dataset import Column, Schema
from spcore.interfaces.task import Role
from spcore.rows import RoleSource, map_roles, open_rows

ROLES = (
    Role("text", guesses=("sentence", "question")),
    Role("label", kind="label", target=True, guesses=("target", "class")),
)
PAIR = Role("pair", required=False, guesses=("sentence2", "hypothesis"))


def schema(*columns: str, **more: Any) -> Schema:
    return Schema({c: Column("text") for c in columns}, **more)


def rows(
    count: int = 10,
    *,
    split: str | None = None,
    columns: dict[str, str] | None = None,
    limit: int | None = None,
) -> RoleSource:
    return open_rows(ListDataset(train=source(count)), ROLES, columns=columns or {}, split=split, limit=limit)


def texts(view: RoleSource) -> list[int]:
    """Numbers of the rows in a view."""
    assert view.length is not None
    return [int(row["text"].split()[1]) for row in view.read(range(view.length))]


@pytest.mark.parametrize(
    ("columns", "given", "mapping"),
    [
        (["sentence", "label"], {}, {"text": "sentence", "label": "label"}),
        (["Sentence", "LABEL", "id"], {}, {"text": "Sentence", "label": "LABEL"}),
        (["question", "sentence", "class"], {}, {"text": "sentence", "label": "class"}),
        (["text", "sentence", "target"], {}, {"text": "text", "label": "target"}),
        (["a", "b"], {"text": "b", "label": "a"}, {"text": "b", "label": "a"}),
        (["sentence", "text", "label"], {"text": "sentence"}, {"text": "sentence", "label": "label"}),
        (["label", "class", "text"], {"text": "label"}, {"text": "label", "label": "class"}),
        (["body", "label"], {}, {"text": "body", "label": "label"}),
    ],
)  # fmt: skip
def test_columns_as_given_else_guessed(columns: list[str], given: dict[str, str], mapping: dict[str, str]) -> None:
    assert map_roles(schema(*columns), ROLES, given) == mapping


def test_the_sources_own_map_stands_above_guesses() -> None:
    known = schema("premise", "sentence", "hypothesis", "label", column_map={"text": "premise"})
    assert map_roles(known, (*ROLES, PAIR), {}) == {"text": "premise", "label": "label"}, (
        "its map names no pair, so there is none"
    )
    assert map_roles(known, (*ROLES, PAIR), {"pair": "hypothesis"}) == {
        "text": "premise",
        "label": "label",
        "pair": "hypothesis",
    }
    assert map_roles(schema("sentence", "sentence2", "label"), (*ROLES, PAIR), {})["pair"] == "sentence2"
    assert "pair" not in map_roles(schema("sentence", "other", "label"), (*ROLES, PAIR), {}), (
        "a role one can do without is not guessed at"
    )


def test_a_role_without_a_column_says_what_there_is_and_what_to_type() -> None:
    with pytest.raises(DataError) as caught:
        map_roles(schema("a", "b", "label"), ROLES, {})
    assert str(caught.value) == "no column for 'text': the data has a, b, label. Say which: data.columns.text=COLUMN"
    with pytest.raises(DataError, match="no column for 'text', 'label': the data has none"):
        map_roles(schema(), ROLES, {})


def test_labels_may_be_missing_where_answers_are_asked_for() -> None:
    assert map_roles(schema("sentence"), ROLES, {}, targets=False) == {"text": "sentence"}
    with pytest.raises(DataError, match="no column for 'label'"):
        map_roles(schema("sentence"), ROLES, {})


def test_wrong_names_are_answered_with_the_nearest() -> None:
    with pytest.raises(
        RecipeError, match=r"data\.columns: unknown column of the task 'txt'; did you mean 'text'\? known: label, text"
    ):
        map_roles(schema("sentence"), ROLES, {"txt": "sentence"})
    with pytest.raises(DataError, match=r"data\.columns\.text: unknown column 'sentense'; did you mean 'sentence'\?"):
        map_roles(schema("sentence", "label"), ROLES, {"text": "sentense"})


def test_rows_come_under_the_tasks_names() -> None:
    view = rows(4)
    assert view.read([2, 0]) == [{"text": "row 2", "label": "pos"}, {"text": "row 0", "label": "neg"}]
    assert list(view.schema.columns) == ["text", "label"]
    assert view.schema.columns["label"].labels == ("neg", "pos")


@pytest.mark.parametrize("seed", range(8))
def test_parts_by_percentage_are_disjoint_and_complete(seed: int) -> None:
    rng = random.Random(seed)
    count, cuts = rng.randrange(100, 300), sorted(rng.sample(range(10, 95), 2))
    parts = [
        rows(count, split=s) for s in (f"train[:{cuts[0]}%]", f"train[{cuts[0]}%:{cuts[1]}%]", f"train[{cuts[1]}%:]")
    ]
    found = [texts(part) for part in parts]
    assert sorted(i for part in found for i in part) == list(range(count))
    assert all(part == sorted(part) for part in found), "in row order"
    assert [len(part) for part in found[:1]] == [round(count * cuts[0] / 100)]
    assert len({part.fingerprint for part in parts}) == 3
    assert found[0] == texts(rows(count, split=f"train[:{cuts[0]}%]")), "the same whenever asked"


def test_parts_by_percentage_of_a_sorted_file_are_alike() -> None:
    """The file holds all of one label first: a cut of the file's order would give a part without the other."""
    counts = rows(200, split="train[90%:]").schema.columns["label"].counts
    assert counts is not None
    assert min(counts.get("neg", 0), counts.get("pos", 0)) >= 5
    assert sum(counts.values()) == 20


@pytest.mark.parametrize(
    ("split", "found"),
    [
        ("train[2:5]", [2, 3, 4]), ("train[7:]", [7, 8, 9]), ("train[:3]", [0, 1, 2]), ("train[8:100]", [8, 9]), ("[:2]", [0, 1]),
        ("train", list(range(10))), ("train[:]", list(range(10))), ("train[:100%]", list(range(10))), (None, list(range(10))),
        ("train[0%:100%]", list(range(10))),
    ],
)  # fmt: skip
def test_parts_by_row_number_are_in_file_order(split: str | None, found: list[int]) -> None:
    view = rows(split=split)
    assert texts(view) == found
    assert [view.row_number(i) for i in range(len(found))] == found


@pytest.mark.parametrize(
    "split",
    ["train[5]", "train[a:b]", "train[:90%", "train]", "train[-3:]", "train[::2]", "train[:5][:3]", "train[1.5%:]"],
)
def test_wrong_grammar_is_refused(split: str) -> None:
    with pytest.raises(RecipeError) as caught:
        rows(split=split)
    assert (
        str(caught.value) == f"data.split {split!r}: expected NAME, or a part as NAME[:90%], NAME[90%:], NAME[100:200]"
    )


@pytest.mark.parametrize("split", ["train[:150%]", "train[101%:]", "train[2:50%]", "train[10%:5]"])
def test_wrong_bounds_are_refused(split: str) -> None:
    with pytest.raises(RecipeError, match="bounds are row numbers, or percentages up to 100%, not one of each"):
        rows(split=split)


@pytest.mark.parametrize("split", ["train[5:5]", "train[20:30]", "train[90%:10%]", "train[:0]", "train[:1%]"])
def test_empty_parts_are_refused(split: str) -> None:
    with pytest.raises(RecipeError, match=r"data\.split: the part \[.*\] of 10 rows is empty"):
        rows(split=split)


def test_limits_take_the_first_rows() -> None:
    assert texts(rows(limit=3)) == [0, 1, 2]
    assert texts(rows(limit=30)) == list(range(10))
    assert texts(rows(split="train[4:]", limit=2)) == [4, 5]
    drawn = texts(rows(100, split="train[:50%]"))
    assert texts(rows(100, split="train[:50%]", limit=7)) == drawn[:7]
    assert len({rows(limit=3).fingerprint, rows(limit=4).fingerprint, rows().fingerprint}) == 3


def test_counts_are_of_the_part() -> None:
    assert rows(10).schema.columns["label"].counts == {"neg": 5, "pos": 5}
    assert rows(10, limit=6).schema.columns["label"].counts == {"neg": 5, "pos": 1}
    part = rows(10, split="train[5:]").schema.columns["label"]
    assert (part.counts, part.labels) == ({"pos": 5}, ("neg", "pos")), "names that the source declares stay"
    assert rows(10, limit=6).schema.columns["text"].counts is None


def test_counts_of_lists_and_gaps() -> None:
    held = [
        {"text": "a", "label": ["x", "y"]},
        {"text": "b", "label": None},
        {"text": "c", "label": ["x"]},
        {"text": "d", "label": ["z"]},
    ]
    lists = ListSource(held, Schema({"text": Column("text"), "label": Column("list", None, {"x": 2, "y": 1, "z": 1})}))
    view = open_rows(ListDataset(train=lists), ROLES, columns={}, split=None, limit=3)
    assert view.schema.columns["label"].counts == {"x": 2, "y": 1}


def test_what_the_source_advises_reaches_the_task() -> None:
    known = ListSource(
        [{"text": "a", "label": 1}],
        Schema({"text": Column("text"), "label": Column("integer")}, "text-classification", {"metric": "f1"}),
    )
    view = open_rows(ListDataset(train=known), ROLES, columns={}, split=None, limit=1)
    assert (view.schema.default_task, view.schema.task_options) == ("text-classification", {"metric": "f1"})


@pytest.mark.parametrize("limit", [None, 1, 5, 12, 50])
@pytest.mark.parametrize("shards", [1, 3, 4])
def test_streams_give_each_row_once_up_to_the_limit(limit: int | None, shards: int) -> None:
    streamed = source(24, streamed=True)
    view = open_rows(ListDataset(train=streamed), ROLES, columns={}, split="train", limit=limit)
    assert view.length is None
    found = [[row["text"] for row in view.stream(shard, shards, 0)] for shard in range(shards)]
    assert len({text for part in found for text in part}) == sum(map(len, found)) == min(24, limit or 24)
    for shard in range(shards):
        assert [row["text"] for row in view.stream(shard, shards, 2)] == found[shard][2:], "a resumed stream goes on"


def test_a_part_of_a_stream_is_refused() -> None:
    with pytest.raises(RecipeError, match="a streamed source has no length to take a part of"):
        open_rows(ListDataset(train=source(4, streamed=True)), ROLES, columns={}, split="train[:50%]", limit=None)
