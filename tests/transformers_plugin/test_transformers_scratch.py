"""Models made from nothing: each family's own names, the tokenizer's ids, presets, and what is refused before anything starts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tiny_gguf import tiny_llama, write_gguf
from tiny_models import HEADS, made, opened, tokenizer

from spcore import default_registry, load_model, load_recipe, run
from spcore.artifact import open_model
from spcore.errors import SlimPajamaError
from spcore.session import assemble
from spcore_transformers.presets import PRESETS

SIZES: dict[str, Any] = {"hidden_size": 64, "layers": 3, "heads": 4}
FAMILIES = (
    "llama", "mistral", "qwen2", "qwen3", "gpt2", "gpt_neox", "phi", "gemma", "t5", "bart", "marian", "bert", "roberta", "modernbert",
    "electra", "distilbert",
)  # fmt: skip
UNLIMITED = ("t5",)
"""Families whose positions are relative."""


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder of a tokenizer alone."""
    folder = tmp_path_factory.mktemp("words")
    tokenizer().save_pretrained(folder)
    return str(folder)


def whole(config: Any) -> Any:
    """transformers' own model of a configuration."""
    only_causal = (
        type(config) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING
        and type(config) not in transformers.MODEL_FOR_MASKED_LM_MAPPING
    )
    auto = "Seq2SeqLM" if config.is_encoder_decoder else "CausalLM" if only_causal else "MaskedLM"
    return getattr(transformers, f"AutoModelFor{auto}").from_config(config)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_takes_the_common_names(family: str, words: str) -> None:
    positions = {} if family in UNLIMITED else {"positions": 48}
    model = opened("", architecture=family, tokenizer=words, intermediate_size=80, **SIZES, **positions)
    config = model.config
    assert (model.family, model.source) == (family, "")
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (64, 3, 4)
    assert model.processor.max_length == positions.get("positions")
    assert config.vocab_size == len(tokenizer()) == model.processor.vocabulary_size
    assert (config.pad_token_id, config.eos_token_id) == (0, 3)  # of BERT's tokens [SEP] is the last
    assert getattr(config, "bos_token_id", 2) == 2  # and [CLS] the first; T5 has none
    module = whole(config).eval()
    shapes = [tuple(p.shape) for p in module.parameters() if p.dim() == 2]
    assert any(80 in shape or 2 * 80 in shape for shape in shapes)  # ModernBERT's two halves are one matrix
    ids = torch.arange(5, 29)[None]
    ids = ids if family in UNLIMITED else torch.cat([ids, ids], 1)  # as many as there are positions
    more = {"decoder_input_ids": ids} if config.is_encoder_decoder else {}
    with torch.no_grad():
        logits = module(input_ids=ids, **more).logits
    assert logits.shape == (1, ids.shape[1], config.vocab_size)
    assert bool(torch.isfinite(logits).all())
    assert list(model.weights()) == []


def test_what_follows_from_the_sizes(words: str) -> None:
    llama = opened("", architecture="llama", tokenizer=words, hidden_size=384, layers=6, heads=6).config
    assert (llama.head_dim, llama.num_key_value_heads, llama.intermediate_size) == (64, 6, 1032)  # 11008 / 4096 of 384
    grouped = opened(
        "", architecture="qwen3", tokenizer=words, hidden_size=96, heads=6, key_value_heads=2, head_size=32
    )
    assert (grouped.config.head_dim, grouped.config.num_key_value_heads) == (32, 2)
    t5 = opened("", architecture="t5", tokenizer=words, decoder_layers=2, **SIZES).config
    assert (t5.num_layers, t5.num_decoder_layers, t5.d_kv, t5.decoder_start_token_id) == (3, 2, 16, 0)
    bart = opened("", architecture="bart", tokenizer=words, **SIZES).config
    assert (bart.decoder_layers, bart.decoder_ffn_dim, bart.decoder_start_token_id) == (3, 256, 3)
    padded = opened("", architecture="gpt2", tokenizer=words, vocabulary_multiple=64, tie_embeddings=False, **SIZES)
    assert (padded.config.vocab_size, padded.processor.vocabulary_size) == (64, 31)
    assert padded.config.tie_word_embeddings is False
    extra = {"hidden_dropout_prob": 0.3, "hidden_act": "relu"}
    bert = opened("", architecture="bert", tokenizer=words, config=extra, dropout=0.0, **SIZES).config
    assert (bert.hidden_act, bert.hidden_dropout_prob) == ("relu", 0.0)


