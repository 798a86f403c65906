"""Task `token-classification`: words find their tokens, tags their words, windows lose none, figures are seqeval's and conlleval's."""

from __future__ import annotations

import copy
import itertools
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import seqeval.metrics
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.scheme import IOB2, IOBES
from task_tools import tensors
from tokenizers import pre_tokenizers
from transformers import BertConfig, BertForTokenClassification

from objectives.language_tools import LINES, real
from spcore.errors import DataError, RefusalError
from spcore.features import outcome
from spcore.interfaces.dataset import Column, Schema
from spcore.interfaces.task import IGNORE, Batch, EvalPart, Feature, Limits
from spcore.loading import filler
from spcore.tensors.ops import WholeOps
from spcore.testing.fakes import FakeProcessor
from spcore_tasks.options import TokenClassificationOptions
from spcore_tasks.tagging import word_windows, words_of
from spcore_tasks.token_classification import TokenClassification

BIO = ["B-LOC", "B-PER", "I-LOC", "I-PER", "O"]
BIOES = ["B-PER", "E-PER", "I-PER", "O", "S-PER"]


def bound(tags: Any = BIO, limits: Limits | None = None, processor: Any = None, **options: Any) -> Any:
    """Bound to a column of such tags."""
    columns = {"tokens": Column("list"), "tags": Column("list", counts=Counter(tags))}
    task = TokenClassification(TokenClassificationOptions(**options))
    return task.bind(processor or FakeProcessor(), None, Schema(columns), limits or Limits(max_length=16))


def batch_of(task: Any, rows: list[dict[str, Any]], fill: bool = False) -> Batch:
    made = [(n, f) for n, row in enumerate(rows) for f in task.featurize(row)]
    features = [replace(f, id=i, row_id=n) for i, (n, f) in enumerate(made)]
    features += [filler(features[0])] if fill else []
    batch: Batch = task.collate([[f] for f in features], max(f.length for f in features))
    return batch


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
def test_words_have_the_tokens_that_transformers_gives_them(kind: str) -> None:
    processor = real(kind)
    tokenizer = copy.deepcopy(processor.tokenizer)
    if kind == "bpe":  # as run_ner.py asks for, add_prefix_space=True
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    for line in LINES:
        words = line.split()
        ours, theirs = processor.encode_words(words), tokenizer(words, is_split_into_words=True)
        assert ours.arrays["input_ids"].tolist() == theirs["input_ids"]
        assert ours.words is not None
        assert ours.offsets is not None
        assert [None if n < 0 else n for n in ours.words.tolist()] == theirs.word_ids()
        for word, (first, stop) in zip(ours.words.tolist(), ours.offsets.tolist(), strict=True):
            assert word < 0 or (0 <= first <= stop <= len(words[word]))


def test_labels_stand_at_first_tokens_or_at_all() -> None:
    row = {"tokens": ["w8 w9", "w10", "w11 w12"], "tags": ["B-PER", "O", "B-LOC"]}
    first = batch_of(bound(), [row], fill=True)
    assert first.targets["labels"].tolist() == [[IGNORE, 1, IGNORE, 4, 0, IGNORE, IGNORE], [IGNORE] * 7]
    assert first.targets["words"].tolist() == [[-1, 0, -1, 1, 2, -1, -1], [-1] * 7]
    assert first.weights == {"tags": 3.0}
    every = batch_of(bound(subtokens="all"), [row])
    assert every.targets["labels"].tolist() == [[IGNORE, 1, 3, 4, 0, 2, IGNORE]]
    assert every.targets["words"].tolist() == first.targets["words"][:1].tolist()


def test_the_loss_is_that_of_transformers() -> None:
    torch.manual_seed(0)
    model = BertForTokenClassification(
        BertConfig(vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, num_labels=5)
    ).eval()  # fmt: skip
    rows = [
        {"tokens": ["w8 w9", "w10"], "tags": ["B-PER", "O"]},
        {"tokens": ["w11"] * 5, "tags": ["B-LOC", "I-LOC", "O", "O", "I-PER"]},
    ]
    task = bound()
    batch = tensors(batch_of(task, rows))
    with torch.no_grad():
        theirs = model(**batch.inputs, labels=batch.targets["labels"])
    (term,) = task.loss({"logits": theirs.logits}, batch, WholeOps())
    assert float(term.sum) / batch.weights["tags"] == pytest.approx(float(theirs.loss), rel=1e-6)


