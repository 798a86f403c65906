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
from rouge_score import rouge_scorer
from transformers import BartConfig, LlamaConfig, MarianConfig, PretrainedConfig, T5Config

from objectives.language_tools import WORDS, bind, real, words_tokenizer
from spcore.errors import DataError, RecipeError, RefusalError
from spcore.features import outcome
from spcore.interfaces.dataset import Column, Schema
from spcore.interfaces.model import Processor
from spcore.interfaces.task import IGNORE, Batch, EvalPart, Feature, Limits
from spcore.loading import filler
from spcore.recipe import load_recipe
from spcore.tensors.ops import WholeOps
from spcore.testing.fakes import FakeProcessor
from spcore_tasks.answer_figures import answers
from spcore_tasks.exchanges import rendered
from spcore_tasks.options import Seq2SeqOptions
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


def figures(made: list[str], wanted: list[Any], **options: Any) -> dict[str, float]:
    return answers(made, [[one] if isinstance(one, str) else one for one in wanted], Seq2SeqOptions(**options))


@pytest.mark.parametrize("tokenizer", ["13a", "intl", "zh", "char", "none"])
def test_figures_are_the_official_scorers(tokenizer: str) -> None:
    found = figures(MADE, WANTED, bleu_tokenizer=tokenizer)
    assert found["bleu"] == sacrebleu.corpus_bleu(MADE, [WANTED], tokenize=tokenizer).score
    assert found["chrf"] == sacrebleu.corpus_chrf(MADE, [WANTED]).score
    assert found["exact_match"] == 1 / 6


@pytest.mark.parametrize("stemmer", [False, True])
def test_rouge_is_its_authors(stemmer: bool) -> None:
    kinds = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    scorer = rouge_scorer.RougeScorer(kinds, use_stemmer=stemmer)
    made = [*MADE, "the dogs barked\nthe cats sat"]
    wanted = [*WANTED, "cats sitting\na dog barks"]
    scores = [scorer.score(one, text) for one, text in zip(wanted, made, strict=True)]
    found = figures(made, wanted, rouge_stemmer=stemmer)
    for kind in kinds:
        assert found[kind] == pytest.approx(100 * np.mean([score[kind].fmeasure for score in scores]), abs=1e-9)
    assert 0 < found["rouge2"] < found["rouge1"] < 100


def test_in_rouge_lsum_lines_are_sentences() -> None:
    found = figures(["the dog barked\nthe cat sat"], ["the cat sat\nthe dog barked"])
    assert found["rougeLsum"] == 100
    assert found["rougeL"] == pytest.approx(50)


def test_rouge_of_other_scripts_takes_sacrebleus_words() -> None:
    assert figures(["他喜欢猫"], ["他喜欢狗"])["rouge1"] == 0  # its own words are a to z
    assert figures(["他喜欢猫"], ["他喜欢狗"], rouge_tokenizer="zh")["rouge1"] == pytest.approx(75)
    assert figures(["Ölfässer rollen"], ["ölfässer fallen"], rouge_tokenizer="13a")["rouge1"] == pytest.approx(50)
    with pytest.raises(ValueError, match="rouge_stemmer is for rouge_tokenizer default, and that is zh"):
        Seq2SeqOptions(rouge_tokenizer="zh", rouge_stemmer=True)


def test_several_references_are_scored_as_the_official_scorers_do() -> None:
    wanted = [["the cat is on the mat .", "on the mat sat the cat ."], ["the dog barked"], ["a", "b", "silence here"]]
    made = ["the cat sat on the mat .", "a dog barked", "silence"]
    found = figures(made, wanted)
    streams = [[one[n] if n < len(one) else None for one in wanted] for n in range(3)]
    assert found["bleu"] == sacrebleu.corpus_bleu(made, streams).score
    assert found["chrf"] == sacrebleu.corpus_chrf(made, streams).score
    scorer = rouge_scorer.RougeScorer(["rouge1"])
    best = [max(scorer.score(o, m)["rouge1"].fmeasure for o in one) for one, m in zip(wanted, made, strict=True)]
    assert found["rouge1"] == pytest.approx(100 * np.mean(best), abs=1e-9)
    assert figures(["b"], [["a", "b "]])["exact_match"] == 1


