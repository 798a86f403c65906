"""A padded microbatch as one row without padding: every linear layer then works on real tokens only.

The result is a pack like any other: `segment_ids`, `position_ids`, one sequence. Exact: a model that honours segments computes
for each what it computed in its padded row.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from spcore.interfaces.model import Head
from spcore.interfaces.task import Batch


def can_flatten(batch: Batch) -> bool:
    """Whether a batch is padded rows (not packs) with a mask to go by."""
    return "attention_mask" in batch.inputs and "segment_ids" not in batch.inputs


def flatten(batch: Batch, head: Head) -> Batch:
    """[S, L] -> [1, T], numpy. Targets with a value a token go along; those with one a sequence are one a segment already."""
    real = np.asarray(batch.inputs["attention_mask"]).astype(bool)
    counts = real.sum(1)
    inputs = {name: a[real][None] for name, a in batch.inputs.items() if name != "attention_mask"}
    inputs["segment_ids"] = np.repeat(np.arange(1, len(counts) + 1), counts)[None]
    inputs["position_ids"] = (np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts))[None]
    positioned = any("position" in axes for axes in head.outputs.values())
    targets = {
        name: a[real][None] if positioned and a.shape[:2] == real.shape else a for name, a in batch.targets.items()
    }
    return replace(
        batch, inputs=inputs, targets=targets, row_of=batch.row_of.reshape(1, -1), feature_ids=batch.feature_ids.reshape(1, -1)
    )


def unflatten(outputs: dict[str, np.ndarray], batch: Batch, head: Head) -> dict[str, np.ndarray]:
    """Outputs of a flat row back in the padded batch's shape: what a runtime's `forward` promises. Padding is 0."""
    real = np.asarray(batch.inputs["attention_mask"]).astype(bool)
    back = {}
    for name, array in outputs.items():
        if "position" in head.outputs[name]:
            whole = np.zeros((*real.shape, *array.shape[2:]), array.dtype)
            whole[real] = array[0]
            array = whole
        back[name] = array
    return back
