"""Task `masked-lm`: what is hidden, how often, and what never is."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from language_tools import LINES, augmented, bind, features, real, text_of_words

from spcore.errors import RefusalError
from spcore.interfaces.task import Feature, Limits
from spcore.testing.fakes import FakeProcessor
from spcore_tasks.masking import word_starts

KINDS = ["wordpiece", "bpe", "unigram"]
MASKING = ["token", "whole-word", "span"]


def hidden(feature: Feature) -> np.ndarray:
    """Positions that are chosen."""
    return np.flatnonzero(feature.arrays["labels"] >= 0)


@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=4),
    st.integers(4, 20),
    st.sampled_from(MASKING),
    st.integers(0, 9),
)
@settings(max_examples=60, deadline=None)
def test_chosen_tokens_are_of_the_text_and_keep_their_labels(
    counts: list[int], size: int, masking: str, epoch: int
) -> None:
    bound, processor = bind("masked-lm", Limits(size), masking=masking), FakeProcessor()
    made = features(bound, [text_of_words(count, seed=n) for n, count in enumerate(counts)])
    for before, after in zip(made, augmented(bound, made, epoch), strict=True):
        assert before.length == after.length <= size
        ids, new, labels = before.arrays["input_ids"], after.arrays["input_ids"], after.arrays["labels"]
        at = hidden(after)
        assert len(at) == max(1, round(0.15 * (before.length - 2))), "BERT's share, and one at least"
        assert labels[at].tolist() == ids[at].tolist()
        assert not set(ids[at].tolist()) & set(processor.special.values())
        same = np.setdiff1d(np.arange(len(ids)), at)
        assert new[same].tolist() == ids[same].tolist(), "what is not chosen stays"
        assert (new[0], new[-1]) == (processor.special["cls"], processor.special["sep"])
        assert not set(new[at].tolist()) & (set(processor.special.values()) - {processor.special["mask"]})


@given(st.integers(1, 120), st.integers(6, 20), st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_nothing_of_a_text_is_lost_between_windows(count: int, size: int, stride: int) -> None:
    bound = bind("masked-lm", Limits(size, stride=stride or None), probability=0.99)
    text = text_of_words(count)
    own = FakeProcessor().encode(text, special=False).arrays["input_ids"].tolist()
    at, found = 0, []
    for feature in features(bound, [text]):
        first, stop = int(feature.arrays["first"]), int(feature.arrays["stop"])
        assert feature.arrays["input_ids"][1:first].tolist() == own[at - (first - 1) : at], (
            "what overlaps is not chosen"
        )
        found += feature.arrays["input_ids"][first:stop].tolist()
        at = len(found)
    assert found == own


def test_the_shares_are_berts() -> None:
    """Over 20,000 chosen tokens a share's standard error is 0.3%."""
    bound, processor = bind("masked-lm", Limits(64), FakeProcessor(1000, 64)), FakeProcessor(1000, 64)
    made = features(bound, [text_of_words(600)])
    masked = drawn = kept = total = 0
    for epoch in range(230):
        for before, after in zip(made, augmented(bound, made, epoch), strict=True):
            at = hidden(after)
            new, old = after.arrays["input_ids"][at], before.arrays["input_ids"][at]
            masked += int((new == processor.special["mask"]).sum())
            kept += int((new == old).sum())
            total += len(at)
    drawn = total - masked - kept
    assert total > 20_000
    assert masked / total == pytest.approx(0.8, abs=0.012)
    assert drawn / total == pytest.approx(0.1, abs=0.01)
    assert kept / total == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize("masking", MASKING)
def test_drawn_anew_each_epoch_and_the_same_again(masking: str) -> None:
    bound = bind("masked-lm", Limits(48), masking=masking)
    made = features(bound, [text_of_words(40)])
    epochs = [augmented(bound, made, epoch)[0].arrays["labels"].tolist() for epoch in range(6)]
    assert len({tuple(labels) for labels in epochs}) == 6
    assert epochs == [augmented(bound, made, epoch)[0].arrays["labels"].tolist() for epoch in range(6)]


