"""Where a model's files are: a folder or the Hub's cache. Errors of the Hub and of transformers become one line."""

from __future__ import annotations

import contextlib
import json
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import constants, hf_hub_download, scan_cache_dir
from huggingface_hub.errors import (
    CacheNotFound,
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    HTTPError,  # of whichever client huggingface_hub uses
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    StrictDataclassError,
)
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from safetensors import SafetensorError, safe_open

from spcore.bars import of_library
from spcore.errors import ArtifactError, SourceError, nearest
from spcore.tensors.files import load_safetensors

_INDEX = ".index.json"
_SAFE, _PICKLED = "model.safetensors", "pytorch_model.bin"
_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (GatedRepoError, "its owner gives access on request: ask on its page and log in with `hf auth login`"),
    (RevisionNotFoundError, "the Hub has the model, but no such revision"),
    (RepositoryNotFoundError, "the Hub has no such model, or a private one"),
    (HFValidationError, "not a name that the Hub could have"),
    (LocalEntryNotFoundError, "the Hub was not reached, and it is not in the cache"),
    (EntryNotFoundError, "the Hub has the model, but no such file"),
)


@dataclass(frozen=True)
class WeightFiles:
    """A model's weight files. pickled: from the Hub only, opened as tensors and nothing else."""

    paths: tuple[Path, ...]
    pickled: bool = False

    def names(self) -> list[str]:
        """Names of all tensors."""
        if self.pickled:
            return [name for name, _ in self.tensors()]
        found: list[str] = []
        for path in self.paths:
            with _whole(path), safe_open(path, framework="pt") as file:
                found.extend(file.keys())
        return found

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """(name, CPU tensor), a file at a time."""
        for path in self.paths:
            with _whole(path):
                if self.pickled:
                    yield from torch.load(path, map_location="cpu", weights_only=True).items()
                else:
                    yield from load_safetensors(path)


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, pickle.UnpicklingError) as error:
        raise ArtifactError(f"{path}: not a whole file of weights: {_first_line(error)}") from error


def locate(source: str, revision: str | None) -> WeightFiles:
    """The weight files of a source. From a folder only safetensors are taken. Raises ArtifactError or SourceError."""
    folder = Path(source)
    if folder.is_dir():
        return _in_folder(folder)
    with translated(source, revision):
        for name in (_SAFE, _SAFE + _INDEX, _PICKLED, _PICKLED + _INDEX):
            try:
                path = Path(hf_hub_download(source, name, revision=revision))
            except EntryNotFoundError:  # of a cache that is offline too
                continue
            paths: tuple[Path, ...] = (path,)
            if name.endswith(_INDEX):
                paths = tuple(Path(hf_hub_download(source, shard, revision=revision)) for shard in _shards(path))
            return WeightFiles(paths, pickled=name.startswith(_PICKLED))
    raise SourceError(f"model {source!r}: neither {_SAFE} nor {_PICKLED} at {_where()}")


def _shards(index: Path) -> list[str]:
    """Names of the files that an index lists."""
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{index}: not an index of weight files") from error
    outside = [name for name in names if Path(name).name != name]
    if outside:
        raise ArtifactError(f"{index}: names {outside[0]!r}, which is not a file beside it")
    return names


def _in_folder(folder: Path) -> WeightFiles:
    if (folder / _SAFE).is_file():
        return WeightFiles((folder / _SAFE,))
    if (folder / (_SAFE + _INDEX)).is_file():
        shards = _shards(folder / (_SAFE + _INDEX))
        lost = [shard for shard in shards if not (folder / shard).is_file()]
        if lost:
            raise ArtifactError(f"{folder / lost[0]}: missing; {_SAFE + _INDEX} names it")
        return WeightFiles(tuple(folder / shard for shard in shards))
    pickled = sorted(path for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
    if pickled:
        raise ArtifactError(
            f"{pickled[0]}: a pickled file, which can run code when it is opened; of a folder only safetensors are read",
            hint="If you trust it, convert it once: transformers' AutoModel.from_pretrained(folder).save_pretrained(folder)",
        )
    raise ArtifactError(f"{folder}: has no {_SAFE}", hint="For a model without weights set model.from_scratch=true")


def _where() -> str:
    if constants.HF_HUB_OFFLINE:
        return f"the cache {constants.HF_HUB_CACHE} (HF_HUB_OFFLINE is set)"
    return f"{constants.ENDPOINT} and the cache {constants.HF_HUB_CACHE}"


@contextlib.contextmanager
def translated(source: str, revision: str | None) -> Iterator[None]:
    """Round what asks the Hub. Errors about a source become one SourceError: what was looked for, where, and the nearest names at hand."""
    try:
        with _bars():
            yield
    except (OSError, ValueError, KeyError, ImportError, HTTPError, StrictDataclassError) as error:
        raise SourceError(_sentence(source, revision, error)) from error


def _bars() -> contextlib.AbstractContextManager[None]:
    """Bars of downloads, unless the environment decides about them."""
    if constants.HF_HUB_DISABLE_PROGRESS_BARS is not None:
        return contextlib.nullcontext()
    return of_library(disable_progress_bars, enable_progress_bars, are_progress_bars_disabled)


def _sentence(source: str, revision: str | None, error: Exception) -> str:
    path = Path(source)
    if path.is_dir():
        if not (path / "config.json").is_file():
            return f"model {source!r}: the folder {str(path.absolute())!r} has no config.json; {_near(source)}"
        return f"model {source!r}: the folder cannot be opened: {_first_line(error)}"
    if path.exists():
        return f"model {source!r}: is a file; expected a folder with config.json, or a name on the Hub"
    at = f" at revision {revision!r}" if revision else ""
    looked = f"looked for a folder {str(path.absolute())!r}, then on the Hub: {_where()}"
    reason = _reason(error)
    if reason is None:
        return f"model {source!r}{at}: cannot be opened: {_first_line(error)}; {looked}"
    return f"model {source!r}{at}: not found ({reason}); {looked}; {_near(source)}"


def _reason(error: BaseException | None) -> str | None:
    """What the Hub's client said, from the error that transformers wrapped; None where it was something else."""
    while error is not None:
        for kind, reason in _REASONS:
            if isinstance(error, kind):
                return reason
        error = error.__cause__ or error.__context__
    return None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _near(source: str) -> str:
    """The nearest names at hand: model folders here, and models in the Hub's cache."""
    here = [str(p.parent) for pattern in ("*/config.json", "*/*/config.json") for p in sorted(Path().glob(pattern))]
    try:
        cached = sorted(repo.repo_id for repo in scan_cache_dir().repos if repo.repo_type == "model")
    except (CacheNotFound, OSError):
        cached = []
    known = [*here, *cached]
    if not known:
        return "no model folder is here and no model is cached"
    near = nearest(source, known)
    listed = ", ".join(known[:6]) + (", ..." if len(known) > 6 else "")
    return f"nearest at hand: {near!r}" if near else f"at hand: {listed}"
