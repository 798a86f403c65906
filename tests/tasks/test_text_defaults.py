"""`spcore.text`: what a task gets that overrides nothing, and what a stranger builds on it."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import stars_task
import torch
from task_tools import PACKED, TEXTS, PlainOps, evaluate, tensors

from spcore.errors import DataError
from spcore.interfaces.dataset import Column, Schema
from spcore.interfaces.model import Encoding, Head
from spcore.interfaces.task import IGNORE, EvalPart, Feature, Limits, LossTerm
from spcore.loading import filler
from spcore.rows import map_roles
from spcore.testing.fakes import FakeLanguageModel, FakeProcessor
from spcore.testing.suites.task import check_task
from spcore.text import LABEL, TEXT, TEXT_PAIR, TextTask, labelled, mean_loss, pad, places, stacked, text_of


class Counting(TextTask):
    """The least a task can be: a number a sequence, no labels."""

    head = Head("sequence", 1, {"logits": ("sequence", "label")})
    terms = ("a", "b")

    def loss(self, outputs: Any, batch: Any, ops: Any) -> list[LossTerm]:
        return [LossTerm("a", outputs["logits"].sum()), LossTerm("b", (outputs["logits"] ** 2).sum(), 0.5)]


class Tags(Counting):
    """A label for every token, and one for every text."""

    token_targets: ClassVar = {"tags": IGNORE}

    def label(self, row: Any) -> dict[str, Any]:
        return {"tags": np.array(row["tags"]), "kind": np.int64(row["kind"])} if "kind" in row else {}

    def targets(self, features: Any) -> dict[str, np.ndarray]:
        return {"kind": stacked(features, "kind", IGNORE)}


def made(task: TextTask, rows: list[dict[str, Any]]) -> list[Feature]:
    found = [feature for row in rows for feature in task.featurize(row)]
    return [replace(f, id=n, row_id=2 * n) for n, f in enumerate(found)]


def tag_rows() -> list[dict[str, Any]]:
    """Tags are 0, 1, 2, ... over the tokens, special ones too."""
    return [{"text": t, "tags": list(range(len(t.split()) + 2)), "kind": n} for n, t in enumerate(TEXTS)]


def test_importing_it_imports_no_torch() -> None:
    code = "import spcore.text, spcore_tasks.text_classification, sys; print('torch' in sys.modules, 'sklearn' in sys.modules)"
    paths = {"PYTHONPATH": ":".join(p for p in sys.path if p)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=paths, check=True)
    assert done.stdout.split() == ["False", "False"]


# -- rows ---------------------------------------------------------------------------------------------------------


def test_a_text_and_a_pair_are_encoded_cut_and_counted() -> None:
    task, processor = Counting(FakeProcessor(), Limits(max_length=6)), FakeProcessor()
    (one,) = task.featurize({"text": "one two"})
    assert one.arrays["input_ids"].tolist() == processor.encode("one two").arrays["input_ids"].tolist()
    assert (one.length, one.truncated, one.id, one.row_id) == (4, 0, 0, 0)
    (pair,) = task.featurize({"text": "one two three", "text_pair": "four five"})
    assert (pair.length, pair.truncated) == (6, 2)
    assert pair.arrays["token_type_ids"].tolist()[-1] == 1


@pytest.mark.parametrize(("value", "text"), [("a b", "a b"), (7, "7"), (2.5, "2.5"), (True, "True"), ("评论", "评论")])
def test_values_that_are_no_texts_are_written_out(value: Any, text: str) -> None:
    assert text_of({"text": value}, "text") == text


@pytest.mark.parametrize("value", [None, "", " \n\t", math.nan])
@pytest.mark.parametrize("role", ["text", "text_pair"])
def test_blank_texts_are_refused_by_name(value: Any, role: str) -> None:
    with pytest.raises(DataError, match=f"^blank {role}$"):
        Counting(FakeProcessor(), Limits()).featurize({"text": "x", role: value})


def test_a_list_is_no_text() -> None:
    with pytest.raises(DataError, match=r"^text is a list, not a text$"):
        text_of({"text": ["a"]}, "text")


@pytest.mark.parametrize("text", ["", " \t", "\u200b", "\u200b \ufeff", "\x00"])
def test_a_text_that_nobody_sees_is_blank(text: str) -> None:
    with pytest.raises(DataError, match=r"^blank text$"):
        text_of({"text": text}, "text")


def test_a_text_without_tokens_is_refused() -> None:
    class Bare(FakeProcessor):
        def encode(self, text: str, pair: str | None = None, **kwargs: Any) -> Encoding:
            return Encoding({"input_ids": np.empty(0, np.int64)})

    with pytest.raises(DataError, match=r"no token"):
        Counting(Bare(), Limits()).featurize({"text": "a"})


# -- batches ------------------------------------------------------------------------------------------------------


def test_pad_and_stacked() -> None:
    assert pad([np.array([1, 2]), np.array([3])], 3, -1).tolist() == [[1, 2, -1], [3, -1, -1]]
    some = Feature(0, 0, {"y": np.array([1.0, 2.0])}, 2)
    others = [replace(some, filler=True), replace(some, arrays={})]
    found = stacked([some, *others], "y", -100.0, (2,))
    assert found.dtype == np.float32
    assert found.tolist() == [[1, 2], [-100, -100], [-100, -100]]
    assert stacked(others, "y", IGNORE).dtype == np.int64
    assert labelled([some, *others], "y").tolist() == [1, 0, 0]


def test_single_features_are_padded_with_what_the_processor_fills() -> None:
    processor = FakeProcessor()
    processor.fill = {"input_ids": 9, "token_type_ids": 5}
    task = Counting(processor, Limits())
    features = made(task, [{"text": "a b c"}, {"text": "d"}])
    batch = task.collate([[f] for f in features], 7)
    assert batch.inputs["input_ids"].tolist() == [[*f.arrays["input_ids"], *[9] * (7 - f.length)] for f in features]
    assert batch.inputs["token_type_ids"][1].tolist() == [0, 0, 0, 5, 5, 5, 5]
    assert batch.inputs["attention_mask"].sum(1).tolist() == [5, 3]
    assert set(batch.inputs) == {"input_ids", "token_type_ids", "attention_mask"}
    assert batch.feature_ids.tolist() == [[0], [1]]
    assert batch.row_of.tolist() == [[0], [2]]


def test_packs_hold_what_single_features_hold() -> None:
    """Cut at the segments' borders, a pack's arrays are those of its features alone."""
    plain, packing = Tags(FakeProcessor(), Limits()), Tags(FakeProcessor(), PACKED)
    features = made(plain, tag_rows())
    alone = plain.collate([[f] for f in features], 12)
    packs = packing.collate([features[:3], features[3:]], 24)
    assert set(packs.inputs) == {"input_ids", "token_type_ids", "segment_ids", "position_ids"}
    assert packs.feature_ids.tolist() == [[0, 1, 2], [3, 4, -1]]
    assert packs.row_of.tolist() == [[0, 2, 4], [6, 8, -1]]
    for n, (_, (at,)) in enumerate(places(packs).values()):
        assert at == n
    for n, feature in enumerate(features):
        s, k = divmod(n, 3)
        where = packs.inputs["segment_ids"][s] == k + 1
        assert packs.inputs["position_ids"][s][where].tolist() == list(range(feature.length))
        for name in ("input_ids", "token_type_ids"):
            assert packs.inputs[name][s][where].tolist() == alone.inputs[name][n, : feature.length].tolist()
        assert packs.targets["tags"][s][where].tolist() == list(range(feature.length))
    padding = packs.inputs["segment_ids"] == 0
    assert set(packs.targets["tags"][padding].tolist()) == {IGNORE}
    assert packs.targets["kind"].tolist() == alone.targets["kind"].tolist() == [0, 1, 2, 3, 4]
    assert packs.weights == alone.weights == {"a": 5.0, "b": 5.0}


def test_filler_has_no_target_and_no_weight_also_where_its_arrays_were_cut() -> None:
    """Filler keeps one token; an array that happens to be as long as the text was is cut with it."""
    task = Tags(FakeProcessor(), Limits())
    features = made(task, tag_rows()[:2])
    batch = task.collate([[features[0]], [filler(features[0])]], 5)
    assert batch.inputs["attention_mask"].tolist() == [[1] * 5, [1, 0, 0, 0, 0]]
    assert batch.targets["tags"][1].tolist() == [IGNORE] * 5
    assert batch.targets["kind"].tolist() == [0, IGNORE]
    assert batch.weights["a"] == 1.0
    assert places(batch) == {0: (0, [0])}


def test_weights_count_features_with_labels_or_all_where_there_are_none() -> None:
    rows = tag_rows()[:3]
    tags, counting = Tags(FakeProcessor(), Limits()), Counting(FakeProcessor(), Limits())
    unlabelled = [{"text": row["text"]} for row in rows]
    assert tags.collate([[f] for f in made(tags, rows)], 12).weights["a"] == 3.0
    assert tags.collate([[f] for f in made(tags, unlabelled)], 12).weights["a"] == 0.0
    assert counting.collate([[f] for f in made(counting, unlabelled)], 12).weights["a"] == 3.0


class Choices(Tags):
    """Several sequences a feature: a question with each of its answers."""

    token_targets: ClassVar = {}

    def encode(self, row: Any) -> tuple[dict[str, np.ndarray], int]:
        return self.encode_texts([(row["text"], answer) for answer in row["answers"]])

    def label(self, row: Any) -> dict[str, Any]:
        return {"kind": np.int64(row["kind"])}


CHOICES = [
    {"text": "one two", "answers": ["a", "b c d"], "kind": 1},
    {"text": "three", "answers": ["e f", "g"], "kind": 0},
    {"text": "four", "answers": ["h", "i j"], "kind": 1},
]


def test_a_feature_of_several_sequences_gives_as_many_rows() -> None:
    task = Choices(FakeProcessor(), Limits())
    features = made(task, CHOICES)
    assert features[0].arrays["input_ids"].shape == (2, 8)
    batch = task.collate([[f] for f in features], 8)
    alone = [len(FakeProcessor().encode(r["text"], a).arrays["input_ids"]) for r in CHOICES for a in r["answers"]]
    assert batch.inputs["attention_mask"].sum(1).tolist() == alone
    assert batch.feature_ids.tolist() == [[0], [0], [1], [1], [2], [2]]
    assert batch.targets["kind"].tolist() == [1, 1, 0, 0, 1, 1]
    assert batch.weights["a"] == 3.0
    assert places(batch) == {0: (0, [0, 1]), 1: (2, [2, 3]), 2: (4, [4, 5])}
    rows = task.reduce({"logits": torch.arange(6.0)[:, None]}, tensors(batch), PlainOps()).rows
    assert rows[1] == {"feature_id": 1, "row_id": 2, "logits": [2.0, 3.0], "kind": [0, 0]}


def test_several_sequences_in_packs_come_sequence_by_sequence() -> None:
    task = Choices(FakeProcessor(), PACKED)
    features = made(task, CHOICES)
    batch = task.collate([features[:2], features[2:]], 16)
    assert batch.feature_ids.tolist() == [[0, 1], [0, 1], [2, -1], [2, -1]]
    assert batch.targets["kind"].tolist() == [1, 0, 1, 0, 1, 1]
    assert places(batch) == {0: (0, [0, 2]), 1: (2, [1, 3]), 2: (4, [4, 5])}
    for s, row in enumerate([(0, 0), (0, 1)]):
        tokens = FakeProcessor().encode(CHOICES[0]["text"], CHOICES[0]["answers"][row[1]]).arrays["input_ids"]
        assert batch.inputs["input_ids"][s][batch.inputs["segment_ids"][s] == 1].tolist() == tokens.tolist()
        assert batch.inputs["input_ids"][s][batch.inputs["segment_ids"][s] == 2].tolist() != []


# -- figures and answers ------------------------------------------------------------------------------------------


def test_default_rows_figures_and_answers() -> None:
    task = Counting(FakeProcessor(), Limits())
    features = made(task, [{"text": "a b"}, {"text": "c"}])
    batch = task.collate([[f] for f in [*features, filler(features[0])]], 4)
    outputs = {
        "logits": torch.tensor([[1.0], [3.0], [100.0]])[:2].repeat(2, 1)[:3] * torch.tensor([[1.0], [1.0], [0.0]])
    }
    metrics, rows = evaluate(task, outputs, batch)
    assert rows == [{"feature_id": 0, "row_id": 0, "logits": 1.0}, {"feature_id": 1, "row_id": 2, "logits": 3.0}]
    assert metrics == {"loss": (1 + 3) / 2 + 0.5 * (1 + 9) / 2, "rows": 2.0}
    arrays = {name: value.numpy() for name, value in outputs.items()}
    assert task.decode(arrays, batch) == [{"row_id": 0, "logits": 1.0}, {"row_id": 2, "logits": 3.0}]
    assert task.state() == {}


def test_rows_of_a_flat_batch_come_by_segment() -> None:
    """An engine may feed a padded batch as one row without padding: outputs are then one a segment."""
    task = Counting(FakeProcessor(), Limits())
    features = made(task, [{"text": "a b"}, {"text": "c"}])
    packed = Counting(FakeProcessor(), PACKED).collate([features], 7)
    rows = task.reduce({"logits": torch.tensor([[1.0], [3.0]])}, tensors(packed), PlainOps()).rows
    assert [row["logits"] for row in rows] == [1.0, 3.0]
    assert [row["feature_id"] for row in rows] == [0, 1]


def test_a_term_without_weight_counts_nothing() -> None:
    part = EvalPart({"a.sum": 2.0, "a.weight": 4.0, "b.sum": 0.0, "b.weight": 0.0}, [])
    assert mean_loss(part) == 0.5


# -- roles --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "roles"),
    [
        (["idx", "sentence", "label"], ["sentence", None, "label"]),
        (["question", "sentence", "label", "idx"], ["question", "sentence", "label"]),
        (["sentence1", "sentence2", "label"], ["sentence1", "sentence2", "label"]),
        (["premise", "hypothesis", "label"], ["premise", "hypothesis", "label"]),
        (["question1", "question2", "is_duplicate", "label"], ["question1", "question2", "label"]),
        (["Review", "Stars"], ["Review", None, "Stars"]),
        (["评论", "标签"], ["评论", None, "标签"]),
        (["title", "content", "category"], ["content", None, "category"]),
        (["label", "text_pair", "text"], ["text", "text_pair", "label"]),
    ],
)
def test_columns_are_guessed(columns: list[str], roles: list[str | None]) -> None:
    found = map_roles(Schema({c: Column("text") for c in columns}), (TEXT, TEXT_PAIR, LABEL), {})
    assert [found.get(name) for name in ("text", "text_pair", "label")] == roles


# -- a stranger's task --------------------------------------------------------------------------------------------


def test_a_strangers_task_is_short_and_conforms() -> None:
    assert len(Path(stars_task.__file__).read_text().splitlines()) < 60
    report = check_task(stars_task.Stars())
    assert report.findings == []
    assert report.skipped == []


def test_a_strangers_head_gives_the_same_in_packs() -> None:
    model = FakeLanguageModel(pretrained=True)
    rows = [{"text": t, "label": float(n)} for n, t in enumerate(TEXTS)]
    plain, packing = (
        stars_task.Stars().bind(model.processor, model.config, Schema({}), limits) for limits in (Limits(), PACKED)
    )
    features = made(plain, rows)
    torch.manual_seed(0)
    module = model.build(plain.head, device="cpu")
    results = []
    for task, groups in ((plain, [[f] for f in features]), (packing, [features[:2], features[2:]])):
        batch = task.collate(groups, max(sum(f.length for f in g) for g in groups))
        outputs = module(**tensors(batch).inputs)
        (term,) = task.loss(outputs, tensors(batch), PlainOps())
        with torch.no_grad():
            part = task.reduce(outputs, tensors(batch), PlainOps())
        results.append((float(term.sum.detach()), [row["stars"] for row in part.rows], batch.weights))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
    assert results[0][1] == pytest.approx(results[1][1], rel=1e-5)
    assert results[0][2] == results[1][2] == {"stars": 5.0}