@settings(max_examples=150)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=40), st.integers(1, 12), st.integers(0, 11))
def test_windows_of_words(sizes: list[int], room: int, overlap: int) -> None:
    overlap = min(overlap, room - 1)
    ends = list(itertools.accumulate(sizes))
    found = list(word_windows(ends, room, overlap))
    assert [n for *_, own, stop in found for n in range(own, stop)] == list(range(len(sizes))), (
        "each word once, in order"
    )
    for first, stop, own, own_stop in found:
        assert first <= own < own_stop <= stop
        assert sum(sizes[first:stop]) <= room or stop == first + 1
    for (_, stop, *_), (first, later, *_) in itertools.pairwise(found):
        assert first <= stop < later
        assert sum(sizes[first:stop]) <= overlap


words = st.lists(st.text("ab ü中.", min_size=1, max_size=5), min_size=1, max_size=30)


@settings(max_examples=60, deadline=None)
@given(words, st.sampled_from(["wordpiece", "bpe", "unigram"]), st.sampled_from(["first", "all"]), st.integers(0, 2))
def test_each_word_is_asked_once_and_lies_where_its_characters_are(
    tokens: list[str], kind: str, subtokens: str, stride: int
) -> None:
    task = bound(["A", "C", "O"], Limits(max_length=10, stride=stride), real(kind), subtokens=subtokens, scheme="raw")
    row = {"tokens": tokens, "tags": ["AC"[n % 2] for n in range(len(tokens))]}
    made = outcome(row, task)
    if isinstance(made, str):
        assert "no token" in made
        return
    text, _ = words_of(row)
    asked = np.concatenate([f.arrays["words"] for f in made])
    assert asked[asked >= 0].tolist() == list(range(len(tokens)))
    for feature in made:
        assert feature.length <= 10
        arrays = feature.arrays
        for at in np.flatnonzero(arrays["words"] >= 0):
            word = int(arrays["words"][at])
            assert text[arrays["begins"][at] : arrays["ends"][at]] == tokens[word]
            assert arrays["labels"][at] == word % 2
        labelled = arrays["labels"] >= 0
        assert labelled[arrays["words"] >= 0].all()
        assert subtokens == "all" or labelled.sum() == (arrays["words"] >= 0).sum()
        assert not labelled[0]
        assert not labelled[-1], "special tokens have no tag"


def evaluated(task: Any, rows: list[dict[str, Any]], seed: int) -> tuple[dict[str, float], list[list[str]]]:
    """Figures of random outputs, and the tags that they say of each row's words."""
    batch = tensors(batch_of(task, rows, fill=True))
    logits = torch.from_numpy(
        np.random.default_rng(seed).normal(size=(*batch.inputs["input_ids"].shape, len(task.head.labels)))
    )
    part = task.reduce({"logits": logits.float()}, batch, WholeOps())
    guessed: list[list[str]] = [["O"] * len(row["tokens"]) for row in rows]
    for s, line in enumerate(batch.targets["words"].tolist()):
        for at, word in enumerate(line):
            if word >= 0:
                guessed[int(batch.row_of[s, 0])][word] = task.head.labels[int(logits[s, at].argmax())]
    return task.metrics(part), guessed


