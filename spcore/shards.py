"""Features on disk: the token cache's layout.

    FOLDER/
      whole.json                        written last: the shards' names, features and rows in all, and what became of the rows
      lengths.npy, rows.npy             of all features, in order: tokens (uint32), the row each came from (int64)
      shards/000000000000/              a shard, named by its first row; put there whole or not at all
        features.safetensors            of each column NAME: NAME.data (all values end to end), NAME.starts [n + 1], NAME.shapes [n, ndim]
                                        (-1 where a feature lacks the array); and rows, lengths [n]
        shard.json                      rows first <= row < stop, features, columns with their dtypes, counts, bytes and checksum

Integers are held in the narrowest type that holds a shard's, and given back in the task's own. A shard's rows do not depend on how
many processes made it, so a run that was killed goes on from the shards that are whole, and a damaged one alone is made anew. The
tensors are memory-mapped; of the shards `_OPEN` at most are open at a time. A feature's id is its position.
"""

from __future__ import annotations

import json
import logging
import shutil
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from spcore.features import Column, Columns, Counts, FeatureStore
from spcore.files import (
    disk_errors,
    fault,
    put_text,
    read_sealed,
    replace_folder,
    sealed_files,
    sealed_text,
    staged,
    sync_file,
    write_text,
)  # fmt: skip
from spcore.interfaces.task import Feature

FORMAT = 1
_OPEN = 512
"""Shards open at a time: each holds a file descriptor, of which a process often has 1024."""
_TENSORS, _MANIFEST, _WHOLE = "features.safetensors", "shard.json", "whole.json"
_NARROW = (np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32)
_DTYPES = {
    "BOOL": np.bool_, "U8": np.uint8, "I8": np.int8, "U16": np.uint16, "I16": np.int16, "U32": np.uint32, "I32": np.int32,
    "U64": np.uint64, "I64": np.int64, "F16": np.float16, "F32": np.float32, "F64": np.float64,
}  # fmt: skip
log = logging.getLogger("slimpajama.features")


@dataclass(frozen=True)
class Shard:
    """A shard that is whole: rows first <= row < stop."""

    folder: Path
    first: int
    stop: int
    features: int
    columns: Mapping[str, str]
    counts: Mapping[str, Any]


def write_shard(folder: Path, first: int, stop: int, features: Sequence[Feature], counts: Counts) -> None:
    """Write the features of rows first <= row < stop. counts: of these rows. Raises OutputError."""
    from safetensors.numpy import save_file

    columns = Columns.of([f.arrays for f in features]).named
    tensors: dict[str, np.ndarray] = {
        "rows": np.array([f.row_id for f in features], np.int64),
        "lengths": np.array([f.length for f in features], np.uint32),
    }
    for name, column in columns.items():
        tensors |= {f"{name}.data": column.data, f"{name}.starts": column.starts, f"{name}.shapes": column.shapes}
    target = _place(folder, first)
    with staged(target) as work:
        with disk_errors(work / _TENSORS):
            save_file({name: _narrow(array) for name, array in tensors.items()}, work / _TENSORS)
        (entry,) = sealed_files(work, "xxh3_128").values()
        facts = {
            "format": FORMAT, "first": first, "stop": stop, "features": len(features), "file": entry,
            "written_ns": (work / _TENSORS).stat().st_mtime_ns, "columns": {n: c.dtype.str for n, c in columns.items()},
            "counts": vars(counts),
        }  # fmt: skip
        put_text(work / _MANIFEST, sealed_text(facts))
        sealed_files(work, "xxh3_128")
        replace_folder(work, target)


def _place(folder: Path, first: int) -> Path:
    return folder / "shards" / f"{first:012}"


def _narrow(array: np.ndarray) -> np.ndarray:
    """The array in the narrowest type that holds its numbers; other than integers as they are."""
    if array.dtype.kind not in "iu" or not array.size:
        return np.ascontiguousarray(array)
    low, high = int(array.min()), int(array.max())
    fits = (t for t in _NARROW if np.iinfo(t).min <= low and high <= np.iinfo(t).max)
    narrow = np.dtype(next(fits, array.dtype))
    return np.ascontiguousarray(array, narrow if narrow.itemsize < array.itemsize else array.dtype)


