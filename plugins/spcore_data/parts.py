"""What a reader makes of a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from spcore.interfaces.dataset import Row


@dataclass
class Part:
    """What a file gave: a table, or rows where Arrow's types might change them. cells: the table holds a delimited file's
    cells as text. lines: the line each row begins on, None where there are none. dropped: reason -> line numbers. declared:
    label names that the file states, by column. facts: for `ReadReport.files`. task: that the file's form is known for."""

    table: pa.Table | None = None
    rows: list[Row] | None = None
    cells: bool = False
    lines: Sequence[int] | None = None
    dropped: dict[str, list[int]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    declared: dict[str, tuple[str, ...]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    task: str | None = None
