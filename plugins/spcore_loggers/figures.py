"""Numbers as people read them. All take what a run can give, NaN and infinity too."""

from __future__ import annotations

import math


def short(value: float) -> str:
    """A metric or a loss in a few characters: 0.7843, 63, 12,346, 2e-05, nan."""
    if not math.isfinite(value):
        return str(float(value))
    if value == int(value) and abs(value) < 1e9:
        return f"{int(value):,}"
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"


def rounded(value: float) -> str:
    """A whole number of things, or of things a second; one digit more where there are few."""
    return f"{value:,.0f}" if not math.isfinite(value) or value >= 10 or value == 0 else f"{value:.1f}"


def count(number: int) -> str:
    """A number of parameters: 512, 43,860, 22.7 M, 1.24 B."""
    for size, unit, digits in ((10**9, "B", 2), (10**6, "M", 1)):
        if number >= size:
            return f"{number / size:.{digits}f} {unit}"
    return f"{number:,}"


def duration(seconds: float) -> str:
    """A time as people read it: 0.4 s, 12 s, 3:05 (minutes and seconds), 1:02:03, 2 d 03:04:05; "?" where it is not known."""
    if not math.isfinite(seconds) or seconds < 0:
        return "?"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    if not hours:
        return f"{minutes}:{rest:02d}"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours:02d}:{minutes:02d}:{rest:02d}" if days else f"{hours}:{minutes:02d}:{rest:02d}"