def test_a_known_figure() -> None:
    """The example of Papineni et al. for clipped counts: 2 of 7 words are right, none of two in a row."""
    found = figures(["the the the the the the the"], ["The cat is on the mat ."], bleu_tokenizer="none")
    assert 0 < found["bleu"] < 15
    same = figures(["a b c d e"], ["a b c d e"])
    assert same == {**dict.fromkeys(same, pytest.approx(100)), "exact_match": 1.0}


def test_the_metric_that_decides_comes_first() -> None:
    rouge = ("rouge1", "rouge2", "rougeL", "rougeLsum")
    assert asked().metric_names[:7] == ("bleu", "chrf", *rouge, "exact_match")
    assert asked(metric="chrf").metric_names[:8] == ("chrf", "bleu", *rouge, "exact_match", "unfinished")
    assert asked(metric=["exact_match", "chrf"]).metric_names[:2] == ("exact_match", "chrf")
    bound = asked(bleu_tokenizer="char")
    rows = [
        {"feature_id": n, "row_id": n, **bound.answer({"source": "x", "target": WANTED[n]}, MADE[n]), "finish": "stop"}
        for n in range(6)
    ]
    rows[2]["finish"] = "length"
    found = bound.metrics(EvalPart({}, rows))
    assert found == {**figures(MADE, WANTED, bleu_tokenizer="char"), "unfinished": 1.0, "rows": 6.0}
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


# -- rows that say more ------------------------------------------------------------------------------------------------


def test_a_list_of_sentences_is_one_source_and_each_reference_is_learnt() -> None:
    row = {"source": [words(1, 2) + " ", words(3)], "target": [words(9), words(8, 7)]}
    for kind in ("t5", "llama"):
        bound = asked(kind=kind)
        one = {"source": words(1, 2, 3), "target": words(9)}
        found, alone = bound.featurize(row), bound.featurize(one)
        assert len(found) == 2
        assert found[0].arrays["input_ids"].tolist() == alone[0].arrays["input_ids"].tolist()
        assert [f.arrays["labels"][f.arrays["labels"] >= 0].tolist() for f in found] == [
            [*ids(9), EOS],
            [*ids(8, 7), EOS],
        ]
        assert bound.request(row).ids == bound.request(one).ids
        assert bound.answer(row, "x") == {"text": "x", "reference": row["target"]}
    for wrong, said in ((["", " "], "blank source"), ([1, 2], "source is a list, not a text")):
        with pytest.raises(DataError, match=said):
            asked().featurize({"source": wrong, "target": "w1"})
    for wrong in ([], ["w1", " "]):
        with pytest.raises(DataError, match="blank target"):
            asked().featurize({"source": "w1", "target": wrong})


def test_a_prompt_says_what_goes_with_the_source() -> None:
    prompt = "w50 {source_language} w51 {target_language} {context} {pair} {source}"
    row = {"source": "{pair} w1", "context": "w2", "source_language": "w10", "target_language": "w11"}
    assert rendered(prompt, row, row["source"]) == "w50 w10 w51 w11 w2 w10-w11 {pair} w1"  # braces of a row stay
    assert rendered(prompt, {**row, "context": None}, "w1") == "w50 w10 w51 w11  w10-w11 w1"
    assert rendered(None, row, "w1") == "w1\nw2"
    assert rendered(None, {"source": "w1", "context": " "}, "w1") == "w1"
    with pytest.raises(DataError, match="blank target_language"):
        rendered(prompt, {**row, "target_language": ""}, "w1")


def paired(**columns: dict[str, int]) -> Schema:
    texts = {"source": Column("text"), "target": Column("text")}
    return Schema({**texts, **{name: Column("text", counts=counts) for name, counts in columns.items()}})


