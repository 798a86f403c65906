"""Task `seq2seq`: what is learnt is what is asked, targets alone count, figures are the official scorer's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sacrebleu
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BartConfig, LlamaConfig, MarianConfig, PretrainedConfig, T5Config

from objectives.language_tools import WORDS, bind, real, words_tokenizer
from spcore.errors import DataError, RecipeError, RefusalError
from spcore.features import outcome
from spcore.interfaces.model import Processor
from spcore.interfaces.task import IGNORE, Batch, EvalPart, Feature, Limits
from spcore.loading import filler
from spcore.recipe import load_recipe
from spcore.tensors.ops import WholeOps
from spcore.testing.fakes import FakeProcessor
from spcore_tasks.answer_figures import answers
from spcore_tasks.seq2seq import Seq2Seq
from spcore_transformers.processor import TransformersProcessor

T5, LLAMA = T5Config(decoder_start_token_id=0), LlamaConfig()
EOS = WORDS.index("</s>")
PROMPT = "say {source} w50"


def processor(kind: str = "t5", **names: Any) -> Processor:
    return TransformersProcessor(words_tokenizer(kind, **names), PretrainedConfig(), None)


def asked(limits: Limits | None = None, kind: str = "t5", **options: Any) -> Any:
    """Bound for an encoder-decoder ("t5"), or for a decoder by a prompt."""
    if kind == "t5":
        return bind("seq2seq", limits or Limits(16), processor(), T5, **options)
    return bind("seq2seq", limits or Limits(24), processor("llama"), LLAMA, **{"prompt": PROMPT, **options})


def words(*numbers: int) -> str:
    return " ".join(f"w{n}" for n in numbers)


def ids(*numbers: int) -> list[int]:
    return [WORDS.index(f"w{n}") for n in numbers]


def batch_of(bound: Any, rows: list[dict[str, Any]], fill: bool = False) -> Batch:
    made = [(n, f) for n, row in enumerate(rows) for f in bound.featurize(row)]
    features = [Feature(i, n, f.arrays, f.length) for i, (n, f) in enumerate(made)]
    features += [filler(features[0])] if fill else []
    batch: Batch = bound.collate([[f] for f in features], max(f.length for f in features))
    return batch


def test_an_encoder_reads_the_source_and_the_decoder_learns_the_target() -> None:
    batch = batch_of(
        asked(), [{"source": words(1, 2, 3), "target": words(9)}, {"source": words(4), "target": words(8, 7)}]
    )
    assert batch.inputs["input_ids"].tolist() == [[*ids(1, 2, 3), EOS], [*ids(4), EOS, 0, 0]]
    assert batch.inputs["decoder_input_ids"].tolist() == [[0, *ids(9), 0], [0, *ids(8, 7)]]
    assert batch.inputs["decoder_attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert batch.targets["labels"].tolist() == [[*ids(9), EOS, IGNORE], [*ids(8, 7), EOS]]
    assert batch.weights == {"tokens": 5.0}


def test_a_decoder_learns_what_comes_after_the_prompt() -> None:
    bound = asked(kind="llama", prompt="w40 {source} w41")
    batch = batch_of(bound, [{"source": words(1, 2), "target": words(9)}], fill=True)
    prompt = [WORDS.index("w40"), *ids(1, 2), WORDS.index("w41")]
    assert batch.inputs["input_ids"][0].tolist() == [*prompt, *ids(9)]
    assert batch.targets["labels"].tolist() == [[IGNORE] * 3 + [*ids(9), EOS], [IGNORE] * 5]
    assert batch.weights == {"tokens": 2.0}
    assert bound.request({"source": words(1, 2)}).ids == tuple(prompt)


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
@given(
    st.text("abc xyzÄ中🙂", min_size=1, max_size=40),
    st.text("abc xyzÄ中🙂", min_size=1, max_size=40),
    st.sampled_from([8, 20, 200]),
)
@settings(max_examples=40, deadline=None)
def test_what_is_asked_is_the_beginning_of_what_was_learnt(kind: str, source: str, target: str, size: int) -> None:
    """Under tokenizers whose tokens would join over the border, whole or cut; nothing is longer than it may be."""
    bound: Any = bind("seq2seq", Limits(size), real(kind), LLAMA, prompt="a{source}:", max_target_length=4)
    row = {"source": source, "target": target}
    made = outcome(row, bound)
    if isinstance(made, str):
        assert made in ("blank source", "blank target", "the target gives no token") or "no room" in made
        return
    (feature,) = made
    request, labels = bound.request({"source": source}), feature.arrays["labels"]
    known = int((labels == IGNORE).sum())
    assert request.ids == tuple(feature.arrays["input_ids"][: known + 1].tolist())
    assert labels[-1] == bound.eos
    assert (labels[known:-1] == feature.arrays["input_ids"][known + 1 :]).all()
    assert feature.length <= size
    assert len(request.ids) + request.max_new_tokens - 1 <= size
    assert (feature.truncated > 0) == (len(bound.encode_prompt(f"a{source}:")) > bound.room())


def test_of_a_prompt_that_is_too_long_the_end_of_the_source_is_cut() -> None:
    bound = asked(Limits(14), "llama", prompt="w40 {source} w41", max_target_length=8)
    (feature,) = bound.featurize({"source": words(*range(1, 20)), "target": words(*range(30, 40))})
    room = 14 - 8 + 1
    prompt = [WORDS.index("w40"), *ids(*range(1, room - 1)), WORDS.index("w41")]
    assert feature.arrays["input_ids"][:room].tolist() == prompt
    assert (feature.truncated, feature.truncated_target) == (21 - room, 3)
    assert feature.arrays["labels"][-8:].tolist() == [*ids(*range(30, 37)), EOS]
    (whole,) = asked(Limits(14)).featurize({"source": words(*range(1, 20)), "target": words(1)})
    assert whole.arrays["input_ids"].tolist() == [*ids(*range(1, 14)), EOS]
    assert whole.truncated == 6
    tight = asked(Limits(9), "llama", prompt="w1 w2 w3 w4 w5 {source}", max_target_length=5)
    with pytest.raises(DataError, match=r"^the prompt has no room for a source: it has 5 tokens in all$"):
        tight.request({"source": words(7, 8)})


def test_packs_keep_answers_to_their_prompts() -> None:
    bound = asked(Limits(24, pack=24), "llama", max_target_length=6)
    rows = [{"source": words(1), "target": words(9)}, {"source": words(2, 3), "target": words(8, 7)}]
    features = [Feature(n, n, f.arrays, f.length) for n, row in enumerate(rows) for f in bound.featurize(row)]
    batch = bound.collate([features], 24)
    alone = [batch_of(bound, [row]) for row in rows]
    labels = np.concatenate([one.targets["labels"][0, : f.length] for one, f in zip(alone, features, strict=True)])
    assert batch.targets["labels"][0, : len(labels)].tolist() == labels.tolist()
    assert batch.weights == {"tokens": 5.0}


@pytest.mark.parametrize("kind", ["t5", "llama"])
def test_the_loss_is_of_targets_alone(kind: str) -> None:
    """Against torch's cross-entropy over the labels, whatever else stands in the logits."""
    bound = asked(kind=kind)
    rows = [{"source": words(1, 2, 3), "target": words(9, 8)}, {"source": words(4), "target": words(7)}]
    batch = batch_of(bound, rows, fill=True)
    labels = torch.from_numpy(batch.targets["labels"])
    logits = torch.randn(*labels.shape, len(WORDS), generator=torch.Generator().manual_seed(0))
    held = Batch(batch.inputs, {"labels": labels}, batch.row_of, batch.feature_ids, batch.weights)
    (term,) = bound.loss({"logits": logits}, held, WholeOps())
    wanted = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), reduction="sum", ignore_index=IGNORE
    )
    assert float(term.sum) == pytest.approx(float(wanted), rel=1e-6)
    part = bound.reduce({"logits": logits}, held, WholeOps())
    assert bound.metrics(part)["loss"] == pytest.approx(float(wanted) / 5, rel=1e-6)


