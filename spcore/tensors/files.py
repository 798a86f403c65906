"""Safetensors files in Hugging Face's layout, and state dicts as flat safetensors. Nothing is ever pickled."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

SHARD_BYTES = 5 * 10**9
WEIGHTS = "model.safetensors"


def save_safetensors(items: Iterable[tuple[str, torch.Tensor]], folder: Path, *, shard_bytes: int = SHARD_BYTES) -> list[str]:
    """Write (name, tensor) as `model.safetensors`, or as shards with an index where it is larger than a shard. Streams: a shard
    at a time is held. Returns the files' names."""
    shards: list[dict[str, torch.Tensor]] = [{}]
    files: list[tuple[Path, list[str]]] = []
    held, total = 0, 0
    for name, tensor in items:
        size = tensor.numel() * tensor.element_size()
        if held and held + size > shard_bytes:
            files.append(_write(folder / f".shard-{len(files)}", shards[-1]))
            shards[-1], held = {}, 0
        shards[-1][name] = tensor.detach().to("cpu").contiguous().clone()
        held, total = held + size, total + size
    files.append(_write(folder / f".shard-{len(files)}", shards[-1]))
    if len(files) == 1:
        files[0][0].rename(folder / WEIGHTS)
        return [WEIGHTS]
    index: dict[str, str] = {}
    for n, (path, names) in enumerate(files, 1):
        target = f"model-{n:05d}-of-{len(files):05d}.safetensors"
        path.rename(folder / target)
        index.update(dict.fromkeys(names, target))
    content = {"metadata": {"total_size": total}, "weight_map": index}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(content, indent=1, sort_keys=True))
    return [*sorted(set(index.values())), f"{WEIGHTS}.index.json"]


def _write(path: Path, tensors: dict[str, torch.Tensor]) -> tuple[Path, list[str]]:
    save_file(tensors, path, metadata={"format": "pt"})
    return path, list(tensors)


def load_safetensors(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Stream (name, CPU tensor) of one safetensors file."""
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 -- no mapping
            yield name, file.get_tensor(name)
