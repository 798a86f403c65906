"""Task `denoising`: T5's spans. How much is out is known before; the text can be put together again from what both sides see."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from language_tools import WORDS, augmented, bind, features, text_of_words, words_tokenizer
from transformers import LlamaConfig, PretrainedConfig, T5Config

from spcore.errors import DataError, RefusalError
from spcore.interfaces.model import Processor
from spcore.interfaces.task import Feature, Limits
from spcore.testing.fakes import FakeProcessor
from spcore_tasks.denoising import corrupted, window
from spcore_tasks.masking import noise_mask, noise_sizes
from spcore_transformers.processor import TransformersProcessor

FIRST, END = WORDS.index("<extra_id_0>"), WORDS.index("</s>")


def processor() -> Processor:
    return TransformersProcessor(words_tokenizer("t5"), PretrainedConfig(), None)


def together(feature: Feature) -> list[int]:
    """The text: each sentinel's span in its place."""
    ids, labels = feature.arrays["input_ids"].tolist(), feature.arrays["labels"].tolist()
    assert ids[-1] == labels[-1] == END
    spans: dict[int, list[int]] = {}
    for token in labels[:-1]:
        if FIRST <= token < FIRST + 20:
            spans[token] = []
        else:
            spans[list(spans)[-1]].append(token)
    assert list(spans) == [FIRST + n for n in range(len(spans))], "sentinels in order, each once"
    assert all(spans.values()), "no span is empty"
    return [t for token in ids[:-1] for t in (spans.get(token, [token]))]


@given(st.lists(st.integers(2, 150), min_size=1, max_size=4), st.integers(6, 60), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_nothing_is_lost_and_lengths_are_known_before(counts: list[int], size: int, epoch: int) -> None:
    bound = bind("denoising", Limits(size), processor(), T5Config())
    texts = [text_of_words(count, seed=n) for n, count in enumerate(counts)]
    made = features(bound, texts)
    found: dict[int, list[int]] = {}
    for before, after in zip(made, augmented(bound, made, epoch), strict=True):
        assert len(after.arrays["input_ids"]) == before.length <= size
        found.setdefault(after.row_id, []).extend(together(after))
    for row, text in enumerate(texts):
        own = processor().encode(text, special=False).arrays["input_ids"].tolist()
        lost = sum(f.truncated for f in made if f.row_id == row)
        assert lost in (0, 1)
        assert found[row] == own[: len(own) - lost]


@given(st.integers(2, 600), st.floats(0.05, 0.6), st.floats(1, 8), st.integers(0, 100))
@settings(max_examples=80, deadline=None)
def test_the_mask_has_as_many_tokens_and_spans_as_it_says(length: int, density: float, mean: float, seed: int) -> None:
    mask = noise_mask(length, density, mean, np.random.default_rng(seed))
    noise, spans = noise_sizes(length, density, mean)
    assert len(mask) == length
    assert int(mask.sum()) == noise
    assert not mask[0]
    assert mask[-1]
    assert int((mask & ~np.concatenate([[False], mask[:-1]])).sum()) == spans


def test_sizes_are_t5s() -> None:
    """512 tokens for the encoder: 568 of the text, and 114 for the decoder, end tokens in; as T5's own `compute_input_and_target_lengths`."""
    assert window(511, 0.15, 3.0) == 568
    assert corrupted(568, 0.15, 3.0) == 511
    noise, spans = noise_sizes(568, 0.15, 3.0)
    assert noise + spans + 1 == 114


def test_the_batch_is_an_encoder_decoders() -> None:
    bound = bind("denoising", Limits(20), processor(), T5Config(decoder_start_token_id=0))
    made = augmented(bound, features(bound, [text_of_words(30), "w1 w2 w3"]))
    batch = bound.collate([[f] for f in made], 24)
    assert batch.inputs["input_ids"].shape == (len(made), 24)
    longest = max(len(f.arrays["labels"]) for f in made)
    for n, feature in enumerate(made):
        labels = feature.arrays["labels"].tolist()
        rest = longest - len(labels)
        assert batch.targets["labels"][n].tolist() == labels + [-100] * rest
        assert batch.inputs["decoder_input_ids"][n].tolist() == [0, *labels[:-1]] + [0] * rest
        assert batch.inputs["decoder_attention_mask"][n].tolist() == [1] * len(labels) + [0] * rest
    assert batch.weights == {"tokens": float(sum(len(f.arrays["labels"]) for f in made))}


def test_drawn_anew_each_epoch() -> None:
    bound = bind("denoising", Limits(48), processor(), T5Config())
    made = features(bound, [text_of_words(40)])
    found = [tuple(augmented(bound, made, epoch)[0].arrays["labels"].tolist()) for epoch in (0, 1, 2, 0)]
    assert len(set(found)) == 3
    assert found[0] == found[3]


def test_what_does_not_go_is_refused() -> None:
    with pytest.raises(RefusalError, match=r"^data\.pack 64: an encoder-decoder's texts do not share a sequence"):
        bind("denoising", Limits(32, 64), processor(), T5Config())
    with pytest.raises(RefusalError, match=r"^task denoising: 'llama' is no encoder-decoder"):
        bind("denoising", Limits(32), processor(), LlamaConfig())
    with pytest.raises(RefusalError, match=r"^task\.sentinel '<extra_{}>': the tokenizer has no '<extra_0>'"):
        bind("denoising", Limits(32), processor(), T5Config(), sentinel="<extra_{}>")
    with pytest.raises(
        RefusalError, match=r"^data\.max_length 512: a window has 28 spans, and the tokenizer 20 sentinels"
    ):
        bind("denoising", Limits(512), processor(), T5Config())
    with pytest.raises(RefusalError, match=r"^task: 't5' is an encoder-decoder\. Use denoising"):
        bind("causal-lm", Limits(32), processor(), T5Config())
    bound = bind("denoising", Limits(32), processor(), T5Config())
    with pytest.raises(DataError, match=r"^the text is one token: none can be taken out$"):
        bound.featurize({"text": "w1"})
    with pytest.raises(RefusalError, match=r"^task denoising: its answers are generated"):
        bound.collate([features(bound, ["w1 w2 w3"])], 8)


def test_the_fake_processor_has_sentinels_by_hash() -> None:
    """What conformance is checked with."""
    assert bind("denoising", Limits(16), FakeProcessor()).terms == ("tokens",)