def test_what_the_decoder_is_given_back_without_a_target_counts_nothing() -> None:
    for kind in ("t5", "llama"):
        batch = batch_of(asked(kind=kind), [{"source": words(1, 2)}])
        assert batch.weights == {"tokens": 0.0}
        assert (batch.targets["labels"] < 0).all()


MADE = ["the cat sat on the mat .", "a dog barks", "", "Ein Haus , ein Baum", "他 喜欢 猫", "same"]
WANTED = ["the cat is on the mat .", "the dog barked loudly", "silence", "Ein Haus, ein Baum", "他喜欢猫", " same "]


@pytest.mark.parametrize("tokenizer", ["13a", "intl", "zh", "char", "none"])
def test_figures_are_the_official_scorers(tokenizer: str) -> None:
    found = answers(MADE, WANTED, tokenizer)
    assert found["bleu"] == sacrebleu.corpus_bleu(MADE, [WANTED], tokenize=tokenizer).score
    assert found["chrf"] == sacrebleu.corpus_chrf(MADE, [WANTED]).score
    assert found["exact_match"] == 1 / 6


def test_a_known_figure() -> None:
    """The example of Papineni et al. for clipped counts: 2 of 7 words are right, none of two in a row."""
    found = answers(["the the the the the the the"], ["The cat is on the mat ."], "none")
    assert 0 < found["bleu"] < 15
    assert answers(["a b c d e"], ["a b c d e"], "13a") == {
        "bleu": pytest.approx(100),
        "chrf": 100.0,
        "exact_match": 1.0,
    }


