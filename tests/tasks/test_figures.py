"""Metrics against scikit-learn and scipy called as their documentation says, and where they are not defined."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from spcore_tasks import figures


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_single_label(classes: int) -> None:
    draw = np.random.default_rng(classes)
    gold = draw.integers(0, classes, 200)
    predicted = np.where(draw.random(200) < 0.6, gold, draw.integers(0, classes, 200))
    found = figures.single_label(gold.tolist(), predicted.tolist(), classes)
    assert tuple(found) == figures.SINGLE
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(gold, predicted))
    assert found["f1_macro"] == pytest.approx(metrics.f1_score(gold, predicted, average="macro"))
    assert found["f1_micro"] == pytest.approx(metrics.f1_score(gold, predicted, average="micro"))
    assert found["matthews_correlation"] == pytest.approx(metrics.matthews_corrcoef(gold, predicted))
    binary = metrics.f1_score(gold, predicted) if classes == 2 else found["f1_macro"]
    assert found["f1"] == pytest.approx(binary)
    assert all(type(value) is float for value in found.values())


def test_f1_is_of_the_positive_class() -> None:
    """Of four rows one is rightly positive, one is missed: precision 1, recall 1/2."""
    assert figures.single_label([1, 1, 0, 0], [1, 0, 0, 0], 2)["f1"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("gold", "predicted", "f1"),
    [([0, 1, 0], [0, 0, 0], 0.0), ([0, 0], [0, 0], 0.0), ([1, 1], [1, 1], 1.0), ([0], [1], 0.0)],
)
def test_predictions_that_are_all_alike(gold: list[int], predicted: list[int], f1: float) -> None:
    found = figures.single_label(gold, predicted, 2)
    assert found["matthews_correlation"] == 0.0
    assert found["f1"] == f1


def test_multi_label() -> None:
    draw = np.random.default_rng(0)
    gold, predicted = (draw.random((2, 60, 4)) < 0.4).astype(int)
    predicted = np.where(draw.random(gold.shape) < 0.7, gold, predicted)
    found = figures.multi_label(gold, predicted)
    assert tuple(found) == figures.MULTI
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(gold, predicted))
    assert found["f1_micro"] == pytest.approx(metrics.f1_score(gold, predicted, average="micro"))
    assert found["f1_macro"] == pytest.approx(metrics.f1_score(gold, predicted, average="macro"))


def test_multi_label_with_one_label_or_none_right() -> None:
    nothing = np.zeros((3, 2), int)
    assert figures.multi_label(nothing, nothing) == {"f1_micro": 0.0, "f1_macro": 0.0, "accuracy": 1.0}
    one = np.array([[1], [0], [1]])
    assert figures.multi_label(one, one)["f1_micro"] == 1.0


def test_regression() -> None:
    draw = np.random.default_rng(0)
    gold = draw.integers(0, 11, 80) / 2
    predicted = gold + draw.normal(0, 1, 80)
    found = figures.regression(gold.tolist(), predicted.tolist())
    assert tuple(found) == figures.REGRESSION
    pearson, spearman = stats.pearsonr(gold, predicted)[0], stats.spearmanr(gold, predicted)[0]
    assert found["pearson"] == pytest.approx(pearson)
    assert found["spearman"] == pytest.approx(spearman)
    assert found["pearson_spearman"] == pytest.approx((pearson + spearman) / 2)
    assert found["mse"] == pytest.approx(metrics.mean_squared_error(gold, predicted))


@pytest.mark.parametrize(
    ("gold", "predicted"),
    [
        ([1.0, 2.0, 3.0], [0.5, 0.5, 0.5]),
        ([2.0, 2.0], [1.0, 3.0]),
        ([1.0], [1.0]),
        ([1.0, 2.0], [0.1 + 0.2, 0.3]),
        ([0.0, 0.0], [0.0, 0.0]),
    ],
)
def test_numbers_that_are_all_alike(gold: list[float], predicted: list[float]) -> None:
    found = figures.regression(gold, predicted)
    assert found["pearson"] == found["spearman"] == found["pearson_spearman"] == 0.0
