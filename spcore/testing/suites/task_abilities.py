"""Kind `task`: custom heads and the abilities of bound tasks."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np

from spcore.interfaces.runtime import GenerationRequest
from spcore.interfaces.task import Annotates, Prompts, WholeBatchLoss
from spcore.testing.checks import CannotCheck, DoesNotApply, Wrong, check, shown
from spcore.testing.contracts import against
from spcore.testing.suites.task_case import TaskCase, differing, pieces, tensors


@check("task.custom-head", "a custom head builds on any device and gives outputs of the promised names and shapes")
def task_custom_head(case: TaskCase) -> Iterator[Wrong]:
    """On hidden states [S, L, H]; where the task packs, with segments [N, 2]."""
    import torch

    head = case.bound.head
    if head.build is None:
        raise DoesNotApply
    with torch.device("meta"):
        empty = head.build(case.config)
    real = [name for name, p in empty.named_parameters() if not p.is_meta]
    if real:
        yield Wrong(f"parameters {real} with storage on the meta device", "parameters made on torch's default device")
    features = case.training()
    yield from _shapes(case, case.collate(features))
    try:
        _, packed = case.packs(features)
    except (CannotCheck, DoesNotApply):
        return
    yield from _shapes(case, packed)


def _shapes(case: TaskCase, batch: object) -> Iterator[Wrong]:
    from spcore.interfaces.task import Batch

    assert isinstance(batch, Batch)
    head, outputs = case.bound.head, case.head_outputs(batch)
    if set(outputs) != set(head.outputs):
        yield Wrong(f"outputs {sorted(outputs)}", f"those of head.outputs: {sorted(head.outputs)}")
        return
    sequences, length = batch.inputs["input_ids"].shape
    packs = "segment_ids" in batch.inputs
    for name, axes in head.outputs.items():
        rows = sequences if "position" in axes or not packs else len(list(pieces(batch)))
        sizes = {"sequence": rows, "position": length, "label": head.size, "vocabulary": case.processor.vocabulary_size}
        wanted = tuple(sizes.get(axis, -1) for axis in axes)
        found = tuple(outputs[name].shape)
        if len(found) != len(wanted) or any(w not in (-1, f) for f, w in zip(found, wanted, strict=True)):
            yield Wrong(
                f"output {name!r} of shape {found}{' in packs' if packs else ''}", f"{axes}: {wanted} (-1: any)"
            )


@check(
    "task.whole-batch",
    "the loss over a whole batch depends on features and representations alone, with gradients to them",
)
def task_whole_batch(case: TaskCase) -> Iterator[Wrong]:
    """Representations of two cuts, filler left out, sorted by feature id."""
    bound = case.bound
    if not isinstance(bound, WholeBatchLoss):
        raise DoesNotApply
    yield from against(bound, WholeBatchLoss, "bound task")
    features = case.training()
    whole = _represented(case, [[*features, case.filler()]])
    cut = _represented(case, [features[2:], features[:2]])
    if whole[0].shape != cut[0].shape or not np.allclose(whole[0].detach(), cut[0].detach(), atol=1e-5):
        yield Wrong(
            f"representations {tuple(whole[0].shape)} of one batch, {tuple(cut[0].shape)} of two",
            "[sequences, ...], the same in any cut",
        )
        return
    leaf = whole[0].detach().requires_grad_()
    terms = bound.whole_loss(leaf, whole[1])
    sums = {term.name: float(term.sum.detach()) for term in terms}
    if found := differing(sums, {term.name: float(term.sum.detach()) for term in bound.whole_loss(cut[0], cut[1])}):
        yield Wrong(f"losses of one batch and of two: {found}", "the same losses")
    sum(term.sum for term in terms).backward()  # type: ignore[union-attr]  # a tensor
    if leaf.grad is None or not float(leaf.grad.abs().sum()) > 0:
        yield Wrong("no gradient with respect to the representations", "a loss that they can be trained on")


def _represented(case: TaskCase, batches: list[list]) -> tuple:  # type: ignore[type-arg]
    """Representations and ids of batches as the engine hands them on: filler gone, sorted by feature id."""
    import torch

    assert isinstance(case.bound, WholeBatchLoss)
    values, ids = [], []
    for features in batches:
        batch = case.collate(features)
        values.append(case.bound.representation(case.outputs(batch), tensors(batch), case.ops))
        ids.append(batch.feature_ids[:, 0])
    every = np.concatenate(ids)
    order = np.argsort(every, kind="stable")
    order = order[every[order] >= 0]
    return torch.cat(values)[torch.from_numpy(order)], every[order]


@check(
    "task.annotates",
    "annotations have a row a feature, in order, the same in any cut; collate takes them as arrays",
    gate=True,
)
def task_annotates(case: TaskCase) -> Iterator[Wrong]:
    """Of a batch with filler against batches of one feature. The other checks then see features that have them."""
    bound = case.bound
    if not isinstance(bound, Annotates):
        raise DoesNotApply
    yield from against(bound, Annotates, "bound task")
    batch = case.collate([*case.features, case.filler()])
    figures = case.annotations(batch)
    for name, array in figures.items():
        if not isinstance(array, np.ndarray) or len(array) != len(case.features):
            yield Wrong(
                f"{name} of shape {np.shape(array)}", f"numpy, [features, ...], here {len(case.features)} features"
            )
            return
    for n, feature in enumerate(case.features):
        alone = case.collate([feature])
        single = case.annotations(alone)
        for name, array in figures.items():
            if not np.allclose(array[n], single[name][0], rtol=2e-4, atol=1e-5):
                yield Wrong(
                    f"{name} {shown(single[name][0])} of feature {n} alone, {shown(array[n])} in a batch",
                    "the same figure",
                )
    case.features = case.annotated(case.features)
    case.collate(case.features)


@check("task.prompts", "a row gives a request, and a generated text gives an entry that metrics takes, as JSON")
def task_prompts(case: TaskCase) -> Iterator[Wrong]:
    """Without its targets a row gives the same request."""
    bound, targets = case.bound, {role.name for role in case.task.roles if role.target}
    if not isinstance(bound, Prompts):
        raise DoesNotApply
    yield from against(bound, Prompts, "bound task")
    for row in case.rows:
        request = bound.request(row)
        if not isinstance(request, GenerationRequest) or not request.ids or request.n != 1:
            yield Wrong(f"request {shown(request)}", "a GenerationRequest of one sample with at least one id")
            continue
        asked = {name: value for name, value in row.items() if name not in targets}
        if bound.request(asked) != request:
            yield Wrong("another request for a row without its targets", "the same, as predictions ask it")
        if not all(isinstance(i, int) and 0 <= i < case.processor.vocabulary_size for i in request.ids):
            yield Wrong(f"ids {shown(request.ids)}", "plain ints of the vocabulary")
        for given in (row, asked):
            answer = bound.answer(given, "w9 w10")
            if not isinstance(answer, dict) or not answer:
                yield Wrong(f"answer {shown(answer)}", "a dict")
                continue
            try:
                json.dumps(answer)
            except TypeError as error:
                yield Wrong(f"an answer that is not JSON: {error}", "plain values")
