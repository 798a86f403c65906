"""Data set `builtin`: what ships with the project."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from spcore.errors import SourceError, unknown
from spcore.interfaces.dataset import Dataset, Schema, Source
from spcore_data.files import read_files
from spcore_data.options import BuiltinOptions, FilesOptions
from spcore_data.splits import default_split

PREFIX = "builtin/"


class Builtin(Dataset):
    """`builtin/reviews`: short reviews in two classes, splits train and test."""

    def __init__(self, options: BuiltinOptions) -> None:
        self.options = options

    def open(self, split: str | None) -> Source:
        """See `Dataset.open`."""
        root = Path(str(resources.files("spcore_data"))) / "builtin"
        sets = sorted(p.name for p in root.iterdir() if p.is_dir())
        name = self.options.source.removeprefix(PREFIX)
        if name not in sets:
            raise SourceError(f"data: {unknown('set', PREFIX + name, [PREFIX + known for known in sets])}")
        splits = sorted(p.stem for p in (root / name).glob("*.jsonl"))
        chosen = split or default_split(splits, PREFIX + name)
        if chosen not in splits:
            raise SourceError(f"data '{PREFIX}{name}': {unknown('split', chosen, splits)}")
        file = root / name / f"{chosen}.jsonl"
        source = read_files([file], FilesOptions.model_validate({"source": str(file)}), [])
        source.schema = Schema(
            source.schema.columns, "text-classification", column_map={"text": "text", "label": "label"}
        )
        return source
