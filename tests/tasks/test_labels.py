"""Labels in every state that files hold them."""

from __future__ import annotations

import logging
import math
from typing import Any

import pytest
from task_tools import bind, column

from spcore.errors import DataError, RefusalError
from spcore.interfaces.dataset import Column
from spcore_tasks.labels import canonical, learn

SINGLE, MULTI, REGRESSION = "single_label_classification", "multi_label_classification", "regression"


def ids(bound: Any, values: list[Any]) -> list[int]:
    return [int(bound.label({"label": value})["label"]) for value in values]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1, "1"), (1.0, "1"), ("1", "1"), ("1.0", "1"), (" 1 ", "1"), (True, "1"), (False, "0"), (-1, "-1"), ("-0", "0"), ("007", "007"),
        (0.5, "0.5"), ("0.50", "0.50"), ("1.10", "1.10"), ("positive", "positive"), ("好", "好"), ("1e3", "1e3"),
    ],
)  # fmt: skip
def test_canonical(value: Any, text: str) -> None:
    assert canonical(value) == text


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (["0", "1"], ("0", "1")),
        ([0.0, 1.0], ("0", "1")),
        ([0, 1], ("0", "1")),
        ([True, False], ("0", "1")),
        ([5, 3, 1, 2, 4], ("1", "2", "3", "4", "5")),
        (["10", "9", "2"], ("2", "9", "10")),
        (["1", "1.0", "2", "2.0 "], ("1", "2")),
        ([-1, 0, 1], ("-1", "0", "1")),
        (["pos", "neg", " pos"], ("neg", "pos")),
        (["好评", "差评"], ("好评", "差评")),
        (["", "yes", "no", "   "], ("no", "yes")),
        (["true", "false"], ("false", "true")),
        (["3", "x"], ("3", "x")),
    ],
)
def test_names_come_from_the_values(values: list[Any], names: tuple[str, ...]) -> None:
    bound = bind(column(values))
    assert bound.head.problem_type == SINGLE
    assert bound.head.labels == names
    assert bound.head.size == len(names)
    known = [v for v in values if str(v).strip()]
    assert ids(bound, known) == [names.index(canonical(v)) for v in known]


@pytest.mark.parametrize(
    "values", [["0", "1"], [0.0, 1.0], [0, 1], [False, True], ["false", "true"], ["False", "True"], ["0.0", "1.0"]]
)
def test_two_values_mean_the_same_however_another_file_holds_them(values: list[Any]) -> None:
    bound = bind(column(values))
    for other in (["0", "1"], [0.0, 1.0], [0, 1], [False, True], ["false", "TRUE"], ["False", "True"], ["0.0", " 1 "]):
        assert ids(bound, other) == [0, 1]


def test_declared_names_take_ids_and_names() -> None:
    bound = bind(column([0, 1, -1, 0], labels=("negative", "positive")))
    assert bound.head.labels == ("negative", "positive")
    assert ids(bound, [0, 1, 1.0, "0", "1", "negative", " positive", True]) == [0, 1, 1, 0, 1, 0, 1, 1]
    with pytest.raises(DataError, match=r"^no label$"):
        ids(bound, [-1])


def test_declared_names_that_look_like_ids_are_told_apart_by_type() -> None:
    bound = bind(column([0, 1, 2], labels=("1", "2", "3")))
    assert ids(bound, [0, 1, 2]) == [0, 1, 2]
    assert ids(bound, ["1", "2", "3"]) == [0, 1, 2]


@pytest.mark.parametrize("value", [None, "", "  ", math.nan, -1])
def test_a_missing_label_is_named(value: Any) -> None:
    with pytest.raises(DataError, match=r"^no label$"):
        bind(column(["a", "b"])).featurize({"text": "x", "label": value})


def test_minus_one_is_a_label_where_the_data_has_it() -> None:
    assert ids(bind(column([-1, 1])), [-1, 1]) == [0, 1]


