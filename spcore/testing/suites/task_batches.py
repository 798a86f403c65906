"""Kind `task`: batches and losses. The rule behind them: weights come from the data alone, losses are plain sums, and no result
depends on how a batch was cut, padded, filled or packed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from spcore.interfaces.task import Batch, EvalPart, LossTerm, WholeBatchLoss
from spcore.testing.checks import CannotCheck, Check, Wrong, check, shown
from spcore.testing.suites.task_case import TaskCase, differing, tensors


@check(
    "task.collate", "a batch has inputs [sequences, length], ids of its features, and a weight for each term", gate=True
)
def task_collate(case: TaskCase) -> Iterator[Wrong]:
    """Padded to the length that the core gives."""
    features = case.training()
    length = max(f.length for f in features) + 3
    batch = case.collate(features, length)
    sequences = sum(1 if f.arrays["input_ids"].ndim == 1 else len(f.arrays["input_ids"]) for f in features)
    for name, array in batch.inputs.items():
        if name.startswith("decoder_") and np.shape(array)[:1] == (sequences,) and np.ndim(array) == 2:
            continue  # as long as the targets are
        if not isinstance(array, np.ndarray) or array.shape != (sequences, length):
            yield Wrong(
                f"input {name!r} of shape {np.shape(array)}", f"[sequences, length], here {(sequences, length)}"
            )
    if "input_ids" not in batch.inputs or not {"attention_mask", "segment_ids"} & set(batch.inputs):
        yield Wrong(f"inputs {sorted(batch.inputs)}", "input_ids, and attention_mask or segment_ids")
        return
    yield from _tokens(case, batch, [f.length for f in features])
    for what, ids in (("feature_ids", [f.id for f in features]), ("row_of", [f.row_id for f in features])):
        array = getattr(batch, what)
        if array.ndim != 2 or len(array) != sequences:
            yield Wrong(f"{what} of shape {array.shape}", f"[sequences, segments], here {sequences} sequences")
        elif set(array[array >= 0].tolist()) != set(ids):
            yield Wrong(f"{what} {sorted(set(array.ravel().tolist()))}", f"those of its features: {sorted(set(ids))}")
    if tuple(batch.weights) != case.bound.terms and set(batch.weights) != set(case.bound.terms):
        yield Wrong(f"weights of {sorted(batch.weights)}", f"a weight for each term: {', '.join(case.bound.terms)}")
    for term, weight in batch.weights.items():
        if not isinstance(weight, int | float) or not 0 <= weight < math.inf:
            yield Wrong(f"weight {shown(weight)} of term {term!r}", "a finite number of 0 or more")
    if not any(batch.weights.values()):
        yield Wrong("weights that are all 0 for rows with targets", "the tokens or rows that count")


def _tokens(case: TaskCase, batch: Batch, lengths: list[int]) -> Iterator[Wrong]:
    mask = batch.inputs.get("attention_mask", batch.inputs.get("segment_ids"))
    if mask is not None and mask.sum(1).max() > max(lengths):
        yield Wrong(
            f"a mask with {mask.sum(1).max()} tokens where the longest feature has {max(lengths)}",
            "0 where there is padding",
        )
    ids = batch.inputs["input_ids"]
    if ids.min() < 0 or ids.max() >= case.processor.vocabulary_size:
        yield Wrong(f"token ids from {ids.min()} to {ids.max()}", f"0 to {case.processor.vocabulary_size - 1}")


@check("task.filler", "filler weighs nothing, adds nothing to the loss, and has no row in an evaluation")
def task_filler(case: TaskCase) -> Iterator[Wrong]:
    """A batch with and without it, and a batch of nothing else."""
    features = case.training()
    length = max(f.length for f in features)
    plain = case.collate(features, length)
    filled = case.collate([*features, case.filler(1), case.filler(0)], length)
    if found := differing(dict(filled.weights), dict(plain.weights)):
        yield Wrong(f"weights with and without filler: {found}", "weight 0 for filler")
    if filled.feature_ids[filled.feature_ids >= 0].tolist() != plain.feature_ids[plain.feature_ids >= 0].tolist():
        yield Wrong(f"feature_ids {filled.feature_ids.tolist()}", "-1 for filler")
    if found := differing(case.sums(filled), case.sums(plain)):
        yield Wrong(f"loss with and without filler: {found}", "filler that adds nothing")
    part = case.evaluated(filled)
    if found := differing(part.sums, case.evaluated(plain).sums):
        yield Wrong(f"sums of reduce with and without filler: {found}", "filler that adds nothing")
    alone = case.collate([case.filler(0)], 1)
    for name, value in {**alone.weights, **case.sums(alone)}.items():
        if value != 0:
            yield Wrong(f"{name} = {value:g} in a batch of filler", "0")


@check("task.padding", "more padding changes neither weights nor losses")
def task_padding(case: TaskCase) -> Iterator[Wrong]:
    """The same features at two lengths."""
    features = case.training()
    length = max(f.length for f in features)
    short, long = case.collate(features, length), case.collate(features, length + 5)
    if found := differing(dict(long.weights), dict(short.weights)):
        yield Wrong(f"weights with more padding and less: {found}", "the same weights")
    if found := differing(case.sums(long), case.sums(short)):
        yield Wrong(f"losses with more padding and less: {found}", "the same losses: padding has no label")


@check("task.terms", "the loss gives scalars under the names of `terms`, with gradients to the outputs", gate=True)
def task_terms(case: TaskCase) -> Iterator[Wrong]:
    """A task with `WholeBatchLoss` may leave terms to that."""
    batch = case.collate(case.training())
    outputs = case.outputs(batch)
    terms = case.bound.loss(outputs, tensors(batch), case.ops)
    names = [term.name for term in terms]
    if len(set(names)) != len(names):
        yield Wrong(f"loss terms {names}", "each term once")
    late: set[str] = set()
    if isinstance(case.bound, WholeBatchLoss):
        late = {term.name for term in _whole(case, batch)}
    if set(names) | late != set(case.bound.terms):
        yield Wrong(f"loss terms {sorted(set(names) | late)}", f"those of `terms`: {', '.join(case.bound.terms)}")
    for term in terms:
        yield from _term(term)


def _whole(case: TaskCase, batch: Batch) -> list[LossTerm]:
    assert isinstance(case.bound, WholeBatchLoss)
    represented = case.bound.representation(case.outputs(batch), tensors(batch), case.ops)
    return case.bound.whole_loss(represented, batch.feature_ids[:, 0])


def _term(term: LossTerm) -> Iterator[Wrong]:
    import torch

    if not isinstance(term.sum, torch.Tensor) or term.sum.ndim != 0:
        yield Wrong(f"term {term.name!r} is {shown(term.sum)}", "a scalar tensor")
        return
    if not bool(torch.isfinite(term.sum)) or not math.isfinite(term.coefficient):
        yield Wrong(
            f"term {term.name!r}: sum {float(term.sum.detach())}, coefficient {term.coefficient}", "finite numbers"
        )
    if not term.sum.requires_grad:
        yield Wrong(f"term {term.name!r} without a gradient", "a sum that the outputs can be trained on")


@check("task.loss-is-a-sum", "cutting a batch in two changes neither the sum of its losses nor of its weights")
def task_loss_is_a_sum(case: TaskCase) -> Iterator[Wrong]:
    """Halves of unequal size."""
    features = case.training()
    length, at = max(f.length for f in features), max(1, len(features) // 3)
    whole = case.collate(features, length)
    halves = [case.collate(features[:at], length), case.collate(features[at:], length)]
    added = {term: sum(half.weights[term] for half in halves) for term in whole.weights}
    if found := differing(added, dict(whole.weights)):
        yield Wrong(
            f"weights of two halves added up, and of the whole: {found}", "the same: plain sums over what counts"
        )
    parts = [case.sums(half) for half in halves]
    if found := differing({term: sum(part[term] for part in parts) for term in parts[0]}, case.sums(whole)):
        yield Wrong(f"losses of two halves added up, and of the whole: {found}", "the same: a plain sum, never a mean")


@check("task.reduce", "an evaluation part has sums of numbers and one row a feature, with its ids")
def task_reduce(case: TaskCase) -> Iterator[Wrong]:
    """Rows of filler carry id -1 or are left out."""
    part = case.reduced([*case.features, case.filler()])
    if not isinstance(part, EvalPart):
        yield Wrong(shown(part), "an EvalPart")
        return
    for name, value in part.sums.items():
        if not isinstance(value, int | float) or not math.isfinite(value):
            yield Wrong(f"sums[{name!r}] = {shown(value)}", "a finite number")
    places = {feature.id: feature.row_id for feature in case.features}
    lost = [row for row in part.rows if not {"feature_id", "row_id"} <= set(row)]
    if lost:
        yield Wrong(f"a row with {sorted(lost[0])}", "feature_id and row_id in every row")
        return
    rows = [row for row in part.rows if row["feature_id"] >= 0]
    ids = [row["feature_id"] for row in rows]
    if ids and sorted(ids) != sorted(places):
        yield Wrong(f"rows of features {sorted(ids)}", f"each feature once: {sorted(places)}")
    for row in rows:
        if places.get(row["feature_id"]) not in (None, row["row_id"]):
            yield Wrong(f"row_id {row['row_id']} for feature {row['feature_id']}", f"{places[row['feature_id']]}")


@check("task.packs", "features in packs have the weights and losses that they have alone")
def task_packs(case: TaskCase) -> Iterator[Wrong]:
    """Segments numbered from 1, positions from 0 in each; or packs are refused at bind."""
    features = case.training()
    bound, batch = case.packs(features)
    if not {"segment_ids", "position_ids"} <= set(batch.inputs):
        yield Wrong(
            f"inputs {sorted(batch.inputs)} for packs", "segment_ids and position_ids, or a RefusalError at bind"
        )
        return
    yield from _segments(batch, [f.id for f in features])
    plain = case.collate(features)
    if found := differing(dict(batch.weights), dict(plain.weights)):
        yield Wrong(f"weights in packs and alone: {found}", "the same weights")
    if isinstance(bound, WholeBatchLoss):
        raise CannotCheck("its loss needs the whole batch")
    packed = {t.name: float(t.sum.detach()) for t in bound.loss(case.outputs(batch), tensors(batch), case.ops)}
    if found := differing(packed, case.sums(plain)):
        yield Wrong(f"losses in packs and alone: {found}", "the same losses: nothing crosses a border")
    part, alone = case.evaluated(batch, bound), case.reduced(case.features)
    ids = sorted(row["feature_id"] for row in part.rows if row["feature_id"] >= 0)
    if ids != sorted(row["feature_id"] for row in alone.rows if row["feature_id"] >= 0):
        yield Wrong(f"rows of features {ids} from packs", "the rows that there are without packs")


def _segments(batch: Batch, ids: list[int]) -> Iterator[Wrong]:
    segments, positions = batch.inputs["segment_ids"], batch.inputs["position_ids"]
    half = len(ids) // 2
    held = [ids[:half], ids[half:]]
    for s, expected in enumerate(held):
        if set(segments[s].tolist()) - {0} != set(range(1, len(expected) + 1)):
            yield Wrong(
                f"segments {sorted(set(segments[s].tolist()))} in a pack of {len(expected)}",
                "1, 2, ... by feature, 0 = padding",
            )
            continue
        if batch.feature_ids[s][: len(expected)].tolist() != expected:
            yield Wrong(
                f"feature_ids {batch.feature_ids[s].tolist()} of a pack of features {expected}",
                "segment k of a pack at k",
            )
        for k in range(1, len(expected) + 1):
            found = positions[s][segments[s] == k]
            if found.tolist() != list(range(len(found))):
                yield Wrong(f"position_ids {shown(found.tolist())} in segment {k}", "0, 1, 2, ... in each segment")


BATCH_CHECKS: tuple[Check, ...] = (task_terms, task_filler, task_padding, task_loss_is_a_sum, task_reduce, task_packs)
"""After `task_collate`."""
