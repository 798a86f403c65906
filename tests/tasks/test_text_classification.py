"""Task `text-classification` against torch's and transformers' losses, transformers' pipeline, and the conformance suite."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from task_tools import (
    LIMITS,
    PACKED,
    TEXTS,
    PlainOps,
    bind,
    collate,
    column,
    evaluate,
    features,
    logits_for,
    mean,
    tensors,
    tiny_bert,
)

import spcore_tasks.plugin
from spcore.components import Registry
from spcore.errors import DataError, RefusalError
from spcore.features import Counts
from spcore.interfaces.dataset import Column, Schema
from spcore.interfaces.task import IGNORE, Limits
from spcore.shards import finish, load, whole_shards, write_shard
from spcore.testing.fakes import FakeProcessor
from spcore.testing.suites.task import check_task
from spcore_tasks.options import TextClassificationOptions
from spcore_tasks.text_classification import TextClassification

SINGLE, MULTI, REGRESSION = "single_label_classification", "multi_label_classification", "regression"
NAMES = ("bad", "fair", "good")
LABELS = [0, 2, 1, 2, 0]
SETS = [["bad"], ["good", "fair"], [], ["fair"], ["bad", "fair", "good"]]
NUMBERS = [0.5, -1.25, 3.0, 0.0, 2.75]

COLUMNS: dict[str, tuple[Column, list[Any]]] = {
    SINGLE: (column(LABELS, labels=NAMES), LABELS),
    MULTI: (column(SETS), SETS),
    REGRESSION: (column(NUMBERS), NUMBERS),
}
PROBLEMS = pytest.mark.parametrize("problem", [SINGLE, MULTI, REGRESSION])


def bound_to(problem: str, limits: Limits = LIMITS, **options: Any) -> Any:
    return bind(COLUMNS[problem][0], limits, **options)


# -- losses -------------------------------------------------------------------------------------------------------


@PROBLEMS
def test_losses_and_gradients_are_those_of_transformers(problem: str) -> None:
    bound = bound_to(problem)
    batch = collate(bound, features(bound, COLUMNS[problem][1]))
    model = tiny_bert(bound.head.size, problem)
    inputs = tensors(batch).inputs
    labels = tensors(batch).targets["labels"]
    theirs = model(**inputs, labels=labels).loss
    theirs.backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    ours = mean(bound, {"logits": model(**inputs).logits}, batch)
    ours.backward()
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-6)
    for name, p in model.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(p.grad, grads[name], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("weights", [None, [0.5, 1.0, 4.0], "balanced"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_weighted_and_smoothed_loss_is_torchs(weights: Any, smoothing: float) -> None:
    bound = bound_to(SINGLE, class_weights=weights, label_smoothing=smoothing)
    batch = collate(bound, features(bound, LABELS), fill=3)
    logits = logits_for(batch, 3).requires_grad_()
    by_class = {None: None, "balanced": [5 / 6, 5 / 3, 5 / 6]}.get(
        weights if weights is None or weights == "balanced" else "", weights
    )
    real = logits[: len(LABELS)]
    theirs = torch.nn.functional.cross_entropy(
        real,
        torch.tensor(LABELS),
        weight=None if by_class is None else torch.tensor(by_class),
        label_smoothing=smoothing,
    )
    ours = mean(bound, {"logits": logits}, batch)
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-6)
    (expected,) = torch.autograd.grad(theirs, logits)
    (found,) = torch.autograd.grad(ours, logits)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    assert not found[len(LABELS) :].any()


def test_half_precision_outputs_give_a_float32_loss() -> None:
    for problem in (SINGLE, MULTI, REGRESSION):
        bound = bound_to(problem)
        batch = collate(bound, features(bound, COLUMNS[problem][1]))
        logits = logits_for(batch, bound.head.size).bfloat16()
        (term,) = bound.loss({"logits": logits}, tensors(batch), PlainOps())
        (whole,) = bound.loss({"logits": logits.float()}, tensors(batch), PlainOps())
        assert term.sum.dtype == torch.float32
        assert float(term.sum) == float(whole.sum)


def test_a_class_weight_of_zero_takes_its_rows_out() -> None:
    bound = bound_to(SINGLE, class_weights={"fair": 0})
    batch = collate(bound, features(bound, LABELS))
    assert batch.weights == {"classification": 4.0}
    assert batch.targets["weight"].tolist() == [1, 1, 0, 1, 1]


@PROBLEMS
def test_filler_has_no_weight_and_adds_no_loss(problem: str) -> None:
    """Also where a text is as long as there are labels, so that filler's array of labels is cut."""
    bound = bound_to(problem, label_smoothing=0.1 if problem == SINGLE else 0.0)
    made = features(bound, COLUMNS[problem][1], ["x", *TEXTS[1:]])
    assert made[0].length == 3
    plain, filled = collate(bound, made), collate(bound, made, fill=2)
    assert filled.weights == plain.weights
    assert filled.targets["weight"][-2:].tolist() == [0, 0]
    logits = logits_for(filled, bound.head.size)
    (a,) = bound.loss({"logits": logits}, tensors(filled), PlainOps())
    (b,) = bound.loss({"logits": logits[:5]}, tensors(plain), PlainOps())
    assert float(a.sum) == pytest.approx(float(b.sum), rel=1e-6)
    assert [row["feature_id"] for row in evaluate(bound, {"logits": logits}, filled)[1]] == [10, 11, 12, 13, 14]