def test_the_metric_that_decides_comes_first() -> None:
    assert asked().metric_names[:3] == ("bleu", "chrf", "exact_match")
    assert asked(metric="chrf").metric_names[:4] == ("chrf", "bleu", "exact_match", "unfinished")
    assert asked(metric=["exact_match", "chrf"]).metric_names[:2] == ("exact_match", "chrf")
    bound = asked(bleu_tokenizer="char")
    rows = [
        {"feature_id": n, "row_id": n, **bound.answer({"source": "x", "target": WANTED[n]}, MADE[n]), "finish": "stop"}
        for n in range(6)
    ]
    rows[2]["finish"] = "length"
    found = bound.metrics(EvalPart({}, rows))
    assert found == {**answers(MADE, WANTED, "char"), "unfinished": 1.0, "rows": 6.0}
    assert {"unfinished", "loss"} <= Seq2Seq.lower_is_better
    assert "bleu" not in Seq2Seq.lower_is_better


def test_requests_carry_the_settings() -> None:
    plain = asked().request({"source": words(1)})
    assert (plain.max_new_tokens, plain.beams, plain.temperature, plain.stop) == (128, 1, 0.0, (EOS,))
    drawn = asked(
        generate={"temperature": 0.7, "top_p": 0.9, "top_k": 5, "seed": 3, "repetition_penalty": 1.2},
        max_target_length=9,
    )
    found = drawn.request({"source": words(1)})
    assert (found.max_new_tokens, found.temperature, found.top_p, found.top_k) == (9, 0.7, 0.9, 5)
    assert (found.seed, found.repetition_penalty) == (3, 1.2)
    beams = asked(generate={"beams": 4, "length_penalty": 0.6, "early_stopping": True, "max_new_tokens": 7})
    found = beams.request({"source": words(1)})
    assert (found.beams, found.length_penalty, found.early_stopping, found.max_new_tokens) == (4, 0.6, True, 7)


def refused(
    match: str, *, config: Any = T5, limits: Limits | None = None, tokenizer: Processor | None = None, **options: Any
) -> None:
    with pytest.raises(RefusalError, match=match):
        bind("seq2seq", limits or Limits(16), tokenizer or processor(), config, **options)


def test_what_cannot_be_is_refused() -> None:
    refused(r"^task\.prompt: 'llama' is no encoder-decoder, and a decoder is asked by a prompt", config=LLAMA)
    refused(r"^data\.pack 32: an encoder-decoder's texts do not share a sequence", limits=Limits(16, pack=32))
    refused(r"no end token \(eos\), which ends an answer", tokenizer=processor(eos_token=None))
    refused(
        r"^task\.max_target_length 49: the model has 48 positions",
        tokenizer=processor(model_max_length=48),
        max_target_length=49,
    )
    refused(
        r"^task\.generate\.max_new_tokens 90: the model has 48",
        tokenizer=processor(model_max_length=48),
        generate={"max_new_tokens": 90},
    )
    refused(r"a prompt and its answer share 16 tokens", config=LLAMA, prompt=PROMPT, generate={"max_new_tokens": 17})
    refused(r"^task\.generate: top_k 5 with temperature 0", generate={"top_k": 5})
    refused(r"^task\.generate: beams 2 with temperature 1", generate={"beams": 2, "temperature": 1.0})
    refused(r"^task\.generate: length_penalty 2 without beams", generate={"length_penalty": 2.0})
    for prompt in ("no place", "{source} twice {source}"):
        with pytest.raises(ValueError, match=r"has \{source\} [02] times; expected once"):
            asked(prompt=prompt)


