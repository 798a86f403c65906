"""Maps and settings of families, without Megatron: what is refused and by which words, where rows lie, what a plugin adds."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from hypothesis import given
from hypothesis import strategies as st

import spcore_megatron.families
from spcore.errors import RefusalError
from spcore.interfaces.bridge import NoBridges
from spcore_megatron.families import Family, bert, family_of, gpt2, llama, moe, t5
from spcore_megatron.rules import Sizes, matched, places
from tests.megatron import mega_gemma
from tests.megatron.mega_models import bridges

MAPS = Path(inspect.getfile(spcore_megatron.families)).parent


def test_a_family_without_a_map_is_refused_with_those_that_have_one() -> None:
    with pytest.raises(RefusalError) as caught:
        family_of("bloom", bridges())
    text = str(caught.value)
    for name in ("bert", "gemma", "gpt2", "llama", "mistral", "mixtral", "qwen2", "qwen3_moe", "roberta", "t5"):
        assert name in text
    assert "'bloom'" in text
    assert "\n" not in caught.value.message
    with pytest.raises(RefusalError, match="no weight map"):
        family_of("llama", NoBridges())


def test_a_plugin_adds_a_family() -> None:
    family = family_of("gemma", bridges())
    config = hf.GemmaConfig(hidden_size=64)
    assert family.shape(config).embedding_scale == 8.0
    assert family.settings(config)["layernorm_zero_centered_gamma"] is True


@pytest.mark.parametrize(
    ("family", "config", "named"),
    [
        (llama.LLAMA, lambda: hf.LlamaConfig(attention_bias=True), "attention_bias True"),
        (llama.LLAMA, lambda: hf.LlamaConfig(rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}), "rope_type 'dynamic'"),
        (llama.LLAMA, lambda: hf.Qwen2Config(num_hidden_layers=2, use_sliding_window=True, max_window_layers=1), "layer_types"),
        (gpt2.GPT2, lambda: hf.GPT2Config(embd_pdrop=0.2), "embd_pdrop 0.2"),
        (gpt2.GPT2, lambda: hf.GPT2Config(scale_attn_by_inverse_layer_idx=True), "scale_attn_by_inverse_layer_idx"),
        (bert.BERT, lambda: hf.BertConfig(is_decoder=True), "is_decoder"),
        (moe.MOE, lambda: hf.Qwen3MoeConfig(mlp_only_layers=[0]), "mlp_only_layers"),
        (moe.MOE, lambda: hf.MixtralConfig(router_jitter_noise=0.1), "router_jitter_noise"),
        (t5.T5, lambda: hf.T5Config(dropout_rate=0.1), "model.dropout=0"),
    ],
)  # fmt: skip
def test_what_the_layers_cannot_do_is_refused_by_name(family: Family, config: Any, named: str) -> None:
    made = config()
    with pytest.raises(RefusalError) as caught:
        (family.settings(made), family.shape(made))
    assert named in caught.value.message
    assert made.model_type in caught.value.message
    assert "\n" not in caught.value.message


def test_rotary_frequencies_are_transformers_own() -> None:
    scaled = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}  # fmt: skip
    for said in (
        {"rope_type": "default", "rope_theta": 5e5},
        {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0},
        scaled,
    ):
        config = hf.LlamaConfig(
            vocab_size=9,
            hidden_size=32,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=4,
            rope_parameters=said,
        )
        rope = llama.shape(config).rope
        assert rope is not None
        assert torch.equal(rope, hf.LlamaModel(config).rotary_emb.inv_freq)


@given(
    how=st.sampled_from(["plain", "heads", "pairs", "gated"]), groups=st.integers(1, 4), shared=st.integers(1, 3),
    width=st.integers(1, 5), ranks=st.integers(1, 4),
)  # fmt: skip
def test_every_row_has_one_place(how: Any, groups: int, shared: int, width: int, ranks: int) -> None:
    sizes = Sizes(groups * shared, groups, width, 0, ranks)
    each = {
        "heads": groups * (shared + 2) * width,
        "pairs": groups * 2 * width,
        "gated": 2 * ranks * width,
        "plain": ranks * width,
    }
    found = places(how, sizes, each[how])
    assert torch.equal(torch.cat(found).sort().values, torch.arange(each[how]))
    if how == "heads":
        assert [len(part) for part in found] == [groups * shared * width, groups * width, groups * width]


def test_rows_that_pad_a_vocabulary_have_no_source() -> None:
    assert torch.equal(places("vocabulary", Sizes(1, 1, 1, 101, 2), 102)[0], torch.arange(101))


@pytest.mark.parametrize(
    ("name", "key", "leaf", "numbers"),
    [
        ("decoder.layers.3.self_attention.linear_qkv.layer_norm_weight", "decoder.layers.*.input_layernorm", "weight", ["3"]),
        ("decoder.layers.0.mlp.linear_fc1.layer_norm_bias", "decoder.layers.*.pre_mlp_layernorm", "bias", ["0"]),
        ("decoder.layers.12.mlp.linear_fc1.weight", "decoder.layers.*.mlp.linear_fc1", "weight", ["12"]),
        ("decoder.final_layernorm.weight", "decoder.final_layernorm", "weight", []),
    ],
)  # fmt: skip
def test_layers_of_transformer_engine_have_the_same_rules(name: str, key: str, leaf: str, numbers: list[str]) -> None:
    rules = llama.LLAMA.rules(None)
    assert matched(name, rules) == (rules[key], leaf, numbers)


def test_each_family_is_one_short_file() -> None:
    for file in MAPS.glob("*.py"):
        text = file.read_text()
        assert len(text.splitlines()) < 150, file.name
        for node in ast.walk(ast.parse(text)):
            assert not isinstance(node, (ast.For, ast.While)) or file.name == "__init__.py", (
                f"{file.name}: a map is data"
            )


def test_the_guide_shows_the_plugin_that_is_tested() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "megatron.md").read_text()
    shown = guide.partition("```python\n")[2].partition("```")[0]
    assert shown.strip()
    assert inspect.getsource(mega_gemma).endswith(shown)
