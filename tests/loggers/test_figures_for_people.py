"""Numbers as people read them."""

from __future__ import annotations

import math

import pytest

from spcore_loggers.figures import count, duration, rounded, short


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.784313, "0.7843"), (63.0, "63"), (1.0, "1"), (0.0, "0"), (12346, "12,346"), (54321.9, "54,322"), (2e-5, "2e-05"),
        (-0.5, "-0.5"), (1234.56, "1235"), (3e12, "3e+12"), (math.nan, "nan"), (math.inf, "inf"), (-math.inf, "-inf"),
    ],
)  # fmt: skip
def test_short(value: float, text: str) -> None:
    assert short(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(812.4, "812"), (25_600.0, "25,600"), (0.42, "0.4"), (0.0, "0"), (9.96, "10.0"), (math.inf, "inf")],
)
def test_rounded(value: float, text: str) -> None:
    assert rounded(value) == text


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0"), (512, "512"), (43_860, "43,860"), (22_713_216, "22.7 M"), (1_235_814_400, "1.24 B")]
)
def test_count(number: int, text: str) -> None:
    assert count(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0.0 s"), (0.44, "0.4 s"), (9.94, "9.9 s"), (9.96, "10 s"), (12.4, "12 s"), (59.4, "59 s"), (59.6, "1:00"),
        (185, "3:05"), (3599.7, "1:00:00"), (3723, "1:02:03"), (183_845, "2 d 03:04:05"), (math.nan, "?"), (math.inf, "?"),
        (-1, "?"),
    ],
)  # fmt: skip
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text