def test_weights_are_what_the_means_divide_by() -> None:
    assert collate(bound_to(SINGLE), features(bound_to(SINGLE), LABELS)).weights == {"classification": 5.0}
    assert collate(bound_to(MULTI), features(bound_to(MULTI), SETS)).weights == {"classification": 15.0}
    assert collate(bound_to(REGRESSION), features(bound_to(REGRESSION), NUMBERS)).weights == {"classification": 5.0}


@PROBLEMS
def test_packs_hold_what_single_features_hold(problem: str) -> None:
    plain, packing = bound_to(problem), bound_to(problem, PACKED)
    made = features(plain, COLUMNS[problem][1])
    alone = collate(plain, made)
    packs = packing.collate([made[:2], made[2:]], 64)
    for name, values in alone.targets.items():
        assert np.array_equal(values, packs.targets[name])
    assert packs.weights == alone.weights
    assert packs.feature_ids[packs.feature_ids >= 0].tolist() == alone.feature_ids.ravel().tolist()
    for s, group in enumerate((made[:2], made[2:])):
        for k, feature in enumerate(group):
            where = packs.inputs["segment_ids"][s] == k + 1
            assert packs.inputs["input_ids"][s][where].tolist() == feature.arrays["input_ids"].tolist()
    logits = logits_for(alone, plain.head.size)
    assert evaluate(plain, {"logits": logits}, alone) == evaluate(packing, {"logits": logits}, packs)


@PROBLEMS
def test_features_survive_the_store(problem: str, tmp_path: Path) -> None:
    bound = bound_to(problem)
    made = features(bound, COLUMNS[problem][1])
    counts = Counts(features=len(made))
    write_shard(tmp_path, 0, len(made), made, counts)
    finish(tmp_path, whole_shards(tmp_path), Counts())
    again = load(tmp_path)
    assert again is not None
    a, b = collate(bound, made), collate(bound, [again[n] for n in range(len(again))])
    for name in a.targets:
        assert np.array_equal(a.targets[name], b.targets[name])


# -- evaluation ---------------------------------------------------------------------------------------------------


def test_rows_and_figures_of_single_labels() -> None:
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    bound = bound_to(SINGLE)
    batch = collate(bound, features(bound, LABELS), fill=1)
    logits = logits_for(batch, 3)
    metrics, rows = evaluate(bound, {"logits": logits}, batch)
    predicted = logits[:5].argmax(-1).tolist()
    assert [row["predicted"] for row in rows] == [NAMES[n] for n in predicted]
    assert [row["gold"] for row in rows] == [NAMES[n] for n in LABELS]
    assert [row["row_id"] for row in rows] == [100, 101, 102, 103, 104]
    np.testing.assert_allclose([row["scores"] for row in rows], logits[:5].softmax(-1).numpy(), rtol=1e-6)
    assert list(metrics) == ["accuracy", "f1", "f1_macro", "f1_micro", "matthews_correlation", "loss", "rows"]
    assert metrics["accuracy"] == accuracy_score(LABELS, predicted)
    assert metrics["f1_macro"] == pytest.approx(f1_score(LABELS, predicted, average="macro", zero_division=0))
    assert metrics["matthews_correlation"] == pytest.approx(matthews_corrcoef(LABELS, predicted))
    assert metrics["loss"] == pytest.approx(float(torch.nn.functional.cross_entropy(logits[:5], torch.tensor(LABELS))))
    assert metrics["rows"] == 5
    json.dumps(rows)


