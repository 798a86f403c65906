"""Where a model's files are: a folder or the Hub's cache. Errors of the Hub and of transformers become one line."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import constants, hf_hub_download, scan_cache_dir
from huggingface_hub.errors import CacheNotFound, EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
from safetensors import SafetensorError, safe_open

from spcore.errors import ArtifactError, SourceError, nearest
from spcore.tensors.files import load_safetensors

_ONE, _INDEX, _PICKLED = "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"


@dataclass(frozen=True)
class WeightFiles:
    """A model's weight files. pickled: from the Hub only, opened as weights and nothing else."""

    paths: tuple[Path, ...]
    pickled: bool = False

    def names(self) -> Iterator[str]:
        """Names of all tensors."""
        if self.pickled:
            yield from (name for name, _ in self.tensors())
            return
        for path in self.paths:
            with _whole(path), safe_open(path, framework="pt") as file:
                yield from file.keys()

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """(name, CPU tensor), a file at a time."""
        for path in self.paths:
            with _whole(path):
                yield from torch.load(path, map_location="cpu", weights_only=True).items() if self.pickled else load_safetensors(path)


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[None]:
    try:
        yield
    except SafetensorError as error:
        raise ArtifactError(f"{path}: not a whole safetensors file: {error}") from error


def locate(source: str, revision: str | None) -> WeightFiles:
    """The weight files of a source. From a folder only safetensors are taken. Raises ArtifactError or SourceError."""
    folder = Path(source)
    if folder.is_dir():
        return _in_folder(folder)
    with translated(source, revision):
        for name in (_ONE, _INDEX, _PICKLED):
            try:
                path = Path(hf_hub_download(source, name, revision=revision))
            except (EntryNotFoundError, LocalEntryNotFoundError):
                continue
            if name == _INDEX:
                shards = sorted(set(json.loads(path.read_text())["weight_map"].values()))
                return WeightFiles(tuple(Path(hf_hub_download(source, shard, revision=revision)) for shard in shards))
            return WeightFiles((path,), pickled=name == _PICKLED)
    raise SourceError(f"model {source!r}: no {_ONE} and no {_PICKLED} at {_where()}")


def _in_folder(folder: Path) -> WeightFiles:
    if (folder / _ONE).is_file():
        return WeightFiles((folder / _ONE,))
    if (folder / _INDEX).is_file():
        shards = sorted(set(json.loads((folder / _INDEX).read_text())["weight_map"].values()))
        lost = [shard for shard in shards if not (folder / shard).is_file()]
        if lost:
            raise ArtifactError(f"{folder / lost[0]}: missing; {_INDEX} names it")
        return WeightFiles(tuple(folder / shard for shard in shards))
    pickled = sorted(folder.glob("*.bin")) + sorted(folder.glob("*.pt"))
    if pickled:
        raise ArtifactError(
            f"{pickled[0]}: a pickled file, which can run code when opened; only safetensors are read from a folder",
            hint="Convert it once, where you trust it: transformers' from_pretrained, then save_pretrained",
        )
    raise ArtifactError(f"{folder}: has no {_ONE}")


def _where() -> str:
    if constants.HF_HUB_OFFLINE:
        return f"the cache {constants.HF_HUB_CACHE} (HF_HUB_OFFLINE is set)"
    return f"{constants.ENDPOINT} and the cache {constants.HF_HUB_CACHE}"


@contextlib.contextmanager
def translated(source: str, revision: str | None) -> Iterator[None]:
    """Errors about a source become one SourceError: what was looked for, where, and the nearest names at hand."""
    try:
        yield
    except (OSError, ValueError, HfHubHTTPError, OfflineModeIsEnabled, KeyError) as error:
        raise SourceError(_sentence(source, revision, error)) from error


def _sentence(source: str, revision: str | None, error: Exception) -> str:
    path = Path(source)
    if path.is_dir():
        if not (path / "config.json").is_file():
            return f"model {source!r}: the folder has no config.json; {_near(source)}"
        return f"model {source!r}: cannot be opened: {_first_line(error)}"
    if path.exists():
        return f"model {source!r}: is a file; expected a folder with config.json, or a name on the Hub"
    at = f" at revision {revision!r}" if revision else ""
    said = "" if isinstance(error, OSError) else f" ({_first_line(error)})"
    return f"model {source!r}{at}: not found{said}; looked for a folder {str(path.absolute())!r}, then on the Hub: {_where()}; {_near(source)}"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _near(source: str) -> str:
    """The nearest names at hand: model folders here, and models in the Hub's cache."""
    here = [str(p.parent) for pattern in ("*/config.json", "*/*/config.json") for p in sorted(Path().glob(pattern))]
    try:
        cached = [repo.repo_id for repo in scan_cache_dir().repos if repo.repo_type == "model"]
    except (CacheNotFound, OSError):
        cached = []
    known = [*here, *cached]
    if not known:
        return "no model folder is here and none is cached"
    near = nearest(source, known)
    listed = ", ".join(known[:6]) + (", ..." if len(known) > 6 else "")
    return f"nearest at hand: {near}" if near else f"at hand: {listed}"
