"""Training on features that come one after another and have no number: a source without a length, or a mixture of sources.

A `Feed` gives the features and says where it stands; `StreamLoader` makes steps of them. A position is small and whole: rows taken of
each logical shard, features read and not used yet, counts. It is kept in checkpoints, so that a run goes on where it was without
reading what comes before.
"""

from __future__ import annotations

import copy
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from spcore.errors import CheckpointError, DataError, UserError
from spcore.features import Counts, FeatureStore, numbered
from spcore.files import disk_errors, put_text
from spcore.interfaces.dataset import Row
from spcore.interfaces.strategy import Place
from spcore.interfaces.task import BoundTask, Feature
from spcore.loading import Collator, Cut, Group, StepData, ahead, generator, step_data
from spcore.rows import RoleSource

SHARDS = 16
"""Logical shards of a stream: fixed, so that a position holds at every world size."""
_DRAWS = 1024
_FILE, _FEATURES = "position.json", "position.arrow"
_OPEN = 32
"""Packs that a feature may go into, as `packed` has it."""
_NUMBERS = ("id", "row_id", "length")


class Feed(ABC):
    """Features one after another, without end. epoch: passes begun, from 0; the address of what is drawn for a feature.

    What a state says is JSON; the features that belong to it (read, not given yet) are beside it. A state is a copy: reading on does
    not change it.
    """

    epoch: int = 0

    @abstractmethod
    def next(self) -> Feature | None:
        """The next feature; None: a pass is over, and the next call begins another. Raises DataError where a pass gives none."""

    @abstractmethod
    def state(self) -> tuple[dict[str, Any], list[Feature]]:
        """Where it stands."""

    @abstractmethod
    def restore(self, state: dict[str, Any], features: list[Feature]) -> None:
        """Stand where `state` was taken, of a feed of the same data, task and settings."""

    @abstractmethod
    def report(self, state: dict[str, Any]) -> dict[str, Any]:
        """What report.json says of the rows up to a state."""

    @abstractmethod
    def remarks(self, state: dict[str, Any]) -> list[str]:
        """Lines for the user about what was dropped or cut up to a state."""


class StreamFeed(Feed):
    """The features of a source without a length. Its rows are dealt from `SHARDS` logical shards, in turn, whatever the world size.

    limit: longest feature allowed. buffer: features that are shuffled among each other, 0 for none: each that comes takes the place of
    one drawn from (seed, epoch, its number), which is given.
    """

    def __init__(self, source: RoleSource, task: BoundTask, *, seed: int, limit: int | None, buffer: int = 0) -> None:
        self.source, self.task, self.seed, self.limit, self.size = source, task, seed, limit, buffer
        self._shards: dict[int, Iterator[Row]] = {}
        self._draws: tuple[tuple[int, int], np.ndarray] | None = None
        self._at: dict[str, Any] = {}
        self.counts = Counts()
        self.restore({"epoch": 0, "counts": vars(Counts()), **_BEGINNING}, [])

    def state(self) -> tuple[dict[str, Any], list[Feature]]:
        """See `Feed.state`. rows: taken of each shard; ended: shards that gave all; turn: the shard whose turn it is; given: features
        of this pass; waiting: those of the features that a row gave beyond the one that was given."""
        counts = copy.deepcopy(vars(self.counts))
        state = {**copy.deepcopy(self._at), "epoch": self.epoch, "counts": counts, "waiting": len(self._waiting)}
        return state, [*self._waiting, *self._buffer]

    def restore(self, state: dict[str, Any], features: list[Feature]) -> None:
        """See `Feed.restore`."""
        self.epoch, self.counts = state["epoch"], Counts(**copy.deepcopy(state["counts"]))
        self._at = {name: copy.deepcopy(state[name]) for name in _BEGINNING}
        waiting = state.get("waiting", 0)
        self._waiting, self._buffer = list(features[:waiting]), list(features[waiting:])
        self._shards = {}

    def report(self, state: dict[str, Any]) -> dict[str, Any]:
        """See `Feed.report`."""
        return {**Counts(**state["counts"]).to_json(), "passes": state["epoch"]}

    def remarks(self, state: dict[str, Any]) -> list[str]:
        """See `Feed.remarks`."""
        return Counts(**state["counts"]).remarks()

    def next(self) -> Feature | None:
        """See `Feed.next`."""
        while (feature := self._read()) is not None:
            if not self.size:
                return self._give(feature)
            if len(self._buffer) < self.size:
                self._buffer.append(feature)
                continue
            at = self._drawn()
            self._buffer[at], feature = feature, self._buffer[at]
            return self._give(feature)
        if self._buffer:
            at = self._drawn()
            self._buffer[at], self._buffer[-1] = self._buffer[-1], self._buffer[at]
            return self._give(self._buffer.pop())
        if not self._at["given"]:
            said = "; ".join(self.counts.remarks()) or "it has no rows"
            raise DataError(f"no usable row in the stream: {said}")
        self.epoch += 1
        self._at = copy.deepcopy(_BEGINNING)
        self._shards = {}
        return None

    def _give(self, feature: Feature) -> Feature:
        self._at["given"] += 1
        return feature

    def _drawn(self) -> int:
        """A place in the buffer, drawn for the feature that is given next."""
        block, at = divmod(self._at["given"], _DRAWS)
        if self._draws is None or self._draws[0] != (self.epoch, block):
            drawn = generator(self.seed, self.epoch, "buffer", block).random(_DRAWS)
            self._draws = (self.epoch, block), drawn
        return int(self._draws[1][at] * len(self._buffer))

    def _read(self) -> Feature | None:
        """The next feature as rows come; None where the pass has no more."""
        while not self._waiting:
            number = sum(self._at["rows"])
            row = self._row()
            if row is None:
                return None
            self._waiting = numbered(row, number, self.task, self.counts, self.limit)
        return self._waiting.pop(0)

    def _row(self) -> Row | None:
        """The next row: of each shard in turn, of those that have one."""
        at = self._at
        while len(at["ended"]) < SHARDS:
            shard = at["turn"]
            at["turn"] = (shard + 1) % SHARDS
            if shard in at["ended"]:
                continue
            row = self._taken(shard)
            if row is not None:
                at["rows"][shard] += 1
                return row
            at["ended"].append(shard)
        return None

    def _taken(self, shard: int) -> Row | None:
        """The next row of a shard. Raises DataError that says where reading failed."""
        done = self._at["rows"][shard]
        try:
            if shard not in self._shards:
                self._shards[shard] = self.source.stream(shard, SHARDS, done)
            return next(self._shards[shard], None)
        except (UserError, OSError, ValueError, EOFError) as error:
            said = error.message if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            where = f"row {sum(self._at['rows'])} of the stream (pass {self.epoch + 1}, shard {shard}, its row {done})"
            hint = "Mend it and start again: a run goes on from its last checkpoint (train.save_every)"
            raise DataError(f"{where} cannot be read: {said}", hint=hint) from error


