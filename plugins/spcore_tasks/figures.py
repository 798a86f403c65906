"""Metrics, by scikit-learn and scipy."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np


def single(predicted: Sequence[int], gold: Sequence[int], count: int) -> dict[str, float]:
    """One label of `count`. f1: of the last label where there are two (GLUE's), else macro. A correlation that is not defined,
    as for constant predictions, is 0, as the official GLUE scorer has it."""
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    labels = list(range(count))
    macro = float(f1_score(gold, predicted, labels=labels, average="macro", zero_division=0))
    return {
        "accuracy": float(accuracy_score(gold, predicted)),
        "f1": float(f1_score(gold, predicted, labels=[1], average="macro", zero_division=0)) if count == 2 else macro,
        "f1_macro": macro,
        "f1_micro": float(f1_score(gold, predicted, labels=labels, average="micro", zero_division=0)),
        "matthews_correlation": float(matthews_corrcoef(gold, predicted)),
    }


def multi(predicted: np.ndarray, gold: np.ndarray) -> dict[str, float]:
    """Several labels, [rows, labels] of 0 and 1. accuracy: rows whose labels are all right."""
    from sklearn.metrics import accuracy_score, f1_score

    return {
        "accuracy": float(accuracy_score(gold, predicted)),
        "f1_macro": float(f1_score(gold, predicted, average="macro", zero_division=0)),
        "f1_micro": float(f1_score(gold, predicted, average="micro", zero_division=0)),
    }


def regression(predicted: np.ndarray, gold: np.ndarray) -> dict[str, float]:
    """Numbers: [rows]."""
    from scipy.stats import pearsonr, spearmanr

    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy warns of constant input, which gives the 0 below
        for name, measure in (("pearson", pearsonr), ("spearman", spearmanr)):
            value = float(measure(predicted, gold)[0]) if len(gold) > 1 else 0.0
            found[name] = value if np.isfinite(value) else 0.0
    found["pearson_spearman"] = (found["pearson"] + found["spearman"]) / 2
    found["mse"] = float(np.mean((predicted - gold) ** 2))
    return found