def test_a_tokenizers_own_length_does_not_hold_for_a_new_model(tmp_path: Path) -> None:
    short = tokenizer()
    short.model_max_length = 16
    short.save_pretrained(tmp_path)
    model = opened("", architecture="gpt2", tokenizer=str(tmp_path), positions=48, **SIZES)
    assert model.processor.max_length == 48
    model.processor.save(tmp_path / "again")
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "again").model_max_length > 10**9


def test_projections_into_the_residual_start_smaller_with_depth(words: str) -> None:
    model = opened("", architecture="gpt2", tokenizer=words, hidden_size=128, layers=8, heads=4)
    module = made(model, HEADS["vocabulary"])
    scaled = 0.02 / math.sqrt(2 * 8)  # GPT-2: Radford et al. 2019, section 2.3
    for name, expected in (("attn.c_proj", scaled), ("mlp.c_proj", scaled), ("mlp.c_fc", 0.02), ("attn.c_attn", 0.02)):
        found = module.get_submodule(f"transformer.h.5.{name}").weight.detach().std().item()
        assert found == pytest.approx(expected, rel=0.05), name  # of 16384 draws: 5% is nine standard errors


PUBLISHED = {
    "nano-gpt-cpu": (65, 809_856), "nano-gpt": (65, 10_770_816), "gpt2-small": (50257, 124_439_808), "gpt2-medium": (50257, 354_823_168),
    "tiny-llama-15m": (32000, 15_191_712), "tiny-llama-42m": (32000, 41_689_600), "tiny-llama-110m": (32000, 109_529_856),
    "smollm2-135m": (49152, 134_515_008), "smollm2-360m": (49152, 361_821_120), "qwen3-0.6b": (151936, 596_049_920),
    "pythia-14m": (50304, 14_067_712), "pythia-70m": (50304, 70_426_624), "pythia-160m": (50304, 162_322_944),
    "bert-tiny": (30522, 4_385_920), "bert-mini": (30522, 11_170_560), "bert-small": (30522, 28_763_648),
    "bert-medium": (30522, 41_373_184), "bert-base": (30522, 109_482_240), "distilbert-base": (30522, 66_362_880),
    "roberta-base": (50265, 124_645_632 - 768), "electra-small": (30522, 13_483_008), "modernbert-base": (50368, 149_014_272),
    "t5-tiny": (32128, 15_570_688), "t5-mini": (32128, 31_220_480), "t5-small": (32128, 60_506_624), "bart-base": (50265, 139_420_416),
    "marian-base": (58101, 74_410_496),
}  # fmt: skip
"""Preset -> vocabulary and parameters of the published model: decoders with their head, others without. RoBERTa's table of positions
has one row less here, as the padding token of the test's tokenizer is 0 and not 1."""


@pytest.mark.parametrize("name", PRESETS)
def test_presets_have_the_published_number_of_parameters(name: str, words: str) -> None:
    vocabulary, published = PUBLISHED[name]
    config = opened("", preset=name, tokenizer=words).config
    config.vocab_size = vocabulary
    if hasattr(config, "decoder_vocab_size"):
        config.decoder_vocab_size = vocabulary
    with torch.device("meta"):
        untied = name.startswith("pythia")
        module = whole(config) if untied else transformers.AutoModel.from_config(config)
    assert module.num_parameters() == published


def test_presets_yield_to_what_stands_beside_them(words: str) -> None:
    model = opened(
        "", preset="smollm2-135m", tokenizer=words, hidden_size=96, heads=6, layers=2, config={"rms_norm_eps": 1e-6}
    )
    config = model.config
    assert (config.num_key_value_heads, config.head_dim, config.intermediate_size) == (6, 16, 264)
    assert (config.rms_norm_eps, config.rope_parameters["rope_theta"], config.tie_word_embeddings) == (1e-6, 1e5, True)
    assert opened("", preset="nano-gpt", tokenizer=words).config.resid_pdrop == 0.2
    assert opened("", preset="nano-gpt", tokenizer=words, dropout=0.1).config.resid_pdrop == 0.1


