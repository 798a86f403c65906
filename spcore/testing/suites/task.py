"""Kind `task`. A task is bound to `FakeProcessor` and to rows made up from its roles; outputs are numbers that depend on the
tokens alone, so that a batch can be cut, padded and packed in every way and must still mean the same.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

from spcore.errors import DataError, RefusalError
from spcore.interfaces.dataset import Row, Schema
from spcore.interfaces.model import Head
from spcore.interfaces.task import BoundTask, Feature, Limits, Prompts, Role, Task
from spcore.testing.checks import CannotCheck, Check, DoesNotApply, Where, Wrong, check, run_checks, shown
from spcore.testing.contracts import against
from spcore.testing.report import Report
from spcore.testing.suites.task_abilities import task_annotates, task_custom_head, task_prompts, task_whole_batch
from spcore.testing.suites.task_batches import BATCH_CHECKS, task_collate
from spcore.testing.suites.task_case import TaskCase, differing, same_arrays

_AXES = ("sequence", "position", "label", "vocabulary", "hidden")


@check("task.contract", "it has the members of Task, and its roles are Roles with names of their own", gate=True)
def task_contract(case: TaskCase) -> Iterator[Wrong]:
    """Subclass or not."""
    yield from against(case.task, Task, "task")
    roles = getattr(case.task, "roles", ())
    if not all(isinstance(role, Role) for role in roles):
        yield Wrong(f"roles {shown(roles)}", "a tuple of Role")
        return
    names = [role.name for role in roles]
    if not names or len(set(names)) != len(names):
        yield Wrong(f"roles named {names}", "one role at least, each with a name of its own")


@check("task.bind", "it binds to a schema of its roles, and features come of the rows", gate=True)
def task_bind(case: TaskCase) -> Iterator[Wrong]:
    """To the first made-up rows that it takes, or to those given."""
    case.prepare()
    yield from against(case.bound, BoundTask, "bound task")


@check("task.head", "head and terms are as the contract says", gate=True)
def task_head(case: TaskCase) -> Iterator[Wrong]:
    """Axes by their names; terms a tuple of names."""
    head, terms = case.bound.head, case.bound.terms
    if not isinstance(terms, tuple) or not terms or len(set(terms)) != len(terms):
        yield Wrong(f"terms {shown(terms)}", "a tuple of the loss terms' names, each once")
    if not isinstance(head, Head):
        yield Wrong(f"head {shown(head)}", "a Head")
        return
    for name, axes in head.outputs.items():
        if not set(axes) <= set(_AXES) or not axes or axes[0] != "sequence":
            yield Wrong(f"output {name!r} with axes {axes}", f"axes of {', '.join(_AXES)}, 'sequence' first")
    if not head.outputs:
        yield Wrong("a head without outputs", "the names and axes of what forward returns")
    if head.labels and head.size != len(head.labels):
        yield Wrong(f"size {head.size} and {len(head.labels)} labels", "as many labels as the last axis is wide")


@check("task.featurize", "a row gives features of the promised form, the same each time, and stays as it is", gate=True)
def task_featurize(case: TaskCase) -> Iterator[Wrong]:
    """ids 0, arrays of numpy, length that of the tokens."""
    for row in case.rows:
        before = json.dumps(row, default=str)
        first, second = case.bound.featurize(row), case.bound.featurize(row)
        if json.dumps(row, default=str) != before:
            yield Wrong("a row that featurize changed", "the row as it was")
        if not first:
            yield Wrong(f"no feature for row {shown(row)}", "features, or a DataError that says why there is none")
        if not all(same_arrays(a.arrays, b.arrays) for a, b in zip(first, second, strict=True)):
            yield Wrong("other features for the same row", "the same ones each time")
        for feature in first:
            yield from _feature(feature, case)


def _feature(feature: Feature, case: TaskCase) -> Iterator[Wrong]:
    import numpy as np

    if (feature.id, feature.row_id, feature.filler) != (0, 0, False):
        yield Wrong(
            f"id {feature.id}, row_id {feature.row_id}, filler {feature.filler}",
            "0, 0 and False: the core numbers features",
        )
    if not all(isinstance(a, np.ndarray) for a in feature.arrays.values()):
        yield Wrong(f"arrays {shown(feature.arrays)}", "numpy arrays")
        return
    ids = feature.arrays.get("input_ids")
    if ids is None or ids.ndim not in (1, 2) or ids.dtype.kind not in "iu":
        yield Wrong(f"input_ids {shown(ids)}", "integers, [length] or [sequences, length]")
    elif ids.shape[-1] != feature.length or feature.length < 1:
        yield Wrong(
            f"length {feature.length} with {ids.shape[-1]} tokens", "the tokens of its longest sequence, one at least"
        )
    limit = case.limits.max_length
    if limit is not None and feature.length > limit:
        yield Wrong(f"a feature of {feature.length} tokens", f"{limit} at most, the limit it was bound with")


@check("task.limits", "a text longer than max_length is cut and counted, split, or refused as a row")
def task_limits(case: TaskCase) -> Iterator[Wrong]:
    """Every text of a row made long."""
    limit = 16
    bound = case.bind(Limits(max_length=limit))
    row = {name: " ".join([value] * 40) if isinstance(value, str) else value for name, value in case.rows[0].items()}
    if row == case.rows[0]:
        raise CannotCheck("its rows hold no plain text to make long")
    try:
        made = bound.featurize(row)
    except DataError:
        return
    longest = max(feature.length for feature in made)
    if longest > limit:
        yield Wrong(f"a feature of {longest} tokens", f"{limit} at most")
    if len(made) == 1 and not made[0].truncated:
        yield Wrong(
            "one feature with truncated=0 from a text that does not fit",
            "the number of tokens cut, or several features",
        )


@check("task.prediction", "rows without target roles give features and batches whose weights are 0")
def task_prediction(case: TaskCase) -> Iterator[Wrong]:
    """What `predict` feeds."""
    targets = {role.name for role in case.task.roles if role.target}
    if not targets:
        raise DoesNotApply
    rows = [{name: value for name, value in row.items() if name not in targets} for row in case.rows]
    features = case.featurized(rows)
    if not features:
        yield Wrong("no feature for rows without target roles", "features without what the targets would give")
        return
    batch = case.collate(features)
    for term, weight in batch.weights.items():
        if weight:
            yield Wrong(f"weight {weight:g} of term {term!r}", "0: there is nothing to learn from")


@check("task.augment", "augment keeps the length, depends on the generator alone, and leaves its feature as it was")
def task_augment(case: TaskCase) -> Iterator[Wrong]:
    """Twice with equal generators."""
    import numpy as np

    for feature in case.features:
        before = {name: array.copy() for name, array in feature.arrays.items()}
        first = case.bound.augment(feature, np.random.default_rng(7))
        second = case.bound.augment(feature, np.random.default_rng(7))
        if not same_arrays(feature.arrays, before):
            yield Wrong("a feature whose arrays augment changed in place", "a new feature")
        if first.length != feature.length or first.arrays["input_ids"].shape != feature.arrays["input_ids"].shape:
            yield Wrong(
                f"{first.arrays['input_ids'].shape[-1]} tokens from a feature of {feature.length}", "the same length"
            )
        if not same_arrays(first.arrays, second.arrays):
            yield Wrong("other arrays with an equal generator", "a function of the feature and the generator")
        if (first.id, first.row_id) != (feature.id, feature.row_id):
            yield Wrong(f"id {first.id} of feature {feature.id}", "the feature's own ids")


@check("task.state", "its state is JSON, and binding to it gives the same task")
def task_state(case: TaskCase) -> Iterator[Wrong]:
    """The head, the terms, features and batches."""
    state = case.bound.state()
    try:
        text = json.dumps(state, allow_nan=False)
    except (TypeError, ValueError) as error:
        yield Wrong(f"state() {shown(state)}: {error}", "plain JSON")
        return
    again = case.task.bind(case.processor, case.config, json.loads(text), case.limits)
    for what in ("kind", "size", "labels", "outputs", "problem_type"):
        old, new = getattr(case.bound.head, what), getattr(again.head, what)
        if old != new:
            yield Wrong(f"head.{what} {shown(new)} from the state, {shown(old)} from the data", "the same head")
    if again.terms != case.bound.terms:
        yield Wrong(f"terms {again.terms} from the state, {case.bound.terms} from the data", "the same terms")
    if json.loads(json.dumps(again.state())) != json.loads(text):
        yield Wrong(f"state() {shown(again.state())} of a task bound to {shown(state)}", "the same state")
    for row in case.rows:
        pairs = zip(case.bound.featurize(row), again.featurize(row), strict=True)
        if not all(same_arrays(a.arrays, b.arrays) for a, b in pairs):
            yield Wrong("other features from a task bound to the state", "the same features")
            return


@check("task.decode", "decode gives one answer a feature, with its row_id, as JSON; filler gives none")
def task_decode(case: TaskCase) -> Iterator[Wrong]:
    """Of rows as predictions have them; a row's answers combine into one."""
    features = case.features
    try:
        batch = case.collate([*features, case.filler()])
        answers = case.bound.decode(case.arrays(batch), batch)
    except RefusalError as error:
        raise CannotCheck(f"it gives no answers: {error.message}") from None
    rows = sorted(feature.row_id for feature in features)
    found = sorted(answer.get("row_id", -2) for answer in answers)
    if found != rows:
        yield Wrong(f"answers for rows {found}", f"one a feature: rows {rows}")
        return
    try:
        json.dumps(answers)
    except TypeError as error:
        yield Wrong(f"an answer that is not JSON: {error}", "plain values that a person reads")
    for row in sorted(set(rows)):
        combined = case.bound.combine([a for a in answers if a["row_id"] == row], case.rows[row])
        if not isinstance(combined, dict):
            yield Wrong(f"combine gives {shown(combined)}", "one answer of a row's features' answers")