@pytest.mark.parametrize(("tags", "strict"), [(BIO, False), (BIO, True), (BIOES, False), (BIOES, True)])
def test_figures_are_seqevals_whatever_the_windows(tags: list[str], strict: bool) -> None:
    task = bound(tags, Limits(max_length=8, stride=2), strict=strict)
    rng = np.random.default_rng(3)
    rows = [
        {"tokens": [f"w{n}" for n in rng.integers(8, 60, size)], "tags": rng.choice(tags, size).tolist()}
        for size in (1, 4, 17, 30, 6, 11)
    ]
    found, guessed = evaluated(task, rows, 5)
    gold = [row["tags"] for row in rows]
    how: dict[str, Any] = {"mode": "strict", "scheme": IOBES if tags is BIOES else IOB2} if strict else {}
    assert found["f1"] == pytest.approx(seqeval.metrics.f1_score(gold, guessed, **how))
    assert found["precision"] == pytest.approx(seqeval.metrics.precision_score(gold, guessed, **how))
    assert found["recall"] == pytest.approx(seqeval.metrics.recall_score(gold, guessed, **how))
    assert found["accuracy"] == pytest.approx(seqeval.metrics.accuracy_score(gold, guessed))
    by_type = seqeval.metrics.classification_report(gold, guessed, output_dict=True, **how)
    assert {name: found[f"{name}_f1"] for name in task.types} == {
        name: by_type[name]["f1-score"] for name in task.types
    }
    assert 0 < found["f1"] < 1
    assert found["rows"] == len(rows)
    assert tuple(found) == task.metric_names


def test_other_schemes() -> None:
    assert [bound(names).scheme for names in (BIO, BIOES, ["I-A", "O"], ["NN", "VB"], ["U-A", "L-A", "B-A", "O"])] == [
        "bio", "bioes", "iob1", "raw", "bioes",
    ]  # fmt: skip
    raw = bound(["NN", "VB"])
    assert raw.metric_names == ("accuracy", "f1_macro", "loss", "rows")
    both = ["I-PER", "O", "I-PER", "B-PER"]
    part = EvalPart(
        {"tags.sum": 2.0, "tags.weight": 4.0},
        [{"feature_id": 0, "row_id": 0, "words": [0, 1, 2, 3], "predicted": both, "gold": both}],
    )
    found = bound(["B-PER", "I-PER", "O"], scheme="iob1", strict=True).metrics(part)
    assert (found["f1"], found["PER_f1"], found["loss"]) == (1.0, 1.0, 0.5)
    # BILOU's letters: U is a single word, L the last one.
    bilou = replace(
        part, rows=[{**part.rows[0], "gold": ["B-A", "L-A", "U-A", "O"], "predicted": ["B-A", "L-A", "O", "U-A"]}]
    )
    assert bound(["B-A", "L-A", "U-A", "O"]).metrics(bilou)["f1"] == pytest.approx(0.5)


def answered(task: Any, row: dict[str, Any], tags: list[str]) -> dict[str, Any]:
    """What is answered where the model is sure of these tags."""
    batch = batch_of(task, [row])
    logits = np.zeros((*batch.inputs["input_ids"].shape, len(task.head.labels)), np.float32)
    for s, at in zip(*np.nonzero(batch.targets["words"] >= 0), strict=True):
        logits[s, at, task.head.labels.index(tags[batch.targets["words"][s, at]])] = 9.0
    answer: dict[str, Any] = task.combine(task.decode({"logits": logits}, batch), row)
    return answer


def test_entities_are_quoted_from_the_text_as_it_stands() -> None:
    text = "Angela  Merkel, (Berlin) 北京!"
    words = [text[first:stop] for first, stop in words_of({"tokens": text})[1]]
    assert words == ["Angela", "Merkel", ",", "(", "Berlin", ")", "北", "京", "!"]
    tags = ["B-PER", "I-PER", "O", "O", "B-LOC", "O", "B-LOC", "I-LOC", "O"]
    answer = answered(bound(limits=Limits(max_length=5)), {"tokens": text}, tags)
    assert answer["tags"] == tags
    assert [(e["label"], e["text"], e["start"], e["end"]) for e in answer["entities"]] == [
        ("PER", "Angela  Merkel", 0, 14), ("LOC", "Berlin", 17, 23), ("LOC", "北京", 25, 27),
    ]  # fmt: skip
    share = np.exp(9) / (np.exp(9) + 4)
    assert answer["entities"][0]["score"] == pytest.approx(share, rel=1e-6)