def test_figures_of_each_pair_of_languages() -> None:
    schema = paired(pair={"en-de": 2, "de-en": 1})
    bound = Seq2Seq(Seq2SeqOptions()).bind(processor(), T5, schema, Limits(16))
    assert {"bleu/en-de", "rougeL/de-en", "unfinished/en-de"} <= set(bound.answer_metrics)
    texts = [("a b c d e", "a b c d f", "en-de"), ("x y z w", "x y z w", "de-en"), ("g h i j", "g h i k", "en-de")]
    rows = [
        {"feature_id": n, "row_id": n, "finish": "stop", **bound.answer({"target": wanted, "pair": pair}, made)}
        for n, (made, wanted, pair) in enumerate(texts)
    ]
    found = bound.metrics(EvalPart({}, rows))
    assert found["bleu/de-en"] == pytest.approx(100)
    assert found["bleu/en-de"] == sacrebleu.corpus_bleu([texts[0][0], texts[2][0]], [[texts[0][1], texts[2][1]]]).score
    assert found["bleu"] == figures([t[0] for t in texts], [t[1] for t in texts])["bleu"]
    again = Seq2Seq(Seq2SeqOptions()).bind(processor(), None, bound.state(), Limits(16))
    assert again.metric_names == bound.metric_names
    ends = paired(source_language={"en": 2, "fr": 1}, target_language={"de": 3})
    bound = Seq2Seq(Seq2SeqOptions()).bind(processor(), T5, ends, Limits(16))
    assert "bleu/fr-de" in bound.metric_names
    assert bound.answer({"source_language": "en", "target_language": "de"}, "x") == {"text": "x", "pair": "en-de"}


@pytest.mark.parametrize(
    ("prompt", "columns", "said"),
    [
        (None, {"pair": {"en-de": 1, "en-fr": 1}}, "task.prompt: does not say which language is wanted.*: de, fr"),
        ("say {source}", {"source_language": {"en": 2}, "target_language": {"de": 1, "fr": 1}}, "several: de, fr"),
        ("{pair}: {source}", {}, "task.prompt: names {pair}, and the data has no column for it"),
        ("{target_language}: {source}", {"pair": {"en-de": 1}}, "names {target_language}, and the data has no column"),
    ],
)
def test_prompts_that_do_not_say_what_is_wanted_are_refused(
    prompt: str | None, columns: dict[str, dict[str, int]], said: str
) -> None:
    with pytest.raises(RefusalError, match=said):
        Seq2Seq(Seq2SeqOptions(prompt=prompt)).bind(processor(), T5, paired(**columns), Limits(16))


@pytest.mark.parametrize(
    "prompt", ["{pair} {source}", "{source_language}{target_language} {source}", "{pair} {source} {context}"]
)
def test_prompts_that_say_it_are_taken(prompt: str) -> None:
    ends = {"source_language": {"en": 2}, "target_language": {"de": 1, "fr": 1}}
    assert Seq2Seq(Seq2SeqOptions(prompt=prompt)).bind(processor(), T5, paired(**ends), Limits(16)).pairs == (
        "en-de",
        "en-fr",
    )


def test_smoothing_is_torchs() -> None:
    bound = asked(label_smoothing=0.1)
    batch = batch_of(
        bound, [{"source": words(1, 2, 3), "target": words(9, 8)}, {"source": words(4), "target": words(7)}]
    )
    labels = torch.from_numpy(batch.targets["labels"])
    logits = torch.randn(*labels.shape, len(WORDS), generator=torch.Generator().manual_seed(0))
    held = Batch(batch.inputs, {"labels": labels}, batch.row_of, batch.feature_ids, batch.weights)
    (term,) = bound.loss({"logits": logits}, held, WholeOps())
    wanted = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), reduction="sum", ignore_index=IGNORE, label_smoothing=0.1
    )
    assert float(term.sum) == pytest.approx(float(wanted), rel=1e-6)