@check("task.metrics", "figures are the same however the evaluation was cut, and are plain finite numbers")
def task_metrics(case: TaskCase) -> Iterator[Wrong]:
    """One part against three of unequal size; with answers where the task has the ability `Prompts`."""
    from spcore.evaluating import merge_parts
    from spcore.prompting import with_answers

    pieces = [case.features[:1], case.features[1:3], case.features[3:]]
    merged = [merge_parts([case.reduced(piece) for piece in cut if piece]) for cut in ([case.features], pieces)]
    whole, parts = (case.bound.metrics(with_answers(part, case.answers())) for part in merged)
    if set(whole) != set(parts):
        yield Wrong(f"figures {sorted(parts)} in parts, {sorted(whole)} in one", "the same figures")
        return
    for name, value in whole.items():
        if not isinstance(value, int | float) or not math.isfinite(value):
            yield Wrong(f"{name} = {shown(value)}", "a finite number")
        elif not math.isclose(value, parts[name], rel_tol=1e-4, abs_tol=1e-5):
            yield Wrong(f"{name} = {parts[name]} in parts, {value} in one", "the same figure")
    told = case.bound.sums(merged[0].rows)
    if told is not None and (wrong := differing(told, dict(merged[0].sums))):
        yield Wrong(f"sums of all rows, and of the part: {wrong}", "the same sums, or None")
    names = case.bound.metric_names
    known = {name for name in whole if name in names or name.partition("/")[0] not in names}  # others are a group's
    if names and set(names) != known:
        yield Wrong(f"metric_names {', '.join(names)}", f"its figures: {', '.join(sorted(known))}")
    yield from _told(case, with_answers(merged[0], case.answers()).rows)
    if isinstance(case.bound, Prompts):
        bare, made = case.bound.metrics(merged[0]), case.bound.answer_metrics
        if set(bare) != known - set(made) or not set(made) <= known:
            expected = f"those with them, {', '.join(sorted(known))}, without answer_metrics, {', '.join(made)}"
            yield Wrong(f"figures without answers: {', '.join(sorted(bare))}", expected)