def refused(source: str = "", **options: Any) -> str:
    """The one line that these options get."""
    with pytest.raises(SlimPajamaError) as caught:
        opened(source, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_contradictions_are_refused(words: str) -> None:
    assert refused() == "model: neither source nor architecture nor preset is given: give one of them"
    assert refused("some/model", architecture="llama").startswith(
        "model.architecture 'llama': model.source 'some/model' is given too."
    )
    assert refused(preset="bert-mini", architecture="bert") == (
        "model.architecture 'bert': model.preset 'bert-mini' says it already; give one of them"
    )
    assert refused(architecture="bert").startswith(
        "model.tokenizer: not given, and model.architecture 'bert' has none."
    )
    assert refused("some/model", layers=2) == (
        "model.layers: goes with model.architecture or model.preset; 'some/model' says its own"
    )
    assert refused("some/model", tokenizer=words).startswith(f"model.tokenizer {words!r}: the weights of 'some/model'")
    assert "model.tokenizer: the folder '/' has no tokenizer files" in refused(architecture="bert", tokenizer="/")
    assert refused(architecture="bert", tokenizer="no such").startswith("model.tokenizer: 'no such': not found")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"architecture": "lama"}, "model.architecture: unknown family 'lama'; did you mean 'llama'? verified: bart, bert, "),
        ({"architecture": "vit"}, "model.architecture 'vit': a family without a vocabulary; it is no language model"),
        ({"preset": "bert-mni"}, "model.preset: unknown preset 'bert-mni'; did you mean 'bert-mini'? known: bart-base, "),
        ({"architecture": "llama", **SIZES, "heads": 5}, "model.heads 5: does not divide hidden_size, which is 64; near: 2, 4, 8"),
        ({"architecture": "llama", **SIZES, "key_value_heads": 3}, "model.key_value_heads 3: does not divide heads, which is 4"),
        ({"architecture": "gpt_neox", "hidden_size": 48, "heads": 4}, "model.head_size: 3 of 12 dimensions turn with the position"),
        ({"architecture": "gptj", "hidden_size": 32, "heads": 4}, "model.config.rotary_dim 64: a head has 8 dimensions"),
        ({"architecture": "mixtral", "config": {"num_local_experts": 1}}, "model.config.num_experts_per_tok 2: the model has 1 experts; give 1 or less"),
        ({"architecture": "gpt2", "key_value_heads": 2}, "model.key_value_heads 2: family 'gpt2' has no such setting; leave it out"),
        ({"architecture": "t5", "positions": 64}, "model.positions 64: family 't5' has no such setting; leave it out"),
        ({"architecture": "bert", "config": {"hiden_act": "relu"}}, "model.config.hiden_act: unknown key of family 'bert' 'hiden_act'; did you mean 'hidden_act'?"),
        ({"architecture": "bert", "config": {"hidden_act": "rlu"}}, "model.architecture 'bert': cannot be made: 'rlu' is not known"),
        ({"architecture": "bert", "config": {"hidden_act": 3}}, "model.architecture 'bert': refused by transformers: Validation error for field 'hidden_act'"),
        ({"architecture": "bert", "config": {"vocab_size": 9}}, "model.config.vocab_size: not yours to set"),
        ({"architecture": "gpt2", "layers": 2, "config": {"n_layer": 3}}, "model.config.n_layer: an option of its own says it already; give one of them"),
        ({"architecture": "gpt2", "hidden_size": 64, "config": {"hidden_size": 32}}, "model.config.n_embd: an option of its own says it already"),
    ],
)  # fmt: skip
def test_impossible_sizes_are_refused(options: dict[str, Any], line: str, words: str) -> None:
    assert refused(tokenizer=words, **options).startswith(line)


