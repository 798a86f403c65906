"""An engine's training state on disk, one format for every layout: tensors of the model and the optimizer's state by Hugging Face name,
each whole or a part of it, scaler, random generators. Nothing is pickled.

Every rank writes one safetensors file of what it alone, or it for others, holds. The header says where each part begins, in the words of
`torch.distributed.checkpoint`'s Hugging Face storage, whose reader finds the parts that a rank needs: of any layout, at any other.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError, safe_open
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from spcore.errors import CheckpointError
from spcore.interfaces.strategy import Pending
from spcore.tensors import sharding
from spcore.tensors.files import SHARD_BYTES, write_tensors
from spcore.tensors.rng import State
from spcore.tensors.stepping import Scaler

MODEL, OPTIMIZER, RANDOM = "model/", "optimizer/", "random/"
_PARTS, _BEGINS = "DCP_SHARDING_INFO", "saved_offsets"
"""As `HuggingFaceStorageReader` has them in a file's header."""


Copies = list[dict[str, torch.Tensor]]
"""Tensors by name, of each file."""


class Writing:
    """A `Pending` that goes on in a thread of its own: first what it was given is copied, then the copies are written. Until `copied` is
    done, nobody changes it."""

    def __init__(self, copy: Callable[[], Copies], write: Callable[[Copies], None]) -> None:
        pool = ThreadPoolExecutor(1, "checkpoint-file")
        self.copied = pool.submit(copy)
        self._written = pool.submit(lambda: write(self.copied.result()))
        pool.shutdown(wait=False)

    def wait(self) -> None:
        """See `Pending.wait`."""
        self._written.result()

    def done(self) -> bool:
        """See `Pending.done`."""
        return self._written.done()


class Staging:
    """Copies of what a rank saves, on the CPU, for the thread that writes them: training goes on and changes what was copied. Their memory,
    as much as the state itself, is kept from one save to the next: fresh pages cost as much time as the copying."""

    def __init__(self) -> None:
        self._kept: dict[tuple[int, str], torch.Tensor] = {}
        self.last: Writing | None = None

    def settle(self) -> None:
        """Return when parameters and the optimizer's state may change: the last save has copied them. What went wrong in copying, the save
        itself raises."""
        if self.last is not None:
            wait([self.last.copied])
            self.last = None

    def copied(self, file: int, name: str, value: torch.Tensor) -> torch.Tensor:
        """The value as it is now, contiguous. The last save is over."""
        kept = self._kept.get((file, name))
        if kept is None or (kept.shape, kept.dtype) != (value.shape, value.dtype):
            kept = torch.empty(value.shape, dtype=value.dtype, device="cpu", pin_memory=value.is_cuda)
            self._kept[file, name] = kept
        return kept.copy_(value.detach())


@dataclass(frozen=True)
class Held:
    """What a rank holds. tensors: parameters and buffers by name, DTensors where they are parts. shards: what the optimizer updates, by
    the same names. writes: whether this rank writes what it holds whole; of parts, `sharding.speaks_for` says it."""

    tensors: Mapping[str, torch.Tensor]
    shards: Mapping[str, torch.Tensor]
    optimizer: torch.optim.Optimizer | None
    scaler: Scaler
    random: State
    writes: bool = True

    def state_of(self, name: str) -> Mapping[str, Any]:
        """The optimizer's of a parameter, {} where it has none."""
        known: dict[Any, dict[str, Any]] = self.optimizer.state if self.optimizer is not None else {}
        return known.get(self.shards.get(name), {})


def save(file: Path, held: Held, staging: Staging) -> Pending:
    """Write this rank's file. State tensors of the optimizer go under "optimizer/NAME/KEY", its plain numbers into the header. It is copied
    and written in a thread; what an update changes on a CPU, beside the next forward and backward pass: `Staging.settle`. `Pending.wait`
    raises OutputError."""
    files: list[dict[str, tuple[torch.Tensor, tuple[int, ...]]]] = [{}]
    numbers: dict[str, Any] = {"scaler": {"scale": held.scaler.scale, "good": held.scaler.good}, "optimizer": {}}

    def keep(name: str, blocks: Sequence[tuple[torch.Tensor, tuple[int, ...]]]) -> None:
        for n, (own, at) in enumerate(blocks):  # a file has a name once
            if own.numel() or not any(at):  # a rank past the end of a short tensor has nothing of it
                files.extend({} for _ in range(n + 1 - len(files)))
                files[n][name] = own, at

    for name, tensor in held.tensors.items():
        if not (sharding.speaks_for(tensor) if sharding.is_part(tensor) else held.writes):
            continue
        blocks = sharding.blocks(tensor)
        keep(MODEL + name, blocks)
        for key, value in held.state_of(name).items():
            if not isinstance(value, torch.Tensor):
                numbers["optimizer"][f"{name}/{key}"] = value
            elif value.dim() and value.shape == sharding.part(tensor).shape:
                keep(f"{OPTIMIZER}{name}/{key}", sharding.blocks(sharding.alike(tensor, value)))
            elif not any(blocks[0][1]):  # a count, or a figure of the whole tensor
                keep(f"{OPTIMIZER}{name}/{key}", [(value, (0,) * value.dim())])
    for name, value in held.random.items():
        keep(RANDOM + name, [(value, (0,))])
    fixed = {MODEL + name for name in held.shards}
    fixed |= {name for stored in files for name in stored if name.startswith(OPTIMIZER)}
    staging.last = _written(file, files, json.dumps(numbers, sort_keys=True), staging, fixed)
    return staging.last