def _told(case: TaskCase, rows: Sequence[dict[str, Any]]) -> Iterator[Wrong]:
    """What `prediction` tells of each row of the data."""
    for row in sorted({own["row_id"] for own in rows}):
        told = case.bound.prediction([own for own in rows if own["row_id"] == row])
        if not isinstance(told, dict):
            yield Wrong(f"prediction gives {shown(told)}", "one dict of a row's evaluation rows")
            continue
        try:
            json.dumps(told)
        except TypeError as error:
            yield Wrong(f"a prediction that is not JSON: {error}", "plain values that a person reads")


CHECKS: tuple[Check, ...] = (
    task_contract, task_bind, task_head, task_featurize, task_limits, task_augment, task_collate, task_annotates,
    task_custom_head, *BATCH_CHECKS, task_prediction, task_metrics, task_decode, task_state, task_whole_batch, task_prompts,
)  # fmt: skip


def check_task(
    task: Any,
    *,
    rows: Sequence[Row] | None = None,
    schema: Schema | None = None,
    where: Where = Where(),  # noqa: B008 -- frozen
) -> Report:
    """Check a task. rows, schema: keyed by its roles, for tasks whose rows cannot be made up from the roles' kinds."""
    return run_checks(CHECKS, TaskCase(task, rows, schema), where)