def test_a_family_that_needs_a_padding_token_says_so(tmp_path: Path) -> None:
    bare = tokenizer()
    bare.pad_token = None
    bare.save_pretrained(tmp_path)
    for family in ("t5", "roberta"):
        line = refused(architecture=family, tokenizer=str(tmp_path), hidden_size=64, heads=4, layers=1)
        assert "has no pad token, which family" in line
    positions = {"positions": 32, **SIZES}
    assert "has no pad token" in refused(architecture="roberta", tokenizer=str(tmp_path), **positions)


def test_another_tokenizer_for_a_known_configuration(words: str, folder: Any, tmp_path: Path) -> None:
    other = tokenizer()
    other.add_tokens(["several", "more"])
    other.save_pretrained(tmp_path)
    model = opened(folder("bert"), from_scratch=True, tokenizer=str(tmp_path))
    assert (model.config.vocab_size, model.config.hidden_size) == (33, 32)
    assert made(model, HEADS["vocabulary"]).get_submodule("bert").embeddings.word_embeddings.num_embeddings == 33


def test_a_recipe_of_nothing_is_assembled_and_its_paths_are_relative_to_it(words: str, tmp_path: Path) -> None:
    registry = default_registry()
    tokenizer().save_pretrained(tmp_path / "words")
    (tmp_path / "rows.csv").write_text("text,label\n" + "a b,0\nc d,1\n" * 8)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "model: {use: transformers, preset: bert-tiny, tokenizer: words}\ntask: text-classification\ndata: rows.csv\n"
    )
    loaded = load_recipe(recipe, registry=registry)
    assert loaded.model.options["tokenizer"] == str(tmp_path / "words")
    session = assemble(loaded, registry)
    assert session.plan.model.family == "bert"
    with pytest.raises(SlimPajamaError) as caught:
        assemble(load_recipe(recipe, ["model.heads=3"], registry=registry), registry)
    assert str(caught.value).startswith("override 'model.heads=3': model.heads 3: does not divide hidden_size")
    scheme = load_recipe(recipe, ["model=hf:words"], registry=registry, base=tmp_path)
    assert scheme.model.options["source"] == f"hf:{tmp_path / 'words'}"
    assert open_model(f"hf:{made_folder(tmp_path, words)}", registry).family == "bert"


def made_folder(tmp_path: Path, words: str) -> Path:
    """A saved configuration with its tokenizer."""
    model = opened("", preset="bert-tiny", tokenizer=words)
    target = tmp_path / "made"
    target.mkdir()
    model.save_config(target, HEADS["vocabulary"])
    model.processor.save(target)
    return target


def test_a_model_of_nothing_trains_and_opens_from_its_folder(words: str, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,label\n" + "a b,0\nc d,1\n" * 8)
    model = {"use": "transformers", "architecture": "bert", "tokenizer": words, **SIZES, "positions": 32}
    recipe = {
        "model": model, "task": "text-classification", "data": str(tmp_path / "rows.csv"), "output": str(tmp_path / "run"), "loggers": [],
        "train": {"steps": 2, "global_batch_size": 4, "seed": 3},
    }  # fmt: skip
    run(recipe)
    opened = load_model(tmp_path / "run")
    assert opened.predict("a b")[0]["label"] in ("0", "1")
    assert opened.artifact().manifest["model"] == {"use": "transformers", "source": "", "family": "bert"}
    card = (tmp_path / "run" / "README.md").read_text()
    assert "# bert, text-classification" in card
    assert "A model of family `bert`, trained from nothing for text-classification" in card
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "run")
    assert (theirs.config.num_hidden_layers, theirs.config.max_position_embeddings) == (3, 32)


def test_a_gguf_file_is_fine_tuned_and_saved_as_safetensors(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", tiny_llama(), quantised=True)
    handle = load_model(f"gguf:{file}")
    rows = [{"text": text, "label": label} for text, label in (("the", 0), ("a", 1)) * 4]
    handle.finetune(rows, "text-classification", epochs=1, output=tmp_path / "run", progress=False)
    assert (tmp_path / "run" / "model.safetensors").is_file()
    assert load_model(tmp_path / "run").predict("the")[0]["label"] in ("0", "1")
