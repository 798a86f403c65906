"""Indexed data sets as megatron-core writes and reads them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spcore.interfaces.dataset import Source
from spcore_megatron import indexed_files  # first: it quiets what megatron-core says of kernels that are not there
from spcore_megatron.indexed import Indexed
from spcore_megatron.indexed_options import IndexedOptions

Documents = Sequence[Sequence[Sequence[int]]]
"""Documents of sequences of ids."""


def written(prefix: Path, documents: Documents, dtype: Any = np.uint16) -> Path:
    """As Megatron-LM's tools write them."""
    builder = indexed_files.IndexedDatasetBuilder(str(prefix) + ".bin", dtype=dtype)
    for sequences in documents:
        whole = np.array([one for sequence in sequences for one in sequence], np.int64)
        builder.add_document(whole, [len(sequence) for sequence in sequences])
    builder.finalize(str(prefix) + ".idx")
    return Path(str(prefix) + ".idx")


def joined(documents: Documents) -> list[list[int]]:
    """Each document's ids."""
    return [[one for sequence in sequences for one in sequence] for sequences in documents]


def opened(source: Path | str | Sequence[Path], split: str | None = None, **options: Any) -> Source:
    """A source of `megatron-indexed`."""
    named = str(source) if isinstance(source, Path | str) else [str(s) for s in source]
    return Indexed(IndexedOptions.model_validate({"source": named, **options})).open(split)


def rows(source: Source) -> list[list[int]]:
    """Every document."""
    assert source.length is not None
    return [row["tokens"] for row in source.read(range(source.length))]
