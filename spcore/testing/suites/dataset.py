"""Kind `dataset`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from spcore.errors import SourceError, UserError
from spcore.interfaces.dataset import Column, Dataset, ReadReport, Row, Schema, Source
from spcore.testing.checks import CannotCheck, Check, DoesNotApply, Where, Wrong, check, run_checks, shown
from spcore.testing.contracts import against
from spcore.testing.report import Report

_KINDS = ("text", "integer", "number", "boolean", "list", "object")
_MOST = 200


class DatasetCase:
    """A data set under test. source: its split, once `dataset.opens` has opened it."""

    source: Source

    def __init__(self, dataset: Any, split: str | None) -> None:
        self.dataset, self.split = dataset, split

    def rows(self) -> list[Row]:
        """The first rows."""
        if self.source.length is None:
            return list(islice(self.source.stream(0, 1, 0), _MOST))
        return self.source.read(range(min(self.source.length, _MOST)))


@check("dataset.contract", "it has the members of Dataset", gate=True)
def dataset_contract(case: DatasetCase) -> Iterator[Wrong]:
    """Subclass or not."""
    yield from against(case.dataset, Dataset, "data set")


@check("dataset.opens", "a split opens and has a schema, a fingerprint and a length or None", gate=True)
def dataset_opens(case: DatasetCase) -> Iterator[Wrong]:
    """A data set that says itself what it lacks is not checked further."""
    try:
        source = case.dataset.open(case.split)
    except UserError as error:
        raise CannotCheck(f"it does not open with these options: {error}") from error
    yield from against(source, Source, "source")
    case.source = source
    if not isinstance(source.schema, Schema) or not source.schema.columns:
        yield Wrong(f"schema {shown(source.schema)}", "a Schema with columns")
        return
    for name, column in source.schema.columns.items():
        if not isinstance(column, Column) or column.kind not in _KINDS:
            yield Wrong(f"column {name!r} {shown(column)}", f"a Column of kind {', '.join(_KINDS)}")
    if not isinstance(source.fingerprint, str) or not source.fingerprint:
        yield Wrong(f"fingerprint {shown(source.fingerprint)}", "a text")
    if source.length is not None and (not isinstance(source.length, int) or source.length < 0):
        yield Wrong(f"length {shown(source.length)}", "a number of rows, None for a stream")
    if not isinstance(source.report, ReadReport):
        yield Wrong(f"report {shown(source.report)}", "a ReadReport")


@check("dataset.fingerprint", "the fingerprint is the same when the split is opened again")
def dataset_fingerprint(case: DatasetCase) -> Iterator[Wrong]:
    """It is a part of the token cache's key."""
    again = case.dataset.open(case.split).fingerprint
    if again != case.source.fingerprint:
        yield Wrong(f"{case.source.fingerprint!r}, then {again!r}", "one fingerprint for one content")


@check("dataset.unknown-split", "an unknown split is a SourceError of one line that names those there are")
def dataset_unknown_split(case: DatasetCase) -> Iterator[Wrong]:
    """A name that nobody uses."""
    try:
        case.dataset.open("no-such-split")
    except SourceError as error:
        if "no-such-split" not in str(error) or "\n" in str(error):
            yield Wrong(f"the message {shown(str(error))}", "one line with the name and the splits there are")
        return
    except Exception as error:  # whatever it is, it is not what was promised
        yield Wrong(f"{type(error).__name__}: {error}", "a SourceError")
        return
    yield Wrong("split 'no-such-split' opened", "a SourceError")


@check(
    "dataset.read",
    "rows come by position, in the order asked for, with the schema's columns, in plain types",
    gate=True,
)
def dataset_read(case: DatasetCase) -> Iterator[Wrong]:
    """Of the first rows."""
    source, rows = case.source, case.rows()
    if source.length is not None:
        if len(rows) != min(source.length, _MOST):
            yield Wrong(f"{len(rows)} rows for {min(source.length, _MOST)} ids", "a row for each id")
            return
        ids: Sequence[int] = list(range(len(rows)))[::-1]
        if not _same(source.read(ids), rows[::-1]):
            yield Wrong(f"read({shown(list(ids))}) gives other rows than reading forwards", "rows in the order of ids")
        if source.read([]):
            yield Wrong("rows for no ids", "none")
    for n, row in enumerate(rows):
        if set(row) != set(source.schema.columns):
            yield Wrong(f"row {n} with {sorted(row)}", f"the schema's columns: {', '.join(source.schema.columns)}")
            return
        for name, value in row.items():
            if not _plain(value):
                yield Wrong(
                    f"row {n}, column {name!r}: {type(value).__name__}", "str, int, float, bool, None, list or dict"
                )
                return


def _plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_plain, value))
    if isinstance(value, Mapping):
        return type(value) is dict and all(isinstance(k, str) and _plain(v) for k, v in value.items())
    return type(value) in (str, int, float, bool, type(None))


def _same(a: Any, b: Any) -> bool:
    """Equality in which NaN equals NaN."""
    return json.dumps(a, default=str) == json.dumps(b, default=str)


@check("dataset.labels", "the rows of a column with labels hold their ids or names")
def dataset_labels(case: DatasetCase) -> Iterator[Wrong]:
    """Missing ones are None, NaN or -1."""
    labelled = {n: c.labels for n, c in case.source.schema.columns.items() if c.labels is not None}
    if not labelled:
        raise DoesNotApply
    for n, row in enumerate(case.rows()):
        for name, labels in labelled.items():
            values = row[name] if isinstance(row[name], list) else [row[name]]
            for value in values:
                missing = value is None or value == -1 or (isinstance(value, float) and math.isnan(value))
                known = str(value) in labels or (isinstance(value, int) and 0 <= value < len(labels))
                if not (missing or known):
                    yield Wrong(
                        f"row {n}, column {name!r}: {shown(value)}",
                        f"an id below {len(labels)} or one of {shown(labels)}",
                    )
                    return


@check("dataset.stream", "the shards of a stream give each row once, and skipping leaves out the first ones")
def dataset_stream(case: DatasetCase) -> Iterator[Wrong]:
    """Sources without a length; of a long stream the first rows."""
    source = case.source
    if source.length is not None:
        raise DoesNotApply
    whole = list(islice(source.stream(0, 1, 0), _MOST + 1))
    if len(whole) > _MOST:
        raise CannotCheck(f"the stream is longer than {_MOST} rows")
    shards = [list(source.stream(shard, 3, 0)) for shard in range(3)]
    dumped = sorted(json.dumps(row, default=str) for shard in shards for row in shard)
    if dumped != sorted(json.dumps(row, default=str) for row in whole):
        yield Wrong(f"{len(dumped)} rows from three shards, {len(whole)} from one", "each row once")
    for shard, rows in enumerate(shards):
        if not _same(list(source.stream(shard, 3, 2)), rows[2:]):
            yield Wrong(f"other rows from shard {shard} with skip=2", "the shard without its first two rows")


CHECKS: tuple[Check, ...] = (
    dataset_contract, dataset_opens, dataset_fingerprint, dataset_unknown_split, dataset_read, dataset_labels, dataset_stream,
)  # fmt: skip


def check_dataset(dataset: Any, *, split: str | None = None, where: Where = Where()) -> Report:  # noqa: B008 -- frozen
    """Check a data set, made with the options it needs. split: that is opened."""
    return run_checks(CHECKS, DatasetCase(dataset, split), where)
