"""A data set's rows made into features once: in this process where they are few, else in as many processes as there are cores, into
the token cache, which later runs and the other processes of this one read.

Whatever the data set's size, memory holds one shard's features, and the rows that the processes have at hand.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from spcore.bars import progress
from spcore.cores import cores
from spcore.errors import OutputError
from spcore.features import Counts, FeatureStore, Outcome, cache_folder, counted, numbered, outcome
from spcore.files import alone, make_folder
from spcore.interfaces.dataset import Row, Source
from spcore.interfaces.task import BoundTask, Feature
from spcore.shards import finish, load, whole_shards, write_shard
from spcore.working import Workers

CACHE_FROM_ROWS = 50_000
CACHE_FROM_BYTES = 64 << 20
"""Smaller sources are featurised anew each time, in memory: that is faster than looking."""
SHARD_BYTES = 64 << 20
"""Of the features of a shard, as they lie in memory before they are written."""
ALONE_SECONDS, WORTH_SECONDS = 2.0, 8.0
"""How long this process works before it looks, and how much must then be left for others to be started: they take seconds to come."""
_CHUNK_ROWS, _CHUNK_BYTES = 1024, 1 << 20
_FEATURE_BYTES = 500
"""What a feature takes beside its numbers, about."""
log = logging.getLogger("slimpajama.features")


def featurize(source: Source, task: BoundTask, *, limit: int | None, key: str | None = None) -> FeatureStore:
    """All features of a map-style source, numbered in row order. A row for which the task raises DataError is dropped and
    counted. limit: longest feature allowed (an assertion on tasks). key: of the cache, None for none.

    Called by `spcore.session` in every process of a run; where a cache is used, the first to come makes it and the others wait.
    Raises OutputError where a cache that memory cannot stand in for cannot be written.
    """
    assert source.length is not None, "streamed sources are read by `spcore.streaming`"
    if not key or (source.length < CACHE_FROM_ROWS and (source.size or 0) < CACHE_FROM_BYTES):
        return _in_memory(source, task, limit)
    folder = cache_folder() / "features" / key
    try:
        make_folder(folder)
        with alone(folder):
            return _cached(folder, source, task, limit)
    except OutputError as error:
        if (source.size or 0) >= CACHE_FROM_BYTES:
            hint = "Make room, or say where the cache may lie: SLIMPAJAMA_CACHE=FOLDER. What is made is kept"
            raise OutputError(error.message, hint=hint) from error
        log.warning("features are not cached: %s", error)
    return _in_memory(source, task, limit)


def _counts(source: Source) -> Counts:
    """Nothing counted yet but what the reader of the files dropped."""
    dropped = source.report.dropped
    return Counts(reader={why: {"rows": len(at), "first_lines": list(at[:5])} for why, at in dropped.items()})


def _in_memory(source: Source, task: BoundTask, limit: int | None) -> FeatureStore:
    counts, features = _counts(source), []
    for first, rows in _chunks(source, range(source.length or 0)):
        for row_id, row in enumerate(rows, first):
            features.extend(numbered(row, row_id, task, counts, limit, source))
    return FeatureStore.of(features, counts)


def _cached(folder: Path, source: Source, task: BoundTask, limit: int | None) -> FeatureStore:
    store = load(folder)
    if store is not None:
        return store
    assert source.length is not None, "the caller looked"
    at, held = 0, whole_shards(folder)
    if held:
        log.info("%s: %d shards are there; the rest is made", folder, len(held))
    with progress("tokenising", source.length) as done:
        for first, stop in [*((shard.first, shard.stop) for shard in held), (source.length, source.length)]:
            _fill(folder, source, task, range(at, first), limit, done)
            at = stop
    finish(folder, whole_shards(folder), _counts(source))
    store = load(folder)
    if store is None:
        raise OutputError(f"{folder}: what was just written there is not whole: another process, or a failing disk")
    return store


def _fill(
    folder: Path, source: Source, task: BoundTask, rows: range, limit: int | None, done: Callable[[int], None]
) -> None:
    """Write the shards of rows of which none is there."""
    counts, features, size, began = Counts(), list[Feature](), 0, rows.start
    with closing(_outcomes(source, task, rows)) as found:  # so that processes are gone before anything else happens
        for first, outcomes in found:
            for row_id, made in enumerate(outcomes, first):
                new = counted(made, row_id, counts, limit, source)
                features += new
                size += sum(_FEATURE_BYTES + sum(a.nbytes for a in f.arrays.values()) for f in new)
                if size >= SHARD_BYTES or row_id + 1 == rows.stop:
                    write_shard(folder, began, row_id + 1, features, counts)
                    counts, features, size, began = Counts(), [], 0, row_id + 1
            done(first + len(outcomes))


def _outcomes(source: Source, task: BoundTask, rows: range) -> Generator[tuple[int, list[Outcome]], None, None]:
    """What the task makes of rows, in order, by chunks with their first row: made here, and by other processes once it shows that
    much is left."""
    began, chunks = time.monotonic(), _chunks(source, rows)
    for first, chunk in chunks:
        yield first, [outcome(row, task) for row in chunk]
        spent, read = time.monotonic() - began, first + len(chunk) - rows.start
        if spent > ALONE_SECONDS and spent / read * (len(rows) - read) > WORTH_SECONDS:
            break
    else:
        return
    with contextlib.ExitStack() as stack:
        workers = Workers.start(task, cores(), stack)
        if workers is None:
            yield from ((first, [outcome(row, task) for row in chunk]) for first, chunk in chunks)
            return
        yield from workers.outcomes(chunks)


def _chunks(source: Source, rows: range) -> Iterator[tuple[int, list[Row]]]:
    """Rows with the first one's number, as many at a time as are about `_CHUNK_BYTES`."""
    at, count = rows.start, 16
    while at < rows.stop:
        chunk = source.read(range(at, min(at + count, rows.stop)))
        yield at, chunk
        at += len(chunk)
        fits = len(chunk) * _CHUNK_BYTES // max(1, sum(map(_weight, chunk)))
        count = max(1, min(_CHUNK_ROWS, 4 * count, fits))


def _weight(row: Row) -> int:
    return sum(len(value) if isinstance(value, str) else _weight_of(value) for value in row.values())


def _weight_of(value: Any) -> int:
    """Characters of what is no text, about."""
    if isinstance(value, list):
        return sum(_weight_of(v) for v in value)
    return len(value) if isinstance(value, str) else _weight(value) if isinstance(value, dict) else 8
