from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from spcore.interfaces.model import Head
from spcore.interfaces.task import Batch
from spcore.tensors.flat import can_flatten, flatten, head_flattens, sequence_feature_ids, unflatten
from spcore.tensors.ops import as_tensors

TOKENS = Head("token", 2, {"logits": ("sequence", "position", "label")})
ROWS = Head("sequence", 2, {"logits": ("sequence", "label")})
SPANS = Head("span", 2, {"start": ("sequence", "position"), "end": ("sequence", "position")})
BOTH = Head(
    "custom", 2, {"a": ("sequence", "label"), "b": ("sequence", "position")}, build=lambda config: torch.nn.Identity()
)


@pytest.fixture
def batch() -> Batch:
    """Rows of 3, 1 and 2 tokens."""
    ids = np.array([[5, 6, 7], [8, 0, 0], [9, 10, 0]])
    inputs = {"input_ids": ids, "token_type_ids": ids % 2, "attention_mask": (ids > 0).astype(np.int64)}
    targets = {"tags": ids * 10, "label": np.array([1, 2, -100])}
    numbers = np.array([[4], [6], [-1]])
    return Batch(inputs, targets, numbers + 100, numbers, {"loss": 2.0})


def test_real_tokens_stand_in_one_row(batch: Batch) -> None:
    flat = flatten(batch, TOKENS)
    assert {name: a.tolist() for name, a in flat.inputs.items()} == {
        "input_ids": [[5, 6, 7, 8, 9, 10]],
        "token_type_ids": [[1, 0, 1, 0, 1, 0]],
        "segment_ids": [[1, 1, 1, 2, 3, 3]],
        "position_ids": [[0, 1, 2, 0, 0, 1]],
    }
    assert flat.targets["tags"].tolist() == [[50, 60, 70, 80, 90, 100]]
    assert flat.targets["label"].tolist() == [1, 2, -100]
    assert (flat.feature_ids.tolist(), flat.row_of.tolist()) == ([[4, 6, -1]], [[104, 106, 99]])
    assert flat.weights == batch.weights


def test_targets_of_a_head_without_positions_stay(batch: Batch) -> None:
    assert flatten(batch, ROWS).targets["tags"].shape == (3, 3)


def test_outputs_come_back_into_rows(batch: Batch) -> None:
    tokens = np.arange(12.0).reshape(1, 6, 2)
    back = unflatten({"logits": tokens}, batch, TOKENS)["logits"]
    assert back[..., 0].tolist() == [[0, 2, 4], [6, 0, 0], [8, 10, 0]]
    rows = np.ones((3, 2))
    assert unflatten({"logits": rows}, batch, ROWS)["logits"] is rows


def test_what_can_be_flat(batch: Batch) -> None:
    def changed(**inputs: np.ndarray) -> Batch:
        return replace(batch, inputs={**batch.inputs, **inputs})

    assert can_flatten(batch)
    assert can_flatten(changed(attention_mask=batch.inputs["attention_mask"].astype(bool)))
    assert not can_flatten(changed(segment_ids=batch.inputs["attention_mask"])), "a pack already"
    assert not can_flatten(changed(attention_mask=batch.inputs["attention_mask"][:, ::-1])), "padded on the left"
    assert not can_flatten(changed(attention_mask=np.array([[1, 1, 1], [0, 0, 0], [1, 1, 0]]))), "an empty row"
    assert not can_flatten(changed(decoder_input_ids=np.ones((3, 5)))), "another length"
    assert not can_flatten(replace(batch, inputs={"input_ids": batch.inputs["input_ids"]})), "no mask"
    assert not can_flatten(replace(batch, inputs={n: a[:, :0] for n, a in batch.inputs.items()})), "no tokens"


def test_heads_whose_targets_say_where_they_belong() -> None:
    assert head_flattens(ROWS)
    assert head_flattens(TOKENS)
    assert not head_flattens(SPANS), "a position counts within a row"
    assert not head_flattens(BOTH), "a target may belong to either output"


@pytest.mark.parametrize("tensors", [False, True])
def test_feature_ids_by_sequence_or_segment(batch: Batch, tensors: bool) -> None:
    assert sequence_feature_ids(batch).tolist() == [4, 6, -1]
    assert sequence_feature_ids(flatten(batch, ROWS)).tolist() == [4, 6, -1]
    segments = np.array([[1, 1, 2, 3], [1, 1, 0, 0]])
    pack = replace(batch, inputs={"segment_ids": segments}, feature_ids=np.array([[7, 8, -1], [9, -1, -1]]))
    if tensors:
        pack = replace(pack, inputs=as_tensors(pack.inputs))
    assert sequence_feature_ids(pack).tolist() == [7, 8, -1, 9], "filler is a segment, absence is none"
