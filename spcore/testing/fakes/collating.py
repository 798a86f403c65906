"""What the fake tasks share: padding, packs, and going through a batch's features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from spcore.interfaces.task import Batch, BoundTask, Feature, Limits

if TYPE_CHECKING:
    import torch


@dataclass
class Rows:
    """A batch under way: inputs, row_of and feature_ids as in `Batch`. features: in the order of their sequences."""

    inputs: dict[str, np.ndarray]
    row_of: np.ndarray
    feature_ids: np.ndarray
    features: list[Feature]

    def batch(self, targets: dict[str, Any], weights: dict[str, float]) -> Batch:
        """The batch."""
        return Batch(dict(self.inputs), targets, self.row_of, self.feature_ids, weights)


class FakeBound(BoundTask):
    """The parts of a bound task that are alike: limits, padding, and the names of its token arrays."""

    def __init__(self, processor: Any, limits: Limits) -> None:
        self.processor, self.limits = processor, limits

    def rows(self, groups: Sequence[Sequence[Feature]], length: int) -> Rows:
        """Padded inputs; with `segment_ids` and `position_ids` where packs were asked for."""
        features = [feature for group in groups for feature in group]
        if self.limits.pack is not None:
            inputs = {"input_ids": self.placed(groups, length, "input_ids", 0), **_segments(groups, length)}
        else:
            ids = self.placed(groups, length, "input_ids", 0)
            inputs = {"input_ids": ids, "attention_mask": (ids != 0).astype(np.int64)}
        most = max(len(group) for group in groups)
        sequences = features[0].arrays["input_ids"].shape[0] if features[0].arrays["input_ids"].ndim == 2 else 1
        numbers = np.full((2, len(groups), most), -1, np.int64)
        for g, group in enumerate(groups):
            for k, feature in enumerate(group):
                numbers[:, g, k] = feature.row_id, feature.id
        row_of, feature_ids = np.repeat(numbers, sequences, axis=1)
        return Rows(inputs, row_of, feature_ids, features)

    @staticmethod
    def placed(groups: Sequence[Sequence[Feature]], length: int, name: str, fill: int) -> np.ndarray:
        """[sequences, length] of an array with a value a token; features that lack it are filled."""
        lines = []
        for group in groups:
            arrays = [f.arrays.get(name, np.full_like(f.arrays["input_ids"], fill)) for f in group]
            whole = np.atleast_2d(np.concatenate(arrays, -1))
            lines.append(np.pad(whole, ((0, 0), (0, length - whole.shape[1])), constant_values=fill))
        return np.concatenate(lines).astype(np.int64)


def _segments(groups: Sequence[Sequence[Feature]], length: int) -> dict[str, np.ndarray]:
    segments, positions = np.zeros((2, len(groups), length), np.int64)
    for g, group in enumerate(groups):
        at = 0
        for k, feature in enumerate(group):
            segments[g, at : at + feature.length] = k + 1
            positions[g, at : at + feature.length] = np.arange(feature.length)
            at += feature.length
    return {"segment_ids": segments, "position_ids": positions}


def next_labels(inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """[S, L]: the next token of the same sequence or segment, -100 where there is none."""
    ids = inputs["input_ids"]
    segments = inputs.get("segment_ids", inputs.get("attention_mask"))
    assert segments is not None, "inputs carry a mask or segments"
    labels = np.full_like(ids, -100)
    same = (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] > 0)
    labels[:, :-1][same] = ids[:, 1:][same]
    return labels


def segments_of(batch: Batch) -> np.ndarray:
    """[S, L] numpy: the segment of each position, 0 = padding."""
    segments = batch.inputs.get("segment_ids", batch.inputs.get("attention_mask"))
    assert segments is not None, "inputs carry a mask or segments"
    return np.asarray(segments.cpu() if hasattr(segments, "cpu") else segments)


def per_feature(batch: Batch) -> Iterator[tuple[int, int, int, np.ndarray]]:
    """(feature id, row id, sequence, positions) of each segment that holds a feature, in order; filler left out."""
    segments = segments_of(batch)
    for s, (ids, rows) in enumerate(zip(batch.feature_ids, batch.row_of, strict=True)):
        for k, (feature, row) in enumerate(zip(ids, rows, strict=True)):
            if feature >= 0:
                yield int(feature), int(row), s, np.flatnonzero(segments[s] == k + 1)


def places(batch: Batch) -> list[tuple[int, int, int]]:
    """(row of a "sequence" output, feature id, row id) of each sequence, in packs of each segment; filler left out."""
    found: list[tuple[int, int, int]] = []
    at = 0
    for segments, ids, rows in zip(segments_of(batch), batch.feature_ids, batch.row_of, strict=True):
        count = int(segments.max())
        found += [(at + k, int(ids[k]), int(rows[k])) for k in range(count) if ids[k] >= 0]
        at += count
    return found


def summed(values: torch.Tensor, batch: Batch) -> torch.Tensor:
    """[S, L] -> [S]: sums over each sequence; in packs [N], over each segment."""
    import torch

    segments = batch.inputs.get("segment_ids")
    if segments is None:
        return values.sum(-1)
    counts = segments.max(-1).values
    first = torch.cumsum(counts, 0) - counts
    number = (first[:, None] + segments - 1).masked_fill(segments == 0, 0)
    weighted = values.masked_fill(segments == 0, 0.0)
    return torch.zeros(int(counts.sum()), dtype=values.dtype, device=values.device).index_add(
        0, number.flatten(), weighted.flatten()
    )
