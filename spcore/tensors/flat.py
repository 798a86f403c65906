"""A padded microbatch as one row without padding: every linear layer then works on real tokens only.

The result is a pack like any other: one sequence with `segment_ids` and `position_ids`. Exact: a model that honours segments
computes for each what it computed in its padded row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from spcore.interfaces.model import Head
from spcore.interfaces.task import Batch


def head_flattens(head: Head) -> bool:
    """Whether training batches under this head may be fed flat: its targets must say by their shape alone whether they go along
    with the tokens. Not where only some outputs have a position axis; not for spans, whose targets are positions of a row."""
    positioned = {"position" in axes for axes in head.outputs.values()}
    return len(positioned) == 1 and head.kind != "span"


def can_flatten(batch: Batch) -> bool:
    """Whether a batch is rows padded on the right, with a mask to go by and a value a token in every input; not an encoder-decoder's."""
    mask = batch.inputs.get("attention_mask")
    if mask is None or "segment_ids" in batch.inputs or "decoder_input_ids" in batch.inputs:
        return False
    real = np.asarray(mask).astype(bool)
    if not real.size or any(a.shape != real.shape for a in batch.inputs.values()):
        return False
    return bool(real[:, 0].all() and (real[:, :-1] >= real[:, 1:]).all())


def flatten(batch: Batch, head: Head) -> Batch:
    """[S, L] -> [1, T], numpy, segments 1..S in the order of the rows. Targets with a value a token go along where the outputs
    have a position axis; those with one a sequence are one a segment already."""
    real = np.asarray(batch.inputs["attention_mask"]).astype(bool)
    counts = real.sum(1)
    inputs = {name: a[real][None] for name, a in batch.inputs.items() if name != "attention_mask"}
    inputs["segment_ids"] = np.repeat(np.arange(1, len(counts) + 1), counts)[None]
    inputs["position_ids"] = (np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts))[None]
    positioned = any("position" in axes for axes in head.outputs.values())
    targets = {
        name: a[real][None] if positioned and a.shape[:2] == real.shape else a for name, a in batch.targets.items()
    }
    row_of, feature_ids = batch.row_of.reshape(1, -1), batch.feature_ids.reshape(1, -1)
    return replace(batch, inputs=inputs, targets=targets, row_of=row_of, feature_ids=feature_ids)


def unflatten(outputs: Mapping[str, np.ndarray], batch: Batch, head: Head) -> dict[str, np.ndarray]:
    """Outputs of a flat row in the shape of the padded batch that it was made of; padding is 0."""
    real = np.asarray(batch.inputs["attention_mask"]).astype(bool)
    back = {}
    for name, array in outputs.items():
        if "position" in head.outputs[name]:
            padded = np.zeros((*real.shape, *array.shape[2:]), array.dtype)
            padded[real] = array[0]
            array = padded
        back[name] = array
    return back


def sequence_feature_ids(batch: Batch) -> np.ndarray:
    """Feature id of each row of an output with a value a sequence, in packs of each segment: int64 [N], -1 for filler."""
    segments = batch.inputs.get("segment_ids")
    if segments is None:
        return np.asarray(batch.feature_ids[:, 0])
    counts = np.asarray(segments.cpu() if hasattr(segments, "cpu") else segments).max(-1)
    return np.concatenate([ids[:count] for ids, count in zip(batch.feature_ids, counts, strict=True)])
