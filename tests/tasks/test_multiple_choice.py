"""Task `multiple-choice`: a score a choice, a softmax over each question's own, rows of every shape that data sets have."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from task_tools import tensors
from transformers import BertConfig, BertForMultipleChoice, BertForSequenceClassification

from spcore.errors import DataError, RefusalError
from spcore.gathering import gathered
from spcore.interfaces.dataset import Column, Schema
from spcore.interfaces.task import IGNORE, Batch, Limits
from spcore.loading import filler
from spcore.rows import open_rows
from spcore.tensors.ops import WholeOps
from spcore.testing.fakes import FakeProcessor
from spcore_data.options import RowsOptions
from spcore_data.rows import Rows
from spcore_tasks.multiple_choice import MultipleChoice
from spcore_tasks.options import MultipleChoiceOptions

TASK = MultipleChoice(MultipleChoiceOptions())


def bound(labels: list[Any] | None = None, limits: Limits | None = None, **options: Any) -> Any:
    counts = {str(v): 1 for v in (labels if labels is not None else [0, 1])}
    schema = Schema({"context": Column("text"), "choices": Column("list"), "label": Column("integer", counts=counts)})
    return MultipleChoice(MultipleChoiceOptions(**options)).bind(
        FakeProcessor(), None, schema, limits or Limits(max_length=24)
    )


def batch_of(task: Any, rows: list[dict[str, Any]], fill: bool = False) -> Batch:
    made = [replace(f, id=3 + n, row_id=n) for n, row in enumerate(rows) for f in task.featurize(row)]
    made += [filler(made[0])] * fill
    batch: Batch = task.collate([[f] for f in made], max(f.length for f in made))
    return batch


def questions(counts: list[int]) -> list[dict[str, Any]]:
    return [
        {"context": f"w{8 + n}", "choices": [f"w{20 + k} w{9 + n}" for k in range(count)], "label": (n * 7) % count}
        for n, count in enumerate(counts)
    ]


def test_the_loss_is_that_of_transformers_and_so_are_the_weights_names() -> None:
    config = BertConfig(vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    torch.manual_seed(0)
    model = BertForMultipleChoice(config).eval()
    one = BertForSequenceClassification(BertConfig(**{**config.to_dict(), "num_labels": 1})).eval()
    one.load_state_dict(model.state_dict())
    task, rows = bound(), questions([3, 3, 3])
    batch = tensors(batch_of(task, rows))
    inputs = {name: array.reshape(3, 3, -1) for name, array in batch.inputs.items()}
    with torch.no_grad():
        theirs = model(**inputs, labels=torch.tensor([row["label"] for row in rows]))
        outputs = {"logits": one(**batch.inputs).logits}
    (term,) = task.loss(outputs, batch, WholeOps())
    assert float(term.sum) / batch.weights["choice"] == pytest.approx(float(theirs.loss), rel=1e-6)
    part = task.reduce(outputs, batch, WholeOps())
    assert [row["predicted"] for row in part.rows] == theirs.logits.argmax(-1).tolist()
    np.testing.assert_allclose([row["scores"] for row in part.rows], theirs.logits, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(2, 5), min_size=1, max_size=6), st.integers(0, 99), st.booleans())
def test_questions_of_different_numbers_of_choices(counts: list[int], seed: int, flat: bool) -> None:
    task, rows = bound(), questions(counts)
    batch = tensors(batch_of(task, rows, fill=True))
    if flat:  # as an engine that feeds sequences end to end tells their ids
        batch = replace(batch, feature_ids=batch.feature_ids.reshape(1, -1), row_of=batch.row_of.reshape(1, -1))
    logits = torch.from_numpy(np.random.default_rng(seed).normal(size=(sum(counts) + counts[0], 1)).astype(np.float32))
    logits.requires_grad_()
    (term,) = task.loss({"logits": logits}, batch, WholeOps())
    pieces = logits.detach()[: sum(counts), 0].split(counts)
    expected = -sum(float(p.log_softmax(-1)[row["label"]]) for p, row in zip(pieces, rows, strict=True))
    assert float(term.sum.detach()) == pytest.approx(expected, rel=1e-5)
    assert batch.weights == {"choice": float(len(counts))}
    term.sum.backward()
    assert logits.grad is not None
    assert not logits.grad[sum(counts) :].any(), "filler learns nothing"


def test_figures_and_answers() -> None:
    task, rows = bound(), questions([2, 3])
    batch = batch_of(task, rows, fill=True)
    logits = np.array([[2.0], [0.0], [0.0], [0.0], [3.0], [9.0], [9.0]], np.float32)
    part = task.reduce({"logits": torch.from_numpy(logits)}, tensors(batch), WholeOps())
    assert [(row["predicted"], row["gold"]) for row in part.rows] == [(0, 0), (2, 1)]
    assert task.metrics(part)["accuracy"] == 0.5
    answers = [task.combine([answer], rows[answer["row_id"]]) for answer in task.decode({"logits": logits}, batch)]
    assert [(a["choice"], a["text"]) for a in answers] == [(0, "w20 w9"), (2, "w22 w10")]
    assert answers[0]["score"] == pytest.approx(np.exp(2) / (np.exp(2) + 1))
    assert sum(answers[1]["scores"]) == pytest.approx(1)


SHAPES: dict[str, list[dict[str, Any]]] = {
    "SWAG": [
        {"sent1": "he sat", "sent2": "then he", "ending0": "ran", "ending1": "ate", "ending2": "sang", "ending3": "flew", "label": n}
        for n in (2, 0)
    ],
    "COPA": [{"premise": "it rained", "choice1": "wet", "choice2": "dry", "question": "effect", "label": n} for n in (0, 1)],
    "HellaSwag": [{"ctx_a": "he sat", "ctx_b": "then he", "ctx": "he sat then he", "endings": ["ran", "ate"], "label": n} for n in ("1", "0")],
    "ARC": [
        {"question": "why", "choices": {"text": ["a b", "c d"], "label": ["1", "2"]}, "answerKey": n} for n in ("2", "1")
    ],
    "letters": [{"article": "it is", "question": "what", "options": ["x", "y", "z"], "answer": n} for n in ("C", "A")],
    "texts": [{"query": "what", "choices": ["x", "y", "z"], "answer": n} for n in ("y", "x")],
    "from one": [{"goal": "do", "sol1": "x", "sol2": "y", "label": n} for n in (1, 2)],
}  # fmt: skip
RIGHT = {
    "SWAG": [2, 0],
    "COPA": [0, 1],
    "HellaSwag": [1, 0],
    "ARC": [1, 0],
    "letters": [2, 0],
    "texts": [1, 0],
    "from one": [0, 1],
}
FIRST = {
    "SWAG": ("he sat", "then he ran"), "COPA": ("it rained effect", "wet"), "HellaSwag": ("he sat", "then he ran"), "ARC": ("why", "a b"),
    "letters": ("it is what", "x"), "texts": ("what", "x"), "from one": ("do", "x"),
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_rows_as_data_sets_have_them(name: str) -> None:
    view = open_rows(Rows(RowsOptions(rows=tuple(SHAPES[name]))), TASK.roles, columns={}, split=None, limit=None)
    processor = FakeProcessor()
    task = TASK.bind(processor, None, view.schema, Limits(max_length=24))
    made = [task.featurize(row)[0] for row in view.read([0, 1])]
    assert [int(f.arrays["label"]) for f in made] == RIGHT[name]
    encoded = processor.encode(*FIRST[name]).arrays["input_ids"]
    assert made[0].arrays["input_ids"][0][: len(encoded)].tolist() == encoded.tolist()


def test_columns_are_gathered_as_the_recipe_says() -> None:
    rows = ({"a": "x", "b": "y", "c": None, "q": "why"}, {"a": "x", "b": "y", "c": "z", "q": "why"})
    source = Rows(RowsOptions(rows=rows)).open(None)
    made, mapping = gathered(source, TASK.roles, {"choices": "c, a,b", "context": "q"})
    assert mapping == {"choices": "c, a,b", "context": "q"}
    assert [row["c, a,b"] for row in made.read([0, 1])] == [[None, "x", "y"], ["z", "x", "y"]]
    assert gathered(source, TASK.roles, {"choices": "a, nothing"})[0] is source
    assert made.fingerprint != source.fingerprint
    assert [row["c, a,b"] for row in made.stream(0, 1, 1)] == [["z", "x", "y"]]


WRONG: dict[str, dict[str, Any]] = {
    "no choices": {"choices": None},
    "the choices are no list": {"choices": "x"},
    "fewer than two choices": {"choices": ["x"]},
    "blank choice": {"choices": ["x", " "]},
    "blank context": {"context": ""},
    "no label": {"label": None},
    "label 2 of 2 choices, numbered from 0": {"label": 2},
    "the label is no choice: neither its number, nor its letter, nor its text": {"label": "yes"},
}


@pytest.mark.parametrize("reason", WRONG)
def test_rows_that_cannot_be_used(reason: str) -> None:
    with pytest.raises(DataError) as error:
        bound().featurize({"context": "w9", "choices": ["x", "y"], "label": 0, **WRONG[reason]})
    assert error.value.message == reason


def test_labels_may_count_from_one() -> None:
    row = {"context": "w9", "choices": ["w8", "w10"]}
    for task in (bound([1, 2]), bound([0, 1, 2], first=1)):
        assert [int(task.featurize({**row, "label": n})[0].arrays["label"]) for n in (1, 2)] == [0, 1]
    with pytest.raises(DataError, match="no label"):
        bound().featurize({**row, "label": -1})
    prediction = batch_of(bound(), [row])
    assert prediction.targets["labels"].tolist() == [IGNORE] * 2
    assert prediction.weights == {"choice": 0.0}


def test_packs_and_other_columns_are_refused() -> None:
    with pytest.raises(RefusalError, match=r"data.pack 32: a question has several sequences"):
        bound(limits=Limits(max_length=24, pack=32))
    columns = {"context": Column("text"), "choices": Column("text"), "label": Column("integer")}
    with pytest.raises(DataError, match="the column holds text values; expected a list"):
        TASK.bind(FakeProcessor(), None, Schema(columns), Limits())
