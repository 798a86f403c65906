"""What commands print: data on stdout, words for people on stderr."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any


def complain(line: str) -> None:
    """An error, on stderr."""
    print(f"error: {line}", file=sys.stderr)


def note(line: str) -> None:
    """A remark, on stderr."""
    print(line, file=sys.stderr)


def result(data: Any, *, as_json: bool) -> None:
    """A result on stdout: JSON for programs, lines for people."""
    if as_json:
        print(json.dumps(finite(data), ensure_ascii="utf" not in (sys.stdout.encoding or "").lower()))
    elif isinstance(data, Mapping):
        width = max((len(str(k)) for k in data), default=0)
        for key, value in data.items():
            print(f"{key:<{width}}  {shown(value)}")
    else:
        for row in data:
            print("\t".join(shown(v) for v in row.values()) if isinstance(row, Mapping) else shown(row))


def prepare_output(file: Path | None, *, as_json: bool) -> None:
    """Before answers are made: whether they can be written into a file. Raises UserError, OutputError."""
    from spcore.errors import UserError
    from spcore.files import check_output

    if file is not None and as_json:
        raise UserError("--json prints, and --output writes JSON lines: leave one of them out")
    if file is not None:
        check_output(file)


def aligned(lines: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines of cells as a table."""
    widths = [max(len(line[n]) for line in lines) for n in range(len(lines[0]))]
    for line in lines:
        yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()


def finite(data: Any) -> Any:
    """JSON has no NaN: null takes its place."""
    if isinstance(data, float) and not math.isfinite(data):
        return None
    if isinstance(data, Mapping):
        return {k: finite(v) for k, v in data.items()}
    if isinstance(data, Sequence) and not isinstance(data, str):
        return [finite(v) for v in data]
    return data


def shown(value: Any) -> str:
    """A value for a person."""
    if isinstance(value, float):
        return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e6 else f"{value:.3g}"
    if isinstance(value, Mapping | list | tuple):
        return json.dumps(finite(value), ensure_ascii=False)
    return str(value)


@contextlib.contextmanager
def log_to_stderr() -> Iterator[None]:
    """Show the library's own warnings, for as long as a command runs. The library itself configures no logging."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logger = logging.getLogger("slimpajama")
    propagates = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagates
