"""Data set `hub`: any data set of the Hugging Face Hub, through the `datasets` library. Code from the Hub is never run."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pyarrow as pa
import pyarrow.compute as pc
from huggingface_hub import constants, scan_cache_dir
from huggingface_hub.errors import CacheNotFound, CorruptedCacheException, EntryNotFoundError, HTTPError

from spcore.bars import of_library
from spcore.errors import SourceError, nearest, unknown
from spcore.features import fingerprint
from spcore.interfaces.dataset import Dataset, ReadReport, Source
from spcore_data.glue_tasks import advice_for
from spcore_data.options import HubOptions
from spcore_data.splits import default_split
from spcore_data.streamed import StreamedSource
from spcore_data.table import TableSource

_ERRORS = (
    OSError,
    ValueError,
    RuntimeError,
    EntryNotFoundError,
    HTTPError,
    datasets.exceptions.DatasetsError,
    pa.ArrowException,
)
_CONFIGURATIONS = re.compile(
    r"(?:Available|available configs|Available configs in the cache): \[(.*?)\]|configurations in the cache: (?P<plain>.+?) Please"
)
_SCHEMES = ("hf://datasets/", "hf://", "hf:")


class NotOnHub(SourceError):
    """A data set that neither the Hub nor the cache gave."""


class Hub(Dataset):
    """A data set by name."""

    def __init__(self, options: HubOptions) -> None:
        self.options = options

    def open(self, split: str | None) -> Source:
        """See `Dataset.open`."""
        source = self.options.source
        for scheme in _SCHEMES:
            source = source.removeprefix(scheme)
        if self.options.streaming:
            return self._streamed(source, split)
        found = load(source, self.options.name, self.options.revision)
        return source_of(found, split, source, advice_for(source, self.options.name))

    def _streamed(self, source: str, split: str | None) -> Source:
        name, revision = self.options.name, self.options.revision
        try:
            builder = datasets.load_dataset_builder(source, name, revision=revision)
            found = builder.as_streaming_dataset()
        except _ERRORS as error:
            raise _translated(source, name, revision, error) from error
        chosen = _chosen(found, split, source)
        content = fingerprint(builder.hash, builder.config_id, chosen)
        return StreamedSource(found[chosen], source, content, advice=advice_for(source, name))


def load(source: str, name: str | None, revision: str | None = None) -> Mapping[str, datasets.Dataset]:
    """All splits of a data set, from the Hub or its cache. Raises SourceError of one line."""
    try:
        with _bars():
            found: Mapping[str, datasets.Dataset] = datasets.load_dataset(source, name, revision=revision)
    except _ERRORS as error:
        raise _translated(source, name, revision, error) from error
    if revision is not None and constants.HF_HUB_OFFLINE:
        _check_revision(found, source, revision)
    return found


@contextlib.contextmanager
def _bars() -> Iterator[None]:
    """Bars of downloads and conversions, unless the environment decides about them."""
    hub = huggingface_hub.utils
    with contextlib.ExitStack() as stack:
        for lib, decided in (
            (hub, constants.HF_HUB_DISABLE_PROGRESS_BARS),
            (datasets, datasets.config.HF_DATASETS_DISABLE_PROGRESS_BARS),
        ):
            if decided is None:
                switches = (lib.disable_progress_bars, lib.enable_progress_bars, lib.are_progress_bars_disabled)
                stack.enter_context(of_library(*switches))
        yield


def source_of(
    found: Mapping[str, datasets.Dataset], split: str | None, subject: str, advice: Mapping[str, Any]
) -> TableSource:
    """A split as a source. Labels below 0, which stand for none, are missing. Raises SourceError."""
    part = found[_chosen(found, split, subject)]
    declared = {}
    table = part.data.table
    for column, feature in part.features.items():
        inner = getattr(feature, "feature", feature)
        if isinstance(inner, datasets.ClassLabel):
            declared[column] = tuple(inner.names)
        if inner is feature and (column in declared or (column == "label" and advice)):
            table = _without_negative(table, column)
    report = ReadReport(part.num_rows)
    return TableSource(table, part._fingerprint, report=report, declared=declared, advice=advice)


def _chosen(found: Mapping[str, Any], split: str | None, subject: str) -> str:
    """The name of a split. Raises SourceError."""
    chosen = split if split is not None else default_split(list(found), subject)
    if chosen not in found:
        raise SourceError(f"data {subject!r}: {unknown('split', chosen, found)}")
    return chosen


def _without_negative(table: pa.Table, column: str) -> pa.Table:
    values, at = table.column(column), table.column_names.index(column)
    kept = pc.if_else(pc.less(values, 0), pa.scalar(None, values.type), values)
    return table.set_column(at, column, kept)


def _check_revision(found: Mapping[str, datasets.Dataset], source: str, revision: str) -> None:
    """Raise where the cache gave another revision than asked for: offline, `datasets` takes the latest that it has."""
    files = [file["filename"] for part in found.values() for file in part.cache_files]
    used = Path(files[0]).parent.name if files else ""
    repos = [repo for repo in _scanned() if repo.repo_id == source]
    known = {rev.commit_hash for repo in repos for rev in repo.revisions if revision in rev.refs}
    if used not in known and not (len(revision) >= 7 and used.startswith(revision)):
        raise SourceError(
            f"data set {source!r}, revision {revision!r}: the offline cache {constants.HF_HOME} holds another one, {used}",
            hint="Leave revision out, or unset HF_HUB_OFFLINE",
        )


def _translated(source: str, name: str | None, revision: str | None, error: Exception) -> SourceError:
    """What was looked for, where, and what there is instead; the library's own words at the end."""
    said = " ".join(str(error).split()) or type(error).__name__
    offline = f"in the offline cache {constants.HF_HOME} (HF_HUB_OFFLINE is set)"
    place = offline if constants.HF_HUB_OFFLINE else f"on the Hub at {constants.ENDPOINT}"
    if listed := _CONFIGURATIONS.search(said):
        known = re.findall(r"[^'\[\], ]+", listed.group(1) or listed["plain"])
        if name is None:
            several = f"data set {source!r} has several configurations {place}: {', '.join(known)}"
            return SourceError(several, hint="Say which: data.name=NAME")
        return SourceError(f"data set {source!r} {place}: {unknown('configuration', name, known)}")
    what = f"data set {source!r}" + (f", configuration {name!r}" if name else "")
    what += f", revision {revision!r}" if revision else ""
    cached = cached_names()
    near = nearest(source, cached - {source})
    others = ", ".join(sorted(cached)[:5]) + (f", ... ({len(cached)} in all)" if len(cached) > 5 else "")
    at_hand = f"did you mean {near!r}, which is cached?" if near else f"cached are: {others or 'none'}"
    return NotOnHub(f"{what}: cannot be had; looked for {place}; {at_hand} ({said[:200]})")


def cached_names() -> set[str]:
    """Data sets in the cache: as downloaded, and as `datasets` prepared them."""
    names = {repo.repo_id for repo in _scanned()}
    prepared = Path(datasets.config.HF_DATASETS_CACHE)
    if prepared.is_dir():
        names |= {p.name.replace("___", "/") for p in prepared.iterdir() if p.is_dir() and p.name != "downloads"}
    return names


def _scanned() -> list[Any]:
    """The downloaded data sets, none where there is no cache or it cannot be read."""
    try:
        return [repo for repo in scan_cache_dir().repos if repo.repo_type == "dataset"]
    except (CacheNotFound, CorruptedCacheException, OSError, ValueError):
        return []
