"""Safetensors files in Hugging Face's layout. Nothing is ever pickled or unpickled; syncing is for the caller to do."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from spcore.artifact import verified
from spcore.errors import ArtifactError
from spcore.files import disk_errors, put_text

SHARD_BYTES = 5 * 10**9
WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"


def save_safetensors(
    items: Iterable[tuple[str, torch.Tensor]], folder: Path, *, shard_bytes: int = SHARD_BYTES
) -> list[str]:
    """Write (name, tensor) as `model.safetensors`, or as shards with an index where one file would be larger than `shard_bytes`.
    Streams: one shard is held at a time. Returns the files' names. Raises OutputError."""
    shard: dict[str, torch.Tensor] = {}
    done: list[tuple[Path, list[str]]] = []
    held = total = 0
    for name, tensor in items:
        size = tensor.numel() * tensor.element_size()
        if shard and held + size > shard_bytes:
            done.append(_write_shard(folder, len(done), shard))
            shard, held = {}, 0
        assert name not in shard, f"{name!r} is given twice"
        shard[name] = tensor
        held, total = held + size, total + size
    done.append(_write_shard(folder, len(done), shard))
    if len(done) == 1:
        with disk_errors(folder / WEIGHTS):
            done[0][0].rename(folder / WEIGHTS)
        return [WEIGHTS]
    return _index(folder, done, total)


def _write_shard(folder: Path, number: int, tensors: Mapping[str, torch.Tensor]) -> tuple[Path, list[str]]:
    path = folder / f".shard-{number}"
    write_tensors(tensors, path, {"format": "pt"})
    return path, list(tensors)


def _index(folder: Path, shards: list[tuple[Path, list[str]]], total: int) -> list[str]:
    """Give shards their names, now that their number is known, and write the index."""
    places: dict[str, str] = {}
    for n, (path, names) in enumerate(shards, 1):
        target = f"model-{n:05d}-of-{len(shards):05d}.safetensors"
        with disk_errors(folder / target):
            path.rename(folder / target)
        assert not places.keys() & set(names), "a name is given twice"
        places.update(dict.fromkeys(names, target))
    content = {"metadata": {"total_size": total}, "weight_map": places}
    put_text(folder / INDEX, json.dumps(content, indent=1, sort_keys=True))
    return [*sorted(set(places.values())), INDEX]


def write_tensors(tensors: Mapping[str, torch.Tensor], file: Path, metadata: Mapping[str, str]) -> None:
    """Write one safetensors file. Tensors that share memory, which the format refuses, are written apart. Raises OutputError."""
    seen: set[int] = set()
    storable: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        value = tensor.detach().to("cpu").contiguous()
        storage = value.untyped_storage()
        whole = storage.nbytes() == value.numel() * value.element_size()
        if not whole or storage.data_ptr() in seen:
            value = value.clone()
        seen.add(value.untyped_storage().data_ptr())
        storable[name] = value
    with disk_errors(file):
        save_file(storable, file, metadata=dict(metadata))


def load_safetensors(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Stream (name, CPU tensor) of a safetensors file, or of a folder with one file or with shards. A file of a saved model is
    checked against its checksum by the time its last tensor is through. Raises ArtifactError."""
    for file in _files(path) if path.is_dir() else [path]:
        try:
            with verified(file), safe_open(file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118 -- no mapping
                    yield name, opened.get_tensor(name)
        except SafetensorError as error:
            raise ArtifactError(f"{file}: cannot be read: {error}; the file is damaged") from error
        except FileNotFoundError:
            raise ArtifactError(f"{file}: is missing; the folder is incomplete") from None


def _files(folder: Path) -> list[Path]:
    index = folder / INDEX
    if (folder / WEIGHTS).is_file() or not index.is_file():
        return [folder / WEIGHTS]
    try:
        names = set(json.loads(index.read_text())["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{index}: cannot be read: {error!r}; the file is damaged") from error
    strange = [name for name in names if Path(name).name != name]
    if strange:
        raise ArtifactError(f"{index}: names {strange[0]!r}, which is not a file of its folder")
    return [folder / name for name in sorted(names)]