def test_an_unknown_label_is_told_with_the_known_ones() -> None:
    with pytest.raises(
        DataError, match=r"^label 'postive' is not known; did you mean 'positive'\? known: negative, positive$"
    ):
        bind(column(["positive", "negative"])).featurize({"text": "x", "label": "postive"})
    many = bind(column(list(range(40)), kind="text"))
    with pytest.raises(DataError, match=r"^label '77' is not known; .*known: 0, 1, 2, .*11, ... \(40 in all\)$"):
        many.featurize({"text": "x", "label": 77})


# -- the option `labels` ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "given", "held", "found"),
    [
        ([0, 1], ["neg", "pos"], [0, 1, "0", "pos"], [0, 1, 0, 1]),
        ([0, 1, -1], ["neg", "pos"], [0, 1], [0, 1]),
        (["pos", "neg"], ["pos", "neg"], ["pos", "neg"], [0, 1]),
        (["pos", "neg", "n/a"], ["pos", "neg"], ["pos", "neg"], [0, 1]),
        ([1, 2, 3], ["bad", "fair", "good"], [1, 2, 3, "good"], [0, 1, 2, 2]),
        ([0, 2], ["bad", "fair", "good"], [0, 1, 2], [0, 1, 2]),
        (["b", "a"], ["first", "second"], ["a", "b"], [0, 1]),
        ([1, 2, 3], [3, 2, 1], [1, 2, 3], [2, 1, 0]),
        ([0, 1, 2], ["1", "2", "3"], [0, 1, 2], [0, 1, 2]),
    ],
)
def test_names_given_as_a_list(values: list[Any], given: list[Any], held: list[Any], found: list[int]) -> None:
    bound = bind(column(values), labels=given)
    assert bound.head.labels == tuple(str(name) for name in given)
    assert ids(bound, held) == found


def test_names_given_as_a_mapping() -> None:
    """Several values may have one name; a value that is left out is not known."""
    bound = bind(column([1, 2, 3, 4, 5]), labels={1: "bad", 2: "bad", "4": "good", "5": "good"})
    assert bound.head.labels == ("bad", "good")
    assert ids(bound, [1, "2", 4.0, 5, "good"]) == [0, 0, 1, 1, 1]
    with pytest.raises(DataError, match=r"label '3' is not known"):
        ids(bound, [3])


def test_names_given_for_names_that_the_data_declares() -> None:
    declared = column([0, 1], labels=("neg", "pos"))
    renamed = bind(declared, labels=["bad", "good"])
    assert ids(renamed, [0, 1, "neg", "good"]) == [0, 1, 0, 1]
    turned = bind(declared, labels=["pos", "neg"])
    assert ids(turned, [0, 1, "pos", "neg"]) == [1, 0, 0, 1]
    with pytest.raises(RefusalError, match=r"task.labels has 3 names, and the data names 2 labels: neg, pos"):
        bind(declared, labels=["a", "b", "c"])


def test_names_that_cannot_be_matched() -> None:
    with pytest.raises(
        DataError, match=r"has 2 names, and the label column has 3 other values: x, y, z. Give a mapping"
    ):
        bind(column(["x", "y", "z"]), labels=["a", "b"])
    with pytest.raises(RefusalError, match=r"task.labels: 'a' is there twice"):
        bind(column(["x", "y"]), labels=["a", "a"])


def test_names_given_where_nothing_is_counted() -> None:
    bound = bind(Column("text"), labels=["neg", "pos"])
    assert ids(bound, ["pos", 0, "1"]) == [1, 0, 1]


# -- which problem ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ([["a"], ["b", "c"], []], MULTI),
        ([0.5, 1.25], REGRESSION),
        ([n / 10 for n in range(60)], REGRESSION),
        ([float(n) for n in range(51)], REGRESSION),
        (list(range(51)), REGRESSION),
        (list(range(50)), SINGLE),
        ([1.0, 2.0, 3.0], SINGLE),
        ([str(n) for n in range(77)], SINGLE),
        (["0.5", "0.7"], SINGLE),
        ([True, False], SINGLE),
    ],
)
def test_the_problem_follows_from_the_column(values: list[Any], problem: str) -> None:
    assert bind(column(values)).head.problem_type == problem