def _written(
    file: Path, files: Sequence[Mapping[str, tuple[torch.Tensor, tuple[int, ...]]]], numbers: str, staging: Staging, fixed: Set[str]
) -> Writing:  # fmt: skip
    """Write `file` and, of tensors that are held in several blocks, "STEM-1" and so on for the others. fixed: names of what nothing but an
    update changes; buffers and generators change in a forward pass."""

    def waits(name: str, value: torch.Tensor) -> bool:
        return name in fixed and not value.is_cuda  # a GPU's copy is in the queue of what it computes anyway

    def copied(later: bool) -> dict[tuple[int, str], torch.Tensor]:
        return {
            (n, name): staging.copied(n, name, value)
            for n, stored in enumerate(files)
            for name, (value, _) in stored.items()
            if waits(name, value) is later
        }

    def copy() -> Copies:
        every = first | copied(True)
        return [{name: every[n, name] for name in stored} for n, stored in enumerate(files)]

    def write(copies: Copies) -> None:
        for n, tensors in enumerate(copies):
            path = file.with_name(f"{file.stem}-{n}{file.suffix}") if n else file
            write_tensors(tensors, path, {"numbers": numbers, _PARTS: json.dumps(begins[n], sort_keys=True)})

    begins = [{name: {_BEGINS: list(at)} for name, (_, at) in stored.items()} for stored in files]
    first = copied(False)
    return Writing(copy, write)


def load(folder: Path, own: Path, held: Held) -> None:
    """Read what the ranks of any layout wrote, in place. own: the file that this rank would write; where the saving run had one of the
    name, its random generators are this rank's. Raises CheckpointError where a file is damaged or for another model."""
    try:
        numbers = _numbers(folder)
        stored = _stored(folder)
        wanted: dict[str, torch.Tensor] = {MODEL + name: tensor for name, tensor in held.tensors.items()}
        for key, tensor in wanted.items():
            _check(folder, key.removeprefix(MODEL), stored.get(key), tensor)
        states = dict(_states(folder, stored, numbers["optimizer"], held)) if held.optimizer is not None else {}
        for name, state in states.items():
            wanted |= {
                f"{OPTIMIZER}{name}/{k}": _laid(held.tensors[name], v)
                for k, v in state.items()
                if isinstance(v, torch.Tensor)
            }
        _read(folder, wanted)
        if own.is_file():
            with safe_open(own, framework="pt") as opened:
                there = set(opened.keys())
                held.random.update({n: opened.get_tensor(RANDOM + n) for n in held.random if RANDOM + n in there})
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{folder}: cannot be read: {error}") from error
    if held.optimizer is not None:
        held.optimizer.state.clear()
        held.optimizer.state.update({held.shards[name]: state for name, state in states.items()})
    if numbers["scaler"] is not None:  # else of weights that were never trained
        held.scaler.scale, held.scaler.good = numbers["scaler"]["scale"], numbers["scaler"]["good"]


def _numbers(folder: Path) -> dict[str, Any]:
    """The headers' numbers of all ranks: {"scaler": None where there is none, "optimizer": {"NAME/KEY": number}}."""
    every: dict[str, Any] = {"optimizer": {}}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            found = json.loads((opened.metadata() or {}).get("numbers", "null"))
        if found is None:
            raise CheckpointError(f"{file}: is no training state of this engine")
        every["optimizer"] |= found["optimizer"]
        every["scaler"] = every.get("scaler") or found.get("scaler")
    if "scaler" not in every:
        raise CheckpointError(f"{folder}: cannot be read: no file of a training state is there")
    return every


def _stored(folder: Path) -> dict[str, TensorStorageMetadata]:
    found: dict[str, TensorStorageMetadata] = (
        dcp.HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    )
    return found


