"""A data set of made-up rows that every fake task can read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np

from spcore.errors import SourceError, unknown
from spcore.interfaces.dataset import Column, Dataset, ReadReport, Row, Schema, Source
from spcore.testing.options import FakeDatasetOptions

LABELS = ("even", "odd")
_SPLITS = ("train", "validation")


def fake_rows(count: int, seed: int = 0) -> list[Row]:
    """Rows with "text" (2 to 9 words), "label" (0 where the first word's number is even), "other", "chosen", "rejected"."""
    rng = np.random.default_rng(seed)

    def words() -> list[int]:
        return [int(n) for n in rng.integers(8, 64, rng.integers(2, 10))]

    rows: list[Row] = []
    for _ in range(count):
        first, *others = (words() for _ in range(4))
        names = ["other", "chosen", "rejected"]
        texts = {name: " ".join(f"w{n}" for n in numbers) for name, numbers in zip(names, others, strict=True)}
        rows.append({"text": " ".join(f"w{n}" for n in first), "label": first[0] % 2, **texts})
    return rows


class FakeDataset(Dataset):
    """Kind `dataset`."""

    def __init__(self, options: FakeDatasetOptions | None = None) -> None:
        self.options = options or FakeDatasetOptions.model_validate({})

    def open(self, split: str | None) -> FakeSource:
        """Split "train" (None) or "validation"."""
        name = split or "train"
        if name not in _SPLITS:
            raise SourceError(unknown("split", name, _SPLITS))
        count = self.options.rows if name == "train" else max(1, self.options.rows // 2)
        rows = fake_rows(count, seed=_SPLITS.index(name))
        return FakeSource(rows, streamed=self.options.style == "stream", fingerprint=f"fake-{name}-{count}")


class FakeSource(Source):
    """Rows from memory, by position or as a stream."""

    def __init__(self, rows: Sequence[Row], *, streamed: bool = False, fingerprint: str = "fake") -> None:
        self._rows = list(rows)
        counts = {str(n): sum(row["label"] == n for row in rows) for n in range(len(LABELS))}
        texts = {name: Column("text") for name in rows[0] if name != "label"}
        self.schema = Schema({"label": Column("integer", LABELS, counts), **texts}, "fake-classification")
        self.fingerprint = fingerprint
        self.length = None if streamed else len(self._rows)
        self.report = ReadReport(len(self._rows))

    def read(self, ids: Sequence[int]) -> list[Row]:
        """Rows by position."""
        return [dict(self._rows[i]) for i in ids]

    def stream(self, shard: int, shards: int, skip: int) -> Iterator[Row]:
        """Every `shards`-th row from `shard` on."""
        yield from (dict(row) for row in islice(self._rows, shard + skip * shards, None, shards))
