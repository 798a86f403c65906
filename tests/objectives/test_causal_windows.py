"""Task `causal-lm`: every token of a text but the first is a target once, however it is cut, overlapped, packed and shifted."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from language_tools import LINES, augmented, bind, features, real, text_of_words

from spcore.errors import DataError, RefusalError
from spcore.interfaces.task import Batch, BoundTask, Feature, Limits
from spcore.loading import packed
from spcore_tasks.causal_lm import BoundCausalLM
from spcore_tasks.language import spread, windows

TEXTS = st.lists(st.integers(1, 60), min_size=1, max_size=5)


def targets_of(batch: Batch) -> dict[int, list[int]]:
    """Row -> its targets, in the order in which a batch holds them."""
    found: dict[int, list[int]] = {}
    segments = batch.inputs.get("segment_ids", batch.inputs.get("attention_mask"))
    assert segments is not None
    for s, rows in enumerate(batch.row_of):
        for k, row in enumerate(rows):
            labels = batch.targets["labels"][s][segments[s] == k + 1]
            found.setdefault(int(row), []).extend(labels[labels >= 0].tolist())
    return found


def whole(bound: BoundTask, text: str) -> list[int]:
    """All tokens of a text."""
    assert isinstance(bound, BoundCausalLM)
    tokens: list[int] = bound.tokens({"text": text})[0].tolist()
    return tokens


@given(TEXTS, st.integers(4, 20), st.integers(0, 19), st.booleans(), st.booleans())
@settings(max_examples=60, deadline=None)
def test_each_token_is_a_target_once(counts: list[int], size: int, stride: int, end: bool, packs: bool) -> None:
    limits = Limits(size, 40 if packs else None, stride if 0 < stride < size else None)
    bound = bind("causal-lm", limits, end_of_text=end, begin_of_text=True)
    texts = [text_of_words(count, seed=n) for n, count in enumerate(counts)]
    made = features(bound, texts)
    assert max(f.length for f in made) <= size
    groups = (
        packed(range(len(made)), np.array([f.length for f in made]), 40) if packs else [(n,) for n in range(len(made))]
    )
    batch = bound.collate([[made[n] for n in sorted(group)] for group in sorted(groups)], 40)
    found = targets_of(batch)
    for row, text in enumerate(texts):
        tokens = whole(bound, text)
        # Packs mix the order of a text's windows: what is there, and how often.
        assert sorted(found[row]) == sorted(tokens[1:])
        if not packs:
            assert found[row] == tokens[1:]
    assert batch.weights == {"tokens": float(sum(len(whole(bound, text)) - 1 for text in texts))}


@given(st.integers(1, 200), st.integers(2, 40), st.integers(0, 39))
def test_windows_cover_all_and_move_on(count: int, size: int, overlap: int) -> None:
    overlap = min(overlap, size - 1)
    found = windows(count, size, overlap)
    assert found[0][0] == 0
    assert found[-1][1] == count
    assert {n for low, high in found for n in range(low, high)} == set(range(count))
    assert all(b[0] - a[0] == size - overlap and a[1] - b[0] == overlap for a, b in itertools.pairwise(found))


def test_the_labels_are_the_next_tokens_and_those_known_do_not_count() -> None:
    bound = bind("causal-lm", Limits(8, stride=3))
    text = text_of_words(20)
    tokens, made = whole(bound, text), features(bound, [text])
    batch = bound.collate([[f] for f in made], 8)
    for n, feature in enumerate(made):
        first = n * 5
        assert feature.arrays["input_ids"].tolist() == tokens[first : first + feature.length]
        labels = batch.targets["labels"][n][: feature.length].tolist()
        skip = 3 if n else 0
        assert labels == [-100] * skip + tokens[first + 1 + skip : first + 1 + feature.length]


def test_blocks_without_look_ahead_lose_their_first_token() -> None:
    bound = bind("causal-lm", Limits(8), look_ahead=False, end_of_text=False)
    text = text_of_words(24)
    batch = bound.collate([[f] for f in features(bound, [text])], 8)
    tokens = whole(bound, text)
    assert targets_of(batch)[0] == [t for n, t in enumerate(tokens) if n % 8]


def test_a_short_tail_is_dropped_and_counted() -> None:
    bound = bind("causal-lm", Limits(8), min_tail=4)
    made = features(bound, [text_of_words(18)])  # 18 words and the end: 18 targets
    assert [f.length for f in made] == [8, 8]
    assert [f.truncated for f in made] == [0, 2]
    assert [f.length for f in features(bound, [text_of_words(20)])] == [8, 8, 4]
    with pytest.raises(DataError, match=r"^fewer than 4 tokens to predict \(task\.min_tail\)$"):
        bound.featurize({"text": "w1 w2"})


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
@pytest.mark.parametrize("size", [4, 9, 500])
@given(st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40))
@settings(max_examples=20, deadline=None)
def test_each_byte_counts_once(kind: str, size: int, tail: str) -> None:
    """Also where a character is several tokens, and at the borders of windows."""
    bound = bind("causal-lm", Limits(size), real(kind), begin_of_text=True)
    for text in (tail, LINES[2] + tail):
        try:
            made = bound.featurize({"text": text})
        except DataError:  # nothing that is seen, or that the tokenizer has a token for
            continue
        assert sum(int(f.arrays["bytes"]) for f in made) == len(text.encode())
        assert sum(int(f.arrays["characters"]) for f in made) == len(text)


def test_bytes_of_a_character_in_several_tokens() -> None:
    offsets = real("bpe").encode("a🦊b", special=False).offsets
    assert offsets is not None
    assert len(offsets) > 3, "the sign is several tokens"
    found = spread("a🦊b", offsets)
    assert found.sum(0).tolist() == [6, 3]
    assert found[0].tolist() == [1, 1]
    assert found[-1].tolist() == [1, 1]


# -- windows that move ---------------------------------------------------------------------------------------------


def shifting(size: int = 8) -> tuple[BoundTask, str, list[Feature]]:
    bound, text = bind("causal-lm", Limits(size), shift=True), text_of_words(60)
    return bound, text, features(bound, [text])


def test_windows_begin_elsewhere_each_epoch() -> None:
    bound, text, made = shifting()
    tokens = whole(bound, text)
    places: set[int] = set()
    for epoch in range(30):
        batch = bound.collate([[f] for f in augmented(bound, made, epoch)], 8)
        for n, feature in enumerate(made):
            ids = batch.inputs["input_ids"][n][: feature.length].tolist()
            labels = batch.targets["labels"][n][: feature.length].tolist()
            at = next(
                k
                for k in range(len(tokens))
                if tokens[k : k + len(ids)] == ids and tokens[k + 1 : k + 1 + len(ids)] == labels
            )
            assert abs(at - n * 8) <= (4 if 0 < n < len(made) - 1 else 0)
            places.add(at - n * 8)
    assert places == set(range(-4, 5))
    first, again = augmented(bound, made, 3), augmented(bound, made, 3)
    assert all(np.array_equal(a.arrays["input_ids"], b.arrays["input_ids"]) for a, b in zip(first, again, strict=True))


def test_an_evaluation_does_not_shift() -> None:
    bound = bind("causal-lm", Limits(8, evaluation=True), shift=True)
    plain = bind("causal-lm", Limits(8))
    text = text_of_words(60)
    for a, b in zip(augmented(bound, features(bound, [text])), features(plain, [text]), strict=True):
        assert a.arrays.keys() == b.arrays.keys()
        assert all(np.array_equal(a.arrays[name], b.arrays[name]) for name in a.arrays)


# -- special tokens and refusals -----------------------------------------------------------------------------------


def test_an_end_token_stands_after_each_text_once() -> None:
    processor = real("bpe")
    end = processor.special["eos"]
    bound = bind("causal-lm", Limits(64), processor)
    assert whole(bound, "a fox")[-1] == end
    assert whole(bound, "a fox").count(end) == 1
    assert whole(bound, "a fox</s>").count(end) == 1, "it is there already"
    named = bind("causal-lm", Limits(64), processor, end_of_text="<sep>")
    assert whole(named, "a fox")[-1] == processor.special["sep"]
    assert end not in whole(bind("causal-lm", Limits(64), processor, end_of_text=False), "a fox")


def test_what_the_tokenizer_has_not_is_refused() -> None:
    class Bare(type(real("bpe"))):  # type: ignore[misc]
        pass

    processor = Bare.__new__(Bare)
    processor.__dict__.update(real("bpe").__dict__)
    processor.special = {k: v for k, v in real("bpe").special.items() if k not in ("eos", "bos")}
    with pytest.raises(RefusalError, match=r"^task\.end_of_text: the tokenizer has no end token \(eos\); name one"):
        bind("causal-lm", processor=processor)
    with pytest.raises(RefusalError, match=r"^task\.begin_of_text: the tokenizer has no first token \(bos\)"):
        bind("causal-lm", processor=processor, end_of_text=False, begin_of_text=True)
    with pytest.raises(RefusalError, match=r"^task\.end_of_text 'quick brown fox': \d+ tokens"):
        bind("causal-lm", processor=real("bpe"), end_of_text="quick brown fox")
    with pytest.raises(RefusalError, match=r"^task\.min_tail 9: a window has 8 targets of its own"):
        bind("causal-lm", Limits(8), min_tail=9)
    with pytest.raises(RefusalError, match=r"^task\.shift: windows that overlap stay"):
        bind("causal-lm", Limits(8, stride=2), shift=True)
    with pytest.raises(DataError, match=r"^the text is one token"):
        bind("causal-lm", end_of_text=False).featurize({"text": "w1"})