def _check(folder: Path, name: str, stored: TensorStorageMetadata | None, own: torch.Tensor) -> None:
    if stored is None:
        raise CheckpointError(f"{folder}: has no {name!r}: it is another model's")
    found, mine = tuple(stored.size), sharding.shape(own)
    if found != mine:
        raise CheckpointError(f"{folder}: {name!r} is {found} there, the model's is {mine}: it is another model's")
    if sum(chunk.sizes.numel() for chunk in stored.chunks) < own.numel():
        raise CheckpointError(f"{folder}: a part of {name!r} is missing")


def _states(
    folder: Path, stored: Mapping[str, TensorStorageMetadata], numbers: Mapping[str, Any], held: Held
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(parameter, its optimizer state: empty tensors to read into, and numbers) of this rank's parameters."""
    states: dict[str, dict[str, Any]] = {}
    for key, entry in stored.items():
        if not key.startswith(OPTIMIZER):
            continue
        name, _, what = key.removeprefix(OPTIMIZER).rpartition("/")
        if MODEL + name not in stored:
            raise CheckpointError(f"{folder}: has the optimizer's state of {name!r}: it is another model's")
        if name in held.shards:
            states.setdefault(name, {})[what] = _empty(held.tensors[name], held.shards[name], entry)
    for key, number in numbers.items():
        name, _, what = key.rpartition("/")
        if name in held.shards:
            states.setdefault(name, {})[what] = number
    yield from states.items()


def _empty(tensor: torch.Tensor, shard: torch.Tensor, entry: TensorStorageMetadata) -> torch.Tensor:
    """Moments go where the parameter is, and as much of them; counters (0-d) too where it is on a GPU, as fused kernels want them."""
    kind = entry.properties.dtype
    if len(entry.size) and tuple(entry.size) == sharding.shape(tensor):
        return torch.empty_like(shard, dtype=kind, requires_grad=False)
    place = shard.device if len(entry.size) or shard.device.type == "cuda" else None
    return torch.empty(entry.size, dtype=kind, device=place)


def _laid(tensor: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
    """A state tensor as its parameter is laid out, where it is of its shape."""
    return sharding.alike(tensor, state) if state.dim() and state.shape == sharding.part(tensor).shape else state


def _read(folder: Path, wanted: dict[str, torch.Tensor]) -> None:
    """Fill tensors with their parts. Raises CheckpointError."""
    reader = dcp.HuggingFaceStorageReader(str(folder))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # each rank reads for itself, on purpose
        try:
            dcp.load(wanted, storage_reader=reader, no_dist=True)
        except dcp.CheckpointException as error:
            cause = next(iter(error.failures.values()))[0]
            raise CheckpointError(f"{folder}: cannot be read: {cause}") from error


def weights(folder: Path, names: Iterable[str]) -> Iterator[tuple[str, torch.Tensor]]:
    """Stream (name, whole CPU tensor) of what ranks of any layout wrote of the model. Raises CheckpointError where one is missing."""
    try:
        with contextlib.ExitStack() as stack:
            where: dict[str, list[tuple[Any, list[int] | None]]] = {}
            for file in sorted(folder.glob("*.safetensors")):
                opened = stack.enter_context(safe_open(file, framework="pt"))
                begins = json.loads((opened.metadata() or {}).get(_PARTS, "{}"))
                for key in opened.keys():  # noqa: SIM118 -- no mapping
                    where.setdefault(key, []).append((opened, begins.get(key, {}).get(_BEGINS)))
            stored = _stored(folder)
            for name in names:
                entry = stored.get(MODEL + name)
                if entry is None:
                    raise CheckpointError(f"{folder}: has no {name!r}: it is another model's")
                value = torch.empty(entry.size, dtype=entry.properties.dtype)
                for opened, at in where[MODEL + name]:
                    part = opened.get_tensor(MODEL + name)
                    sharding.within(value, at or [0] * part.dim(), part.shape).copy_(part)
                yield name, value
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{folder}: cannot be read: {error}") from error


def write_weights(items: Iterable[tuple[str, torch.Tensor]], folder: Path, *, file_bytes: int = SHARD_BYTES) -> None:
    """Write a model's weights as a state that was never trained, for any layout to begin from. Streams: one file is held at a time. Raises
    OutputError."""
    held: dict[str, torch.Tensor] = {}
    number = 0

    def flush() -> None:
        header = {
            "numbers": json.dumps({"optimizer": {}}),
            _PARTS: json.dumps({n: {_BEGINS: [0] * t.dim()} for n, t in held.items()}),
        }
        write_tensors(held, folder / f"weights-{number:05d}.safetensors", header)

    for name, tensor in items:
        if held and sum(t.nbytes for t in held.values()) + tensor.nbytes > file_bytes:
            flush()
            held, number = {}, number + 1
        held[MODEL + name] = tensor
    flush()
