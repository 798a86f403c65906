"""Data set `glue`: one of GLUE's tasks, from the Hub, its cache, or a folder."""

from __future__ import annotations

from spcore.errors import SourceError
from spcore.interfaces.dataset import Dataset, Source
from spcore_data.glue_tasks import REPOSITORIES, TASKS, matched
from spcore_data.options import GlueOptions


class Glue(Dataset):
    """Splits train, validation, test; of MNLI also validation_matched (which "validation" means), validation_mismatched and
    the same of test. Rows of tests have no label."""

    def __init__(self, options: GlueOptions) -> None:
        self.options = options

    def open(self, split: str | None) -> Source:
        """See `Dataset.open`."""
        name = self.options.name
        if self.options.folder is not None:
            from spcore_data.glue_files import open_folder

            return open_folder(self.options.folder, name, split)
        from spcore_data.hub import load, source_of

        first: SourceError | None = None
        for repository in REPOSITORIES:
            try:
                found = load(repository, name)
            except SourceError as error:
                first = first or error
            else:
                return source_of(found, matched(name, split), f"glue/{name}", TASKS[name].advice())
        assert first is not None, "there is a repository to try"
        raise SourceError(
            f"glue {name!r}: {first.message}", hint=first.hint or "A local copy: data.folder=FOLDER"
        ) from first