def test_answers_of_word_lists_and_raw_tags() -> None:
    answer = answered(bound(["NN", "VB"]), {"tokens": ["time", "flies"]}, ["NN", "VB"])
    assert [(w["label"], w["text"], w["start"]) for w in answer["words"]] == [("NN", "time", 0), ("VB", "flies", 5)]
    gap = answered(bound(), {"tokens": ["Rome", " ", "Bern"]}, ["B-LOC", "O", "B-LOC"])
    assert gap["tags"] == ["B-LOC", "O", "B-LOC"], "a word that has no token is outside"


ROWS: dict[str, dict[str, Any]] = {
    "no word": {"tokens": [], "tags": []},
    "fewer tags than words": {"tokens": ["a", "b"], "tags": ["O"]},
    "more tags than words": {"tokens": "a b", "tags": ["O"] * 3},
    "a word is missing": {"tokens": ["a", None], "tags": ["O", "O"]},
    "a word is no text": {"tokens": ["a", {}], "tags": ["O", "O"]},
    "no tags": {"tokens": ["a"], "tags": None},
    "the tags are no list": {"tokens": ["a"], "tags": "O"},
    "no label": {"tokens": ["a"], "tags": [None]},
    "label 'B-PERS' is not known; did you mean 'B-PER'? known: B-LOC, B-PER, I-LOC, I-PER, O": {"tokens": ["a"], "tags": ["B-PERS"]},
    "blank tokens": {"tokens": " "},
    "the text gives no token": {"tokens": [" "], "tags": ["O"]},
    "a word with a tag gives no token (' ')": {"tokens": ["a", " "], "tags": ["O", "B-PER"]},
}  # fmt: skip


@pytest.mark.parametrize("reason", ROWS)
def test_rows_that_cannot_be_used(reason: str) -> None:
    with pytest.raises(DataError) as error:
        bound().featurize(ROWS[reason])
    assert error.value.message == reason


def test_a_word_longer_than_a_window_is_cut_and_counted() -> None:
    made = bound(limits=Limits(max_length=6)).featurize({"tokens": ["w8", " ".join(["w9"] * 7)], "tags": ["O", "O"]})
    assert [(f.length, f.truncated) for f in made] == [(3, 0), (6, 3)]


def test_what_is_refused() -> None:
    with pytest.raises(RefusalError, match=r"task.scheme bio: tag 'E-PER' is none of it"):
        bound(BIOES, scheme="bio")
    with pytest.raises(RefusalError, match=r"task.strict: goes with tags of entities"):
        bound(["NN", "VB"], strict=True)
    with pytest.raises(RefusalError, match="unknown metric 'f2'; known: LOC_f1"):
        bound(metric="f2")
    assert bound(metric=["recall", "PER_f1"]).metric_names[:3] == ("recall", "PER_f1", "f1")
    columns = {"tokens": Column("text"), "tags": Column("text")}
    with pytest.raises(DataError, match="the column holds text values; expected a list in each row"):
        TokenClassification(TokenClassificationOptions()).bind(FakeProcessor(), None, Schema(columns), Limits())
    with pytest.raises(DataError, match="one value, 'O': nothing to tell apart"):
        bound(["O"])
    with pytest.raises(DataError, match="room for 2 of a text, and 3 overlap"):
        bound(limits=Limits(max_length=4, stride=3)).featurize({"tokens": ["w8"] * 9})


def test_models_trained_elsewhere_say_their_tags() -> None:
    task = TokenClassification(TokenClassificationOptions())
    config = BertConfig(id2label={0: "O", 1: "B-PER", 2: "I-PER"})
    assert task.state_of(config) is None
    config.architectures = ["BertForTokenClassification"]
    state = task.state_of(config)
    assert state is not None
    made = task.bind(FakeProcessor(), None, state, Limits())
    assert isinstance(made.featurize({"tokens": "who is it"})[0], Feature)
    assert made.head.labels == ("O", "B-PER", "I-PER")