def test_rows_and_figures_of_several_labels() -> None:
    from sklearn.metrics import accuracy_score, f1_score

    bound = bound_to(MULTI)
    batch = collate(bound, features(bound, SETS))
    logits = logits_for(batch, 3)
    metrics, rows = evaluate(bound, {"logits": logits}, batch)
    gold, predicted = batch.targets["labels"], (logits.sigmoid() > 0.5).int().numpy()
    assert [set(row["gold"]) for row in rows] == [set(s) for s in SETS]
    assert [row["predicted"] for row in rows] == [[NAMES[n] for n in np.flatnonzero(p)] for p in predicted]
    assert metrics["accuracy"] == accuracy_score(gold, predicted)
    assert metrics["f1_micro"] == pytest.approx(f1_score(gold, predicted, average="micro"))
    assert bound.metric_names[0] == "f1_micro"
    json.dumps(rows)


def test_rows_and_figures_of_numbers() -> None:
    from scipy.stats import pearsonr, spearmanr

    bound = bound_to(REGRESSION)
    batch = collate(bound, features(bound, NUMBERS), fill=1)
    logits = logits_for(batch, 1)
    metrics, rows = evaluate(bound, {"logits": logits}, batch)
    predicted = logits[:5, 0].tolist()
    assert [(row["predicted"], row["gold"]) for row in rows] == list(zip(predicted, NUMBERS, strict=True))
    assert metrics["pearson"] == pytest.approx(pearsonr(NUMBERS, predicted)[0])
    assert metrics["spearman"] == pytest.approx(spearmanr(NUMBERS, predicted)[0])
    assert metrics["mse"] == pytest.approx(metrics["loss"], rel=1e-6)
    assert "mse" in TextClassification.lower_is_better


@PROBLEMS
def test_predictions_that_are_all_alike_give_figures(problem: str) -> None:
    bound = bound_to(problem)
    batch = collate(bound, features(bound, COLUMNS[problem][1]))
    metrics, _ = evaluate(bound, {"logits": torch.ones(5, bound.head.size)}, batch)
    assert all(np.isfinite(value) for value in metrics.values())


@PROBLEMS
def test_rows_without_labels_are_fed_and_answered(problem: str) -> None:
    bound = bound_to(problem, label_smoothing=0.1 if problem == SINGLE else 0.0)
    batch = collate(bound, features(bound, None))
    assert batch.weights == {"classification": 0.0}
    logits = logits_for(batch, bound.head.size)
    (term,) = bound.loss({"logits": logits}, tensors(batch), PlainOps())
    assert float(term.sum) == 0.0
    assert [a["row_id"] for a in bound.decode({"logits": logits.numpy()}, batch)] == [100, 101, 102, 103, 104]
    assert [row["gold"] for row in bound.reduce({"logits": logits}, tensors(batch), PlainOps()).rows] == [None] * 5
    if problem == SINGLE:
        assert batch.targets["labels"].tolist() == [IGNORE] * 5


# -- answers ------------------------------------------------------------------------------------------------------


def tokenizer(tmp_path: Path) -> Any:
    from transformers import BertTokenizerFast

    words = sorted({word for text in TEXTS for word in text.split()})
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]))
    return BertTokenizerFast(str(tmp_path / "vocab.txt"))


