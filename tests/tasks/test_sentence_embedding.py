"""Task `sentence-embedding`: one vector a text, the losses by the book and of sentence-transformers' formulas, exact over any cut, figures
against scipy and a search by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from task_tools import tensors

from spcore.errors import DataError, RefusalError
from spcore.interfaces.dataset import Column, Schema
from spcore.interfaces.task import Batch, EvalPart, Limits
from spcore.loading import filler
from spcore.tensors.ops import WholeOps
from spcore.testing.fakes import FakeProcessor
from spcore.testing.fakes.language import FakeConfig
from spcore_tasks.options import SentenceEmbeddingOptions
from spcore_tasks.pooling import Pooled
from spcore_tasks.sentence_embedding import SentenceEmbedding, retrieval

WIDTH = FakeConfig().hidden_size
PAIRS = [
    {"text": "w8 w9", "positive": "w9 w8 w10", "negative": ["w11", "w12 w13"]},
    {"text": "w14", "positive": "w15", "negative": None},
    {"text": "w16 w17 w18", "positive": "w19", "negative": "w20"},
]


def bound(columns: str = "text positive", limits: Limits | None = None, **options: Any) -> Any:
    schema = Schema({name: Column("number" if name == "score" else "text") for name in columns.split()})
    task = SentenceEmbedding(SentenceEmbeddingOptions(**options))
    return task.bind(FakeProcessor(), FakeConfig(), schema, limits or Limits(max_length=24))


def batch_of(task: Any, rows: list[dict[str, Any]], fill: bool = False) -> Batch:
    made = [replace(f, id=3 + n, row_id=n) for n, row in enumerate(rows) for f in task.featurize(row)]
    made += [filler(made[0])] * fill
    batch: Batch = task.collate([[f] for f in made], max(f.length for f in made))
    return batch


def vectors(count: int, seed: int = 0, unit: bool = True) -> torch.Tensor:
    made = torch.from_numpy(np.random.default_rng(seed).normal(size=(count, WIDTH))).float()
    return torch.nn.functional.normalize(made, dim=-1) if unit else made


def whole(task: Any, found: torch.Tensor, ids: list[int], scores: list[float] | None = None) -> float:
    score = torch.tensor(scores if scores is not None else [0.0] * len(ids))
    (term,) = task.whole_loss(torch.cat([found, score[:, None]], -1), np.array(ids))
    return float(term.sum)


@pytest.mark.parametrize("how", ["mean", "cls", "last"])
@pytest.mark.parametrize("unit", [True, False])
def test_a_vector_is_of_its_own_tokens_padded_or_end_to_end(how: Any, unit: bool) -> None:
    lengths = [3, 1, 5]
    rows = [torch.randn(n, 4, generator=torch.Generator().manual_seed(n)) for n in lengths]
    by_hand = torch.stack([{"mean": r.mean(0), "cls": r[0], "last": r[-1]}[how] for r in rows])
    by_hand = torch.nn.functional.normalize(by_hand, dim=-1) if unit else by_hand
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=7.0)
    mask = torch.tensor([[n > k for k in range(5)] for n in lengths])
    head = Pooled(how, unit=unit)
    torch.testing.assert_close(head(padded, mask, None)["embedding"], by_hand)
    # Two in one row of 6 with 2 of padding, one in another.
    packed = torch.stack(
        [torch.cat([rows[0], rows[1], torch.full((2, 4), 7.0)]), torch.cat([rows[2], torch.full((1, 4), 7.0)])]
    )
    real = torch.tensor([[True] * 4 + [False] * 2, [True] * 5 + [False]])
    segments = torch.tensor([[0, 0], [0, 3], [1, 0]])
    torch.testing.assert_close(head(packed, real, segments)["embedding"], by_hand)


def test_contrastive_by_the_book() -> None:
    task, found = bound(temperature=0.1), vectors(8)
    ids = [3, 3, 3, 3, 4, 4, 5, 5]  # of PAIRS: two negatives, none, and here none
    text, candidates = found[[0, 4, 6]], found[[1, 5, 7, 2, 3]]
    logits = text @ candidates.T / 0.1
    expected = torch.nn.functional.cross_entropy(logits, torch.arange(3), reduction="sum")
    assert whole(task, found, ids) == pytest.approx(float(expected), rel=1e-6)
    other = torch.nn.functional.cross_entropy(found[[1, 5, 7]] @ text.T / 0.1, torch.arange(3), reduction="sum")
    both = whole(bound(temperature=0.1, symmetric=True), found, ids)
    assert both == pytest.approx(float(expected + other) / 2, rel=1e-6)
    dot = vectors(8, unit=False)
    logits = dot[[0, 4, 6]] @ dot[[1, 5, 7, 2, 3]].T
    expected = torch.nn.functional.cross_entropy(logits, torch.arange(3), reduction="sum")
    assert whole(bound(similarity="dot"), dot, ids) == pytest.approx(float(expected), rel=1e-6)


def test_cosent_by_the_book() -> None:
    task, found, scores = bound("text positive score", temperature=0.05), vectors(8, 2), [3.0, 1.0, 1.0, 5.0]
    near = [float(found[2 * n] @ found[2 * n + 1]) for n in range(4)]
    wrong = [np.exp((near[i] - near[j]) / 0.05) for i in range(4) for j in range(4) if scores[i] < scores[j]]
    expected = 4 * np.log(1 + sum(wrong))
    got = whole(task, found, [n for n in range(4) for _ in range(2)], [s for s in scores for _ in range(2)])
    assert got == pytest.approx(expected, rel=1e-5)
    assert whole(task, found[:2], [0, 0], [3.0, 3.0]) == 0, "one pair is in order"


def test_batches_hold_texts_positives_and_negatives() -> None:
    task = bound("text positive negative")
    batch = batch_of(task, PAIRS, fill=True)
    assert batch.feature_ids[:, 0].tolist() == [3, 3, 3, 3, 4, 4, 5, 5, 5, -1, -1, -1, -1]
    assert batch.weights == {"contrast": 3.0}
    assert batch.inputs["attention_mask"].sum(1).tolist() == [4, 5, 3, 4, 3, 3, 5, 3, 3, 1, 1, 1, 1]
    asked = batch_of(task, [{"text": "w8"}])
    assert asked.weights == {"contrast": 0.0}
    assert asked.inputs["input_ids"].shape == (1, 3)
    held = tensors(batch_of(bound("text positive score"), [{"text": "w8", "positive": "w9", "score": 2.5}]))
    represented = bound("text positive score").representation({"embedding": vectors(2)}, held, WholeOps())
    assert represented[:, -1].tolist() == [2.5, 2.5]


def part_of(task: Any, rows: list[dict[str, Any]], found: torch.Tensor) -> EvalPart:
    part: EvalPart = task.reduce({"embedding": found}, tensors(batch_of(task, rows)), WholeOps())
    return part


def test_figures_of_pairs_and_of_scores() -> None:
    task, found = bound("text positive negative"), vectors(9, 5)
    figures = task.metrics(part_of(task, PAIRS, found))
    text, candidates = found[[0, 4, 6]], found[[1, 2, 3, 5, 7, 8]]
    near = text @ candidates.T
    ranks = [int((near[n] > near[n, own]).sum()) + 1 for n, own in enumerate([0, 3, 4])]
    assert figures["accuracy"] == pytest.approx(np.mean([rank == 1 for rank in ranks]))
    assert figures["mrr"] == pytest.approx(np.mean([1 / rank for rank in ranks]))
    assert figures["loss"] == pytest.approx(whole(task, found, [0, 0, 0, 0, 1, 1, 2, 2, 2]) / 3, rel=1e-6)
    scored = [{"text": f"w{8 + n}", "positive": f"w{20 + n}", "score": float(n % 4)} for n in range(6)]
    pairs = vectors(12, 6)
    figures = task.metrics(part_of(task, scored, pairs))
    near = (pairs[::2] * pairs[1::2]).sum(-1)
    for name, of in (("spearman", scipy.stats.spearmanr), ("pearson", scipy.stats.pearsonr)):
        assert figures[name] == pytest.approx(of([row["score"] for row in scored], near.numpy()).statistic, rel=1e-6)
    assert figures["rows"] == 6


def test_a_search_in_pieces_is_a_search(monkeypatch: pytest.MonkeyPatch) -> None:
    found, starts = vectors(40), np.arange(0, 40, 2)
    whole_search = retrieval(found, starts)
    monkeypatch.setattr("spcore_tasks.sentence_embedding._ROWS", 3)
    assert retrieval(found, starts) == whole_search


def test_answers_are_vectors() -> None:
    task, found = bound(), vectors(3, 1).numpy()
    batch = batch_of(task, [{"text": "w8"}, {"text": "w8", "positive": "w9"}], fill=True)
    answers = task.decode({"embedding": np.concatenate([found, found[:1]])}, batch)
    assert [sorted(a) for a in answers] == [["embedding", "row_id"], ["embedding", "row_id", "similarity"]]
    np.testing.assert_allclose(answers[0]["embedding"], found[0])
    assert answers[1]["similarity"] == pytest.approx(float(found[1] @ found[2]), rel=1e-6)


WRONG: dict[str, dict[str, Any]] = {
    "blank text": {"text": ""}, "blank positive": {"positive": None}, "blank negative": {"negative": ["w8", " "]},
    "no score": {"score": None}, "the score is not a number": {"score": "high"}, "the score is not a finite number": {"score": "inf"},
}  # fmt: skip


@pytest.mark.parametrize("reason", WRONG)
def test_rows_that_cannot_be_used(reason: str) -> None:
    with pytest.raises(DataError) as error:
        bound().featurize({"text": "w8", "positive": "w9", **WRONG[reason]})
    assert error.value.message == reason


def test_what_is_refused() -> None:
    with pytest.raises(RefusalError, match=r"data.pack 32: a row has several sequences"):
        bound(limits=Limits(max_length=24, pack=32))
    with pytest.raises(DataError, match=r"task.loss cosent: the data has no score"):
        bound(loss="cosent")
    with pytest.raises(RefusalError, match=r"task.symmetric: goes with loss contrastive"):
        bound("text positive score", symmetric=True)
    assert bound("text positive score", loss="contrastive").state()["loss"] == "contrastive"
    with pytest.raises(RefusalError, match="tells no hidden_size"):
        SentenceEmbedding(SentenceEmbeddingOptions()).bind(
            FakeProcessor(), object(), Schema({"text": Column("text")}), Limits()
        )
