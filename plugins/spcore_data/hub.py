"""Data set `hub`: any data set of the Hugging Face Hub, through the `datasets` library. Code from the Hub is never run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import datasets
from huggingface_hub import constants, scan_cache_dir
from huggingface_hub.errors import CacheNotFound, HfHubHTTPError

from spcore.errors import SourceError, nearest
from spcore.interfaces.dataset import Dataset, Source
from spcore_data.options import HubOptions
from spcore_data.table import TableSource


class Hub(Dataset):
    """A data set by name."""

    def __init__(self, options: HubOptions) -> None:
        self.options = options

    def open(self, split: str | None) -> Source:
        """See `Dataset.open`."""
        return load(self.options.source, self.options.name, split, revision=self.options.revision)


def load(
    source: str, name: str | None, split: str | None, *, revision: str | None = None, advice: Mapping[str, Any] | None = None
) -> TableSource:
    """Load a split as a source. Raises SourceError of one line."""
    try:
        found = datasets.load_dataset(source, name, revision=revision)
    except (OSError, ValueError, HfHubHTTPError, datasets.exceptions.DatasetsError) as error:
        raise SourceError(_sentence(source, name, error)) from error
    chosen = split or ("train" if "train" in found else next(iter(found)))
    if chosen not in found:
        raise SourceError(f"data {source!r}: unknown split {chosen!r}; known: {', '.join(found)}")
    part = found[chosen]
    declared = {}
    for column, feature in part.features.items():
        inner = getattr(feature, "feature", feature)
        if isinstance(inner, datasets.ClassLabel):
            declared[column] = tuple(inner.names)
    return TableSource(part.data.table.combine_chunks(), part._fingerprint, declared=declared, advice=advice)


def _sentence(source: str, name: str | None, error: Exception) -> str:
    what = f"data set {source!r}" + (f" ({name})" if name else "")
    where = f"the cache {constants.HF_HOME} (HF_HUB_OFFLINE is set)" if constants.HF_HUB_OFFLINE else f"the Hub at {constants.ENDPOINT}, and as a local file"
    try:
        cached = [repo.repo_id for repo in scan_cache_dir().repos if repo.repo_type == "dataset"]
    except (CacheNotFound, OSError):
        cached = []
    near = nearest(source, cached)
    at_hand = f"nearest in the cache: {near}" if near else f"in the cache: {', '.join(sorted(cached)[:5]) or 'none'}"
    said = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
    return f"{what}: not found; looked for it at {where}; {at_hand} ({said})"