class ByTokenizer(FakeProcessor):
    """A transformers tokenizer as a processor, as plainly as can be."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__()
        self.tokenizer = tokenizer

    def encode(self, text: str, pair: str | None = None, *, max_length: int | None = None, special: bool = True) -> Any:
        found = super().encode(text, pair)
        arrays = {k: np.array(v) for k, v in self.tokenizer(text, pair).items() if k in self.fill}
        return replace(found, arrays=arrays, truncated=0)


@pytest.mark.parametrize(("problem", "how"), [(SINGLE, "softmax"), (MULTI, "sigmoid"), (REGRESSION, "none")])
def test_answers_are_those_of_transformers_pipeline(problem: str, how: str, tmp_path: Path) -> None:
    from transformers import pipeline

    words = tokenizer(tmp_path)
    bound = bind(COLUMNS[problem][0], processor=ByTokenizer(words))
    model = tiny_bert(bound.head.size, problem, bound.head.labels)
    batch = collate(bound, features(bound, None))
    with torch.no_grad():
        logits = model(**tensors(batch).inputs).logits
    ours = bound.decode({"logits": logits.numpy()}, batch)
    pipe = pipeline("text-classification", model=model, tokenizer=words, device="cpu")
    theirs = pipe(TEXTS, top_k=None, **({"function_to_apply": "none"} if how == "none" else {}))
    for answer, scores in zip(ours, theirs, strict=True):
        by_label = {s["label"]: s["score"] for s in scores}
        if problem == SINGLE:
            assert answer.keys() == {"row_id", "label", "score"}
            assert answer["label"] == max(by_label, key=by_label.__getitem__)
            assert answer["score"] == pytest.approx(by_label[answer["label"]], abs=1e-5)
        elif problem == MULTI:
            assert answer["scores"] == pytest.approx(by_label, abs=1e-5)
            assert answer["labels"] == [name for name in bound.head.labels if by_label[name] > 0.5]
        else:
            assert answer["score"] == pytest.approx(by_label["LABEL_0"], abs=1e-5)


def test_large_logits_do_not_overflow() -> None:
    single, multi = bound_to(SINGLE), bound_to(MULTI)
    logits = np.array([[1e4, -1e4, 0.0]] * 5, np.float32)
    assert single.decode({"logits": logits}, collate(single, features(single, None)))[0]["score"] == 1.0
    found = multi.decode({"logits": logits}, collate(multi, features(multi, None)))[0]
    assert found["scores"] == {"bad": 1.0, "fair": 0.0, "good": 0.5}


# -- binding ------------------------------------------------------------------------------------------------------


@PROBLEMS
@pytest.mark.parametrize("limits", [LIMITS, Limits()])
def test_a_saved_state_gives_the_same_task(problem: str, limits: Limits) -> None:
    options = {"class_weights": [1.0, 2.0, 3.0], "label_smoothing": 0.2} if problem == SINGLE else {}
    bound = bound_to(problem, **options)
    state = json.loads(json.dumps(bound.state()))
    assert state["problem_type"] == problem
    again = TextClassification(TextClassificationOptions()).bind(FakeProcessor(), None, state, limits)
    assert again.head == bound.head
    a, b = (collate(task, features(task, COLUMNS[problem][1])) for task in (bound, again))
    logits = {"logits": logits_for(a, bound.head.size)}
    assert float(mean(bound, logits, a)) == float(mean(again, logits, b))
    assert bound.decode({"logits": logits["logits"].numpy()}, a) == again.decode(
        {"logits": logits["logits"].numpy()}, b
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_weights": [1.0, 2.0]}, "task.class_weights has 2 numbers for 3 labels: bad, fair, good"),
        ({"class_weights": {"god": 2.0}}, "task.class_weights: unknown label 'god'; did you mean 'good'?"),
        ({"class_weights": [1.0, -1.0, 1.0]}, "numbers from 0 on"),
        ({"class_weights": [0.0, 0.0, 0.0]}, "not all of them 0"),
        ({"metric": "pearson"}, "task.metric: unknown metric of single_label_classification 'pearson'"),
        ({"metric": ["accuracy", "mse"]}, "unknown metric of single_label_classification 'mse'"),
    ],
)
def test_options_that_do_not_fit_the_data(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RefusalError) as caught:
        bound_to(SINGLE, **options)
    assert message in str(caught.value)


@pytest.mark.parametrize("problem", [MULTI, REGRESSION])
@pytest.mark.parametrize(("name", "value"), [("class_weights", "balanced"), ("label_smoothing", 0.1)])
def test_options_of_single_labels_are_refused_elsewhere(problem: str, name: str, value: Any) -> None:
    with pytest.raises(
        RefusalError, match=f"task.{name}: goes with single_label_classification, and this is {problem}; leave it out"
    ):
        bound_to(problem, **{name: value})


def test_a_regression_has_no_names() -> None:
    with pytest.raises(RefusalError, match=r"task.labels: a regression has no labels"):
        bound_to(REGRESSION, labels=["a", "b"], problem_type=REGRESSION)


def test_balanced_weights() -> None:
    from sklearn.utils.class_weight import compute_class_weight

    values = ["a"] * 6 + ["b"] * 3 + ["c"]
    bound = bind(column(values), class_weights="balanced")
    expected = compute_class_weight("balanced", classes=np.array(["a", "b", "c"]), y=np.array(values))
    assert bound.state()["class_weights"] == pytest.approx(expected.tolist())
    unseen = bind(column([0, 0, 0, 1], labels=("a", "b", "never")), class_weights="balanced")
    assert unseen.state()["class_weights"] == pytest.approx([4 / 6, 2.0, 1.0])
    with pytest.raises(RefusalError, match=r"balanced: the data does not count its labels"):
        bind(Column("integer", ("a", "b")), class_weights="balanced")


@pytest.mark.parametrize(
    ("problem", "metric", "first"),
    [
        (SINGLE, None, "accuracy"), (SINGLE, "matthews_correlation", "matthews_correlation"), (SINGLE, ["f1", "accuracy"], "f1"),
        (MULTI, None, "f1_micro"), (MULTI, "accuracy", "accuracy"), (REGRESSION, None, "pearson_spearman"), (REGRESSION, "mse", "mse"),
    ],
)  # fmt: skip
def test_the_metric_that_decides(problem: str, metric: Any, first: str) -> None:
    bound = bound_to(problem, metric=metric)
    batch = collate(bound, features(bound, COLUMNS[problem][1]))
    metrics, _ = evaluate(bound, {"logits": logits_for(batch, bound.head.size)}, batch)
    assert tuple(metrics) == bound.metric_names
    assert bound.metric_names[0] == first


@pytest.mark.parametrize(
    "options",
    [
        {"metric": "acuracy"},
        {"label_smoothing": 1.0},
        {"label_smoothing": -0.1},
        {"problem_type": "ner"},
        {"labels": [True, False]},
        {"head": "mean"},
    ],
)
def test_wrong_options_are_refused_by_the_model(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TextClassificationOptions(**options)


def test_options_survive_json() -> None:
    options = TextClassificationOptions(labels={0: "neg", "1": "pos"}, class_weights={"neg": 2}, metric=["f1"])
    again = TextClassificationOptions.model_validate(json.loads(json.dumps(options.model_dump(mode="json"))))
    schema = Schema({"text": Column("text"), "label": column([0, 1])})
    states = [TextClassification(o).bind(FakeProcessor(), None, schema, LIMITS).state() for o in (options, again)]
    assert states[0] == states[1]


def test_rows_that_cannot_be_used_say_why() -> None:
    bound = bound_to(SINGLE)
    for row, message in [
        ({"text": " ", "label": 0}, "blank text"), ({"text": "x", "label": None}, "no label"), ({"text": "x", "label": -1}, "no label"),
        ({"text": "x", "label": 7}, "label '7' is not known; known: bad, fair, good"), ({"text": None}, "blank text"),
    ]:  # fmt: skip
        with pytest.raises(DataError) as caught:
            bound.featurize(row)
        assert caught.value.message == message


def test_a_pair_is_one_sequence() -> None:
    bound = bound_to(SINGLE)
    (feature,) = bound.featurize({"text": "one two", "text_pair": "three", "label": "good"})
    assert (
        feature.arrays["input_ids"].tolist() == FakeProcessor().encode("one two", "three").arrays["input_ids"].tolist()
    )


# -- the conformance suite, and the component ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("problem", "options"),
    [(SINGLE, {}), (MULTI, {}), (REGRESSION, {}), (SINGLE, {"class_weights": "balanced", "label_smoothing": 0.1})],
)
def test_it_conforms(problem: str, options: dict[str, Any]) -> None:
    label, values = COLUMNS[problem]
    schema = Schema({"text": Column("text"), "label": label})
    rows = [{"text": t, "label": v} for t, v in zip(TEXTS, values, strict=True)]
    report = check_task(TextClassification(TextClassificationOptions(**options)), rows=rows, schema=schema)
    assert report.findings == []


@pytest.mark.parametrize(
    "name", ["text-classification", "sequence-classification", "sentiment", "tasks:text-classification"]
)
def test_the_component_is_found_by_its_names(name: str) -> None:
    registry = Registry(entry_points=False)
    registry.register(spcore_tasks.plugin, name="tasks")
    model = registry.options_model("task", name)
    assert model is TextClassificationOptions
    made = registry.create("task", name, model())
    assert [role.name for role in made.roles] == ["text", "text_pair", "label"]
    assert [role.name for role in made.roles if role.target] == ["label"]
