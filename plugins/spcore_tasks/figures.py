"""Metrics of classification and regression: scikit-learn's and scipy's, with 0 where a figure is not defined (as GLUE's official
scorer does), for example the correlation with predictions that are all alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from spcore.imports import undisturbed

SINGLE = ("accuracy", "f1", "f1_macro", "f1_micro", "matthews_correlation")
MULTI = ("f1_micro", "f1_macro", "accuracy")
REGRESSION = ("pearson_spearman", "pearson", "spearman", "mse")
LOWER_IS_BETTER = frozenset({"mse"})


def single_label(gold: Sequence[int], predicted: Sequence[int], classes: int) -> dict[str, float]:
    """gold, predicted: ids [rows]. f1: of two classes that of the last one (the positive), of more the macro mean, which is
    over the classes that occur in either."""
    with undisturbed():
        from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    macro = float(f1_score(gold, predicted, average="macro", zero_division=0))
    one = float(f1_score(gold, predicted, labels=[1], average="macro", zero_division=0))
    varied = len(set(gold)) > 1 and len(set(predicted)) > 1
    return {
        "accuracy": float(accuracy_score(gold, predicted)),
        "f1": one if classes == 2 else macro,
        "f1_macro": macro,
        "f1_micro": float(f1_score(gold, predicted, average="micro", zero_division=0)),
        "matthews_correlation": float(matthews_corrcoef(gold, predicted)) if varied else 0.0,
    }


def multi_label(gold: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """gold, predicted: 0 or 1, [rows, labels]. accuracy: share of rows that have exactly the right labels."""
    with undisturbed():
        from sklearn.metrics import f1_score

    return {
        "f1_micro": float(f1_score(gold, predicted, average="micro", zero_division=0)),
        "f1_macro": float(f1_score(gold, predicted, average="macro", zero_division=0)),
        "accuracy": float((gold == predicted).all(1).mean()),
    }


def regression(gold: Sequence[float], predicted: Sequence[float]) -> dict[str, float]:
    """pearson_spearman: the mean of both, GLUE's figure for STS-B. mse: mean squared error."""
    with undisturbed():
        from scipy.stats import pearsonr, spearmanr

    x, y = np.asarray(gold, np.float64), np.asarray(predicted, np.float64)
    pearson, spearman = _correlation(pearsonr, x, y), _correlation(spearmanr, x, y)
    return {
        "pearson_spearman": (pearson + spearman) / 2, "pearson": pearson, "spearman": spearman,
        "mse": float(np.mean((x - y) ** 2)),
    }  # fmt: skip


def _correlation(of: Callable[[np.ndarray, np.ndarray], Any], x: np.ndarray, y: np.ndarray) -> float:
    return 0.0 if _alike(x) or _alike(y) else float(of(x, y).statistic)


def _alike(x: np.ndarray) -> bool:
    """Whether values are alike up to rounding: where scipy warns and gives NaN or noise."""
    return len(x) < 2 or bool(np.linalg.norm(x - x.mean()) <= 1e-13 * abs(x.mean()) * len(x))