def test_an_encoder_alone_is_refused_when_a_run_is_assembled(tmp_path: Path) -> None:
    from exact.recipes import laid, seq2seq
    from objectives.language_tools import folder_of
    from spcore.components import default_registry
    from spcore.session import assemble

    tree = laid(seq2seq("llama", tmp_path), "single", 1)
    tree["model"]["source"] = str(folder_of("bert", tmp_path / "bert"))
    with pytest.raises(RefusalError, match=r"task: family 'bert' attends to all positions, and the task needs"):
        assemble(load_recipe(tree, {}, registry=default_registry()), default_registry())
    tree["task"] = {"use": "translation", "prompts": "x"}
    with pytest.raises(RecipeError, match=r"task\.prompts: .*'prompt'"):
        load_recipe(tree, {}, registry=default_registry())


def test_models_from_elsewhere() -> None:
    task: Any = Seq2Seq.__new__(Seq2Seq)
    known = MarianConfig(architectures=["MarianMTModel"], decoder_start_token_id=7)
    assert task.state_of(known) == {"encodes": True, "start": 7}
    assert task.state_of(BartConfig(architectures=["BartForConditionalGeneration"]))["start"] == 2
    assert task.state_of(T5Config(architectures=["T5ForConditionalGeneration"])) is None, "which is denoising's"
    assert task.state_of(LlamaConfig(architectures=["LlamaForCausalLM"])) is None


def test_a_saved_state_needs_no_configuration() -> None:
    for kind in ("t5", "llama"):
        bound = asked(kind=kind)
        state = json.loads(json.dumps(bound.state()))
        task: Any = Seq2Seq(bound.options)
        again = task.bind(bound.processor, None, state, bound.limits)
        row = {"source": words(1, 2), "target": words(3)}
        assert again.request(row) == bound.request(row)
        assert again.state() == bound.state()


def test_decode_gives_the_likeliest_tokens() -> None:
    bound = bind("seq2seq", Limits(24), FakeProcessor(), LLAMA, prompt=PROMPT)
    batch = batch_of(bound, [{"source": "w9 w10", "target": "w11 w12"}], fill=True)
    logits = np.zeros((*batch.inputs["input_ids"].shape, 64), np.float32)
    logits[..., 20] = 1
    assert bound.decode({"logits": logits}, batch) == [{"row_id": 0, "text": "w20 w20 w20"}]


def test_a_language_behind_the_end_is_what_the_decoder_begins_with() -> None:
    """mBART's labels are a text and its end; the language goes before, as in its own training."""
    import transformers

    vocabulary = [
        ("<s>", 0.0),
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        *((letter, -4.0) for letter in "▁abcdefgh"),
    ]
    tokenizer = transformers.MBartTokenizer(vocab=vocabulary, src_lang="en_XX", tgt_lang="de_DE")
    german = tokenizer.convert_tokens_to_ids("de_DE")
    config = transformers.MBartConfig(decoder_start_token_id=german)
    bound = bind("seq2seq", Limits(16), TransformersProcessor(tokenizer, config, None), config)
    batch = batch_of(bound, [{"source": "abc", "target": "def"}])
    letters = tokenizer.convert_tokens_to_ids(["▁", "d", "e", "f", "</s>"])
    assert batch.targets["labels"].tolist() == [letters]
    assert batch.inputs["decoder_input_ids"].tolist() == [[german, *letters[:-1]]]
    assert batch.inputs["input_ids"][0, -2:].tolist() == tokenizer.convert_tokens_to_ids(["</s>", "en_XX"])