def whole_shards(folder: Path) -> list[Shard]:
    """Shards that are whole, in row order; what is damaged, or does not go with one before it, is deleted and told."""
    found: list[Shard] = []
    with disk_errors(folder):
        for path in sorted((folder / "shards").glob("[0-9]*")):
            try:
                shard = _read_shard(path)
                if found and shard.first < found[-1].stop:
                    raise ValueError("its rows are another's too")
            except (OSError, ValueError, KeyError, TypeError) as error:
                log.warning("%s: damaged, made anew: %s", path, error)
                shutil.rmtree(path)
            else:
                found.append(shard)
    return found


def _read_shard(path: Path) -> Shard:
    """Raises OSError, ValueError, KeyError for what is not a whole shard of this format."""
    facts = read_sealed(path / _MANIFEST)
    if facts["format"] != FORMAT:
        raise ValueError(f"format {facts['format']}, expected {FORMAT}")
    tensors = path / _TENSORS
    # Reading a large cache whole costs minutes: content is checked where the file was touched since.
    touched = not tensors.is_file() or tensors.stat().st_mtime_ns != facts["written_ns"]
    if wrong := fault(tensors, facts["file"], read=touched):
        raise ValueError(wrong)
    return Shard(path, facts["first"], facts["stop"], facts["features"], facts["columns"], facts["counts"])


def finish(folder: Path, shards: Sequence[Shard], counts: Counts) -> None:
    """Write what makes a folder of shards whole. counts: without the shards' own. Raises OutputError."""
    for shard in shards:
        counts.add(Counts(**shard.counts))
    for name, kind in (("rows", np.int64), ("lengths", np.uint32)):
        _write_joined(folder / f"{name}.npy", (_open(shard.folder)[name] for shard in shards), counts.features, kind)
    content = {"format": FORMAT, "shards": [shard.folder.name for shard in shards], "counts": vars(counts)}
    write_text(folder / _WHOLE, sealed_text(content))


def _write_joined(path: Path, parts: Iterator[np.ndarray], count: int, kind: Any) -> None:
    """A .npy file of arrays end to end, without holding them all."""
    header = {"descr": np.dtype(kind).str, "fortran_order": False, "shape": (count,)}
    with disk_errors(path), path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for part in parts:
            file.write(np.ascontiguousarray(part, kind).tobytes())
    sync_file(path)


def load(folder: Path) -> FeatureStore | None:
    """The features of a folder that `finish` has made whole, memory-mapped; None where it is not, or a shard is damaged, which is
    deleted."""
    try:
        content = read_sealed(folder / _WHOLE)
        names, counts = content["shards"], Counts(**content["counts"])
        rows, lengths = (np.load(folder / f"{n}.npy", mmap_mode="r", allow_pickle=False) for n in ("rows", "lengths"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        log.warning("%s: damaged, made anew: %s", folder / _WHOLE, error)
        return None
    shards = whole_shards(folder)
    if [shard.folder.name for shard in shards] != names or not len(rows) == len(lengths) == counts.features:
        return None
    return FeatureStore(np.asarray(rows), np.asarray(lengths), _Shards(shards), counts)


class _Shards:
    """Arrays of features by position over shards, opened as they are asked for."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        self._shards = list(shards)
        self._starts = list(accumulate((shard.features for shard in shards), initial=0))
        self._opened = lru_cache(_OPEN)(self._columns)

    def arrays(self, i: int) -> dict[str, np.ndarray]:
        """See `Arrays.arrays`."""
        n = bisect_right(self._starts, i) - 1
        return self._opened(n).arrays(i - self._starts[n])

    def _columns(self, n: int) -> Columns:
        shard = self._shards[n]
        tensors, named = _open(shard.folder), {}
        for name, dtype in shard.columns.items():
            data, starts, shapes = (tensors[f"{name}.{part}"] for part in ("data", "starts", "shapes"))
            named[name] = Column(data, starts, shapes, np.dtype(dtype))
        return Columns(named)


def _open(folder: Path) -> dict[str, np.ndarray]:
    """Tensors of a shard, memory-mapped and read-only: the header of a safetensors file is JSON after its length in 8 bytes."""
    whole = np.asarray(np.memmap(folder / _TENSORS, np.uint8, "r"))
    size = int.from_bytes(whole[:8].tobytes(), "little")
    header = json.loads(whole[8 : 8 + size].tobytes())
    header.pop("__metadata__", None)
    found = {}
    for name, entry in header.items():
        first, end = (8 + size + at for at in entry["data_offsets"])
        found[name] = whole[first:end].view(_DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return found
