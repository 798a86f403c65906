"""Data set `rows`: rows that a program has, in memory or spilled to a file that other processes can read."""

from __future__ import annotations

import json
from pathlib import Path

from spcore.errors import DataError, SourceError, unknown
from spcore.features import fingerprint
from spcore.interfaces.dataset import Dataset, ReadReport, Source
from spcore_data.files import read_files
from spcore_data.options import FilesOptions, RowsOptions
from spcore_data.splits import missing_path
from spcore_data.table import TableSource, table_of


class Rows(Dataset):
    """One split, "train"."""

    def __init__(self, options: RowsOptions) -> None:
        self.options = options

    def open(self, split: str | None) -> Source:
        """See `Dataset.open`."""
        if split not in (None, "train"):
            raise SourceError(f"data: rows: {unknown('split', str(split), ['train'])}")
        if self.options.source is not None:
            path = Path(self.options.source).expanduser()
            if not path.is_file():
                raise SourceError(missing_path(self.options.source))
            return read_files([path], FilesOptions.model_validate({"source": str(path), "format": "jsonl"}), [])
        rows = self.options.rows or ()
        if not rows:
            raise DataError("data: an empty list of rows")
        table, encoded, remarks = table_of(rows, "data")
        key = fingerprint(json.dumps(rows, sort_keys=True))
        return TableSource(table, key, report=ReadReport(len(rows), {}, tuple(remarks)), encoded=encoded)