def test_padding_that_is_the_end_token_is_not_chosen() -> None:
    """What is padding is told by length, not by id; an end token within a text is a special token."""
    processor = FakeProcessor()
    processor.special = {**processor.special, "pad": processor.special["eos"]}
    processor.fill = {**processor.fill, "input_ids": processor.special["eos"]}
    bound = bind("masked-lm", Limits(32), processor, probability=0.9)
    made = augmented(bound, features(bound, ["w9 w10", text_of_words(20)]))
    batch = bound.collate([[f] for f in made], 32)
    assert (batch.targets["labels"][batch.inputs["attention_mask"] == 0] == -100).all()
    assert batch.weights["tokens"] == sum(len(hidden(f)) for f in made)
    assert batch.inputs["input_ids"][0, -1] == processor.special["eos"]
    again = bind("masked-lm", Limits(32), real("bpe"), probability=0.9)
    (feature,) = augmented(again, features(again, ["the fox</s> the dog"]))
    assert real("bpe").special["eos"] not in feature.arrays["labels"].tolist()


def test_random_tokens_are_never_special() -> None:
    """Sentinels have no role's name and are special too."""
    processor = real("bpe")
    bound = bind("masked-lm", Limits(64), processor, mask=0.0, random=1.0, probability=0.9)
    made, found = features(bound, LINES), set()
    for epoch in range(40):
        for feature in augmented(bound, made, epoch):
            found |= set(feature.arrays["input_ids"][hidden(feature)].tolist())
    assert len(found) > 200
    assert not found & processor.special_ids
    assert len(processor.special_ids) == 27


@pytest.mark.parametrize("kind", KINDS)
def test_whole_words_are_chosen_whole(kind: str) -> None:
    processor = real(kind)
    bound = bind("masked-lm", Limits(128), processor, masking="whole-word", probability=0.3)
    split = 0
    for text in LINES:
        made = features(bound, [text])
        encoding = processor.encode(text)
        assert encoding.offsets is not None
        for epoch in range(20):
            (feature,) = augmented(bound, made, epoch)
            chosen = feature.arrays["labels"] >= 0
            for first, stop in ((m.start(), m.end()) for m in re.finditer(r"[A-Za-z]+", text)):
                own = [
                    n
                    for n, (low, high) in enumerate(encoding.offsets.tolist())
                    if low < stop and high > first and high > low
                ]
                assert len({bool(chosen[n]) for n in own}) == 1, text[first:stop]
                split += len(own) > 1
    assert split > 100, "words of several tokens"


@pytest.mark.parametrize("kind", KINDS)
def test_words_begin_where_they_do(kind: str) -> None:
    text = "Un fox's 1,234 中文 déjà-vu!"
    offsets = real(kind).encode(text, special=False).offsets
    assert offsets is not None
    starts = word_starts(text, offsets)
    words, at = [], 0
    for begins, (low, high) in zip(starts, offsets.tolist(), strict=True):
        if begins:
            at = low
            words.append("")
        words[-1] = text[at:high].strip()
    if kind == "wordpiece":
        assert words == ["Un", "fox", "'", "s", "1", ",", "234", "中", "文", "déjà", "-", "vu", "!"]
    assert [w for w in words if w.isalpha() and w.isascii()][:2] == ["Un", "fox"]


def test_a_word_longer_than_the_share_is_chosen_in_part() -> None:
    bound = bind("masked-lm", Limits(128), real("bpe"), masking="whole-word")
    (feature,) = augmented(bound, features(bound, ["misunderstandingsunbelievablequickhappened"]))
    assert feature.length > 12
    at = hidden(feature)
    assert 1 <= len(at) == max(1, round(0.15 * (feature.length - 2)))
    assert (np.diff(at) == 1).all()


def test_spans_are_geometric() -> None:
    """SpanBERT's: mean of min(geometric(0.2), 10) is 4.46; at the share's end one is cut, so that it is less here."""
    bound = bind("masked-lm", Limits(512), FakeProcessor(64, 512), masking="span")
    made = features(bound, [text_of_words(500)])
    lengths = []
    for epoch in range(60):
        at = hidden(augmented(bound, made, epoch)[0])
        runs = np.split(at, np.flatnonzero(np.diff(at) > 1) + 1)
        lengths += [len(run) for run in runs]
    assert 3.6 < np.mean(lengths) < 5.5
    treated = augmented(
        bind("masked-lm", Limits(512), FakeProcessor(64, 512), masking="span", mask=0.5, random=0.5), made
    )
    assert len(treated) == 1


def test_what_the_tokenizer_has_not_is_refused_here_too() -> None:
    processor = FakeProcessor()
    processor.special = {k: v for k, v in processor.special.items() if k != "mask"}
    with pytest.raises(RefusalError, match=r"^task masked-lm: the tokenizer has no mask token\. Use causal-lm"):
        bind("masked-lm", processor=processor)
    with pytest.raises(ValueError, match=r"shares add up to 1 at most"):
        bind("masked-lm", mask=0.9, random=0.2)