_BEGINNING: dict[str, Any] = {"rows": [0] * SHARDS, "ended": [], "turn": 0, "given": 0}
"""Where a pass begins."""


@dataclass(frozen=True)
class Position:
    """Where training stands after `step` steps. state: of the feed; held: features that are in no step yet, in the order they came,
    then those of the feed's state. ending: the pass is over, and they make its last steps."""

    step: int
    state: dict[str, Any]
    held: int = 0
    ending: bool = False
    features: list[Feature] = field(default_factory=list)

    def save(self, folder: Path) -> None:
        """Write into a checkpoint's folder. Raises OutputError."""
        said = {"step": self.step, "state": self.state, "held": self.held, "ending": self.ending}
        with disk_errors(folder):
            _write_features(self.features, folder / _FEATURES)
        put_text(folder / _FILE, json.dumps(said))

    @classmethod
    def load(cls, folder: Path) -> Position | None:
        """Read what `save` wrote; None where there is none. Raises CheckpointError."""
        if not (folder / _FILE).is_file():
            return None
        try:
            said = json.loads((folder / _FILE).read_text())
            return cls(**said, features=_read_features(folder / _FEATURES))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise CheckpointError(f"{folder / _FILE}: cannot be read: {error}") from error


def _write_features(features: list[Feature], file: Path) -> None:
    """Write features as an Arrow file: id, row_id, length, and of each array its values and its shape."""
    import pyarrow as pa
    from pyarrow import feather

    columns: dict[str, Any] = {name: [getattr(f, name) for f in features] for name in _NUMBERS}
    for name in dict.fromkeys(name for feature in features for name in feature.arrays):
        arrays = [f.arrays.get(name) for f in features]
        kind = np.result_type(*(array for array in arrays if array is not None))
        flat = [None if array is None else np.asarray(array, kind).ravel() for array in arrays]
        columns[f"{name}.values"] = pa.array(flat, pa.list_(pa.from_numpy_dtype(kind)))
        columns[f"{name}.shape"] = pa.array(
            [None if a is None else list(np.shape(a)) for a in arrays], pa.list_(pa.int64())
        )
    feather.write_feather(pa.table(columns), str(file), compression="zstd")