def test_names_make_classes_of_many_integers() -> None:
    names = tuple(f"class {n}" for n in range(77))
    assert bind(column(list(range(77)), labels=names)).head.problem_type == SINGLE


def test_integers_taken_as_scores_are_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "slimpajama"):
        assert bind(column(list(range(60)))).head.problem_type == REGRESSION
    assert "more than 50 different integers, taken as a score; classes: task.problem_type=single" in caplog.text
    assert bind(column(list(range(60))), problem_type=SINGLE).head.size == 60


def test_numbers_that_are_not_counted_are_scores() -> None:
    assert bind(Column("number")).head.problem_type == REGRESSION
    assert bind(Column("integer")).head.problem_type == REGRESSION


def test_columns_that_give_no_labels() -> None:
    with pytest.raises(
        DataError, match=r"more than 1000 different values, or not counted: no names of labels.*data.columns.label"
    ):
        bind(Column("text"))
    with pytest.raises(DataError, match=r"more than 1000 different"):
        bind(column([f"text {n}" for n in range(1001)]))
    with pytest.raises(DataError, match=r"the column has one value, 'a': nothing to tell apart"):
        bind(column(["a", "a", ""]))
    with pytest.raises(DataError, match=r"the column has no value"):
        bind(Column("text", None, {}))
    with pytest.raises(DataError, match=r"holds objects"):
        bind(Column("object"))


def test_a_problem_that_the_column_does_not_pose() -> None:
    with pytest.raises(
        RefusalError, match=r"multi_label_classification: the label column holds no lists, but values of kind text"
    ):
        bind(column(["a", "b"]), problem_type=MULTI)
    with pytest.raises(RefusalError, match=r"single_label_classification: the label column holds lists"):
        bind(column([["a"]]), problem_type=SINGLE)
    assert bind(column([1, 2]), problem_type=REGRESSION).head.size == 1


# -- lists and numbers --------------------------------------------------------------------------------------------


def test_several_labels() -> None:
    bound = bind(column([["b"], ["a", "c"], []]))
    assert bound.head.labels == ("a", "b", "c")
    assert bound.label({"label": ["c", "a"]})["label"].tolist() == [1, 0, 1]
    assert bound.label({"label": []})["label"].tolist() == [0, 0, 0]
    assert bind(column([[0, 2], [1]], labels=("x", "y", "z"))).label({"label": [2]})["label"].tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "^no label$"), ("a", "label 'a' is not a list"), (["a", "z"], "label 'z' is not known"),
        (["a", "a", "b"], "a label is there twice: lists hold each label once, not a 0 or 1 for every label"),
    ],
)  # fmt: skip
def test_lists_that_cannot_be_read(value: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        bind(column([["a"], ["b"]])).featurize({"text": "x", "label": value})


def test_numbers() -> None:
    bound = bind(column([0.5, 2.0]))
    assert [float(bound.label({"label": v})["label"]) for v in (1, 2.5, "3.25", " -1 ", True)] == [
        1.0,
        2.5,
        3.25,
        -1.0,
        1.0,
    ]
    for value, message in [
        ("many", "label 'many' is not a number"),
        (math.inf, "not a finite number"),
        (None, "no label"),
        (["1"], "not a number"),
    ]:
        with pytest.raises(DataError, match=message):
            bound.label({"label": value})


def test_counts_by_label() -> None:
    counted = Column("number", None, {"0.0": 3, "1.0": 5, "nan": 2})
    assert learn(counted, None).count(counted) == [3, 5]
    declared = Column("integer", ("1", "2"), {"0": 4, "1": 6, "-1": 9})
    assert learn(declared, None).count(declared) == [4, 6]
    assert learn(declared, None).count(Column("integer")) is None
