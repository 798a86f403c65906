"""Data set `builtin`: what ships with the project."""

from __future__ import annotations

from dataclasses import replace
from importlib import resources
from pathlib import Path

from spcore.errors import SourceError, unknown
from spcore.interfaces.dataset import Dataset, Source
from spcore_data.options import BuiltinOptions, FilesOptions


class Builtin(Dataset):
    """`builtin/reviews`: short reviews in two classes, splits train and test."""

    def __init__(self, options: BuiltinOptions) -> None:
        self.options = options

    def open(self, split: str | None) -> Source:
        """See `Dataset.open`."""
        from spcore_data.files import Files

        folder = Path(str(resources.files("spcore_data"))) / "builtin" / self.options.source.removeprefix("builtin/")
        splits = sorted(p.stem for p in folder.glob("*.jsonl"))
        chosen = split or "train"
        if chosen not in splits:
            raise SourceError(f"data 'builtin/{folder.name}': {unknown('split', chosen, splits)}")
        source = Files(FilesOptions.model_validate({"source": str(folder / f"{chosen}.jsonl")})).open(None)
        source.schema = replace(source.schema, default_task="text-classification")
        return source