def _read_features(file: Path) -> list[Feature]:
    """Read what `_write_features` wrote. Raises ValueError, OSError."""
    from pyarrow import feather

    table = feather.read_table(str(file), memory_map=False).combine_chunks()
    named = [name.removesuffix(".values") for name in table.column_names if name.endswith(".values")]
    numbers = zip(*(table[name].to_pylist() for name in _NUMBERS), strict=True)
    features = [Feature(id_, row_id, {}, length) for id_, row_id, length in numbers]
    for name in named:
        for feature, values, shape in zip(features, table[f"{name}.values"], table[f"{name}.shape"], strict=True):
            if values.is_valid:
                array = values.values.to_numpy(zero_copy_only=False)
                feature.arrays[name] = np.array(array).reshape(shape.as_py())
    return features


class _Packs:
    """What `spcore.loading.packed` gives, as features come: packs are taken from the front once they are closed. The others stay as they
    are without them: what they hold had no room in those before, and the open ones are counted from the end."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.done: list[list[int]] = []
        self._room: list[int] = []

    def add(self, key: int, length: int) -> None:
        """Put a feature of `length` tokens into a pack."""
        for at in range(max(0, len(self.done) - _OPEN), len(self.done)):
            if self._room[at] >= length:
                self.done[at].append(key)
                self._room[at] -= length
                return
        self.done.append([key])
        self._room.append(self.limit - length)

    def closed(self) -> int:
        """Packs that take nothing more."""
        return max(0, len(self.done) - _OPEN)

    def take(self, count: int) -> list[Group]:
        """The first packs, which are there no longer."""
        taken = [tuple(pack) for pack in self.done[:count]]
        del self.done[:count], self._room[:count]
        return taken


class _Held:
    """Features that are in no step yet, as groups: each alone, or in packs."""

    def __init__(self, pack: int | None, size: int) -> None:
        self.size = size
        self.features: dict[int, Feature] = {}
        self._packs = _Packs(pack) if pack is not None else None
        self._next = 0

    def add(self, feature: Feature) -> None:
        """Take one in."""
        self.features[self._next] = feature
        if self._packs is not None:
            self._packs.add(self._next, feature.length)
        self._next += 1

    def full(self) -> bool:
        """Whether a whole global batch can be taken."""
        return (self._packs.closed() if self._packs is not None else len(self.features)) >= self.size

    def take(self) -> tuple[list[Feature], list[Group]]:
        """The features of the next global batch, and its groups by their place in that list."""
        if self._packs is not None:
            groups = self._packs.take(self.size)
        else:
            groups = [(key,) for key in list(self.features)[: self.size]]
        place = {key: n for n, key in enumerate(sorted(key for group in groups for key in group))}
        return [self.features.pop(key) for key in place], [tuple(place[key] for key in group) for group in groups]


class StreamLoader:
    """The steps of a run over a feed. position: after the last step that was trained; the trainer sets it from `StepData.place`, as what
    is read ahead counts for nothing."""

    def __init__(
        self,
        feed: Feed,
        task: BoundTask,
        *,
        place: Place,
        how: Cut,
        global_batch_size: int,
        seed: int,
        pack: int | None,
        workers: int = 0,
    ) -> None:
        self.feed, self.task, self.place, self.how = feed, task, place, how
        self.global_batch_size, self.seed, self.pack, self.workers = global_batch_size, seed, pack, workers
        state, features = feed.state()
        self._beginning = self.position = Position(0, state, features=features)

    def steps(self, start: int, stop: int) -> Iterator[StepData]:
        """Steps start <= step < stop, read on from `position`; where that is after `start`, from the beginning. Raises DataError where
        a pass gives no usable row."""
        return ahead(self._jobs(start, stop), self.workers)

    def report(self) -> dict[str, Any]:
        """For report.json: of the rows up to `position`."""
        return self.feed.report(self.position.state)

    def remarks(self) -> list[str]:
        """Lines for the user, as `report`."""
        return self.feed.remarks(self.position.state)

    def _jobs(self, start: int, stop: int) -> Iterator[Callable[[], StepData]]:
        begin = self.position if self.position.step <= start else self._beginning
        held, step, ending = _Held(self.pack, self.global_batch_size), begin.step, begin.ending
        for feature in begin.features[: begin.held]:
            held.add(feature)
        self.feed.restore(begin.state, begin.features[begin.held :])
        while step < stop:
            while step < stop and (held.full() or (ending and held.features)):
                features, groups = held.take()
                step += 1
                if step > start:
                    state, more = self.feed.state()
                    rest = list(held.features.values())
                    at = Position(step, state, len(rest), ending and bool(rest), [*rest, *more])
                    yield partial(self._step, features, groups, self.feed.epoch - ending, at)
            if step < stop:
                made = self.feed.next()
                ending = made is None
                if made is not None:
                    held.add(made)

    def _step(self, features: list[Feature], groups: list[Group], epoch: int, at: Position) -> StepData:
        collator = Collator(FeatureStore.of(features), self.task, self.how.rule, self.seed)
        return replace(step_data(collator, groups, self.how, self.place.data_rank, epoch, float(epoch)), place=at)
