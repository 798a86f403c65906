"""Which parameters decay: transformers' Trainer is the oracle, on the real names of families built on meta."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    GPT2Config,
    LlamaConfig,
    ModernBertConfig,
    T5Config,
    Trainer,
)

from spcore.interfaces.optimizer import GroupKey
from spcore_optim.optimizers import AdamW, Decaying, Lion
from spcore_optim.options import AdamWOptions, LionOptions

SMALL = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 32}
CONFIGS = {
    "bert": BertConfig(**SMALL),
    "modernbert": ModernBertConfig(**SMALL, pad_token_id=0),
    "llama": LlamaConfig(**SMALL),
    "gpt2": GPT2Config(vocab_size=32, n_embd=8, n_layer=2, n_head=2),
    "t5": T5Config(vocab_size=32, d_model=8, d_ff=16, num_layers=2, num_heads=2, d_kv=4),
}


def built(family: str) -> torch.nn.Module:
    with torch.device("meta"):
        return AutoModelForSequenceClassification.from_config(CONFIGS[family])


def decaying(optimizer: Decaying, module: torch.nn.Module) -> set[str]:
    return {n for n, p in module.named_parameters() if optimizer.groups(n, tuple(p.shape)).weight_decay}


@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_the_decayed_parameters_are_those_of_transformers_trainer(family: str) -> None:
    module = built(family)
    names = {n for n, _ in module.named_parameters()}
    expected = set(Trainer.get_decay_parameter_names(None, module)) & names
    assert decaying(AdamW(AdamWOptions()), module) == expected
    assert 0 < len(expected) < len(names) or family == "t5"


def test_names_of_bert() -> None:
    found = decaying(AdamW(AdamWOptions()), built("bert"))
    assert "bert.embeddings.word_embeddings.weight" in found
    assert "bert.encoder.layer.1.attention.self.query.weight" in found
    assert "classifier.weight" in found
    assert not any("LayerNorm" in name or name.endswith("bias") for name in found)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("model.norm.weight", (8,)),
        ("model.layers.0.self_attn.q_norm.weight", (4, 8)),
        ("encoder.layer.0.output.LayerNorm.weight", (8, 1)),
        ("model.layers.0.input_layernorm.weight", (8, 1)),
        ("blocks.0.norm1.weight", (8, 1)),
        ("transformer.h.0.ln_1.weight", (8, 1)),
        ("transformer.ln_f.weight", (8, 1)),
        ("layers.0.experts.down_proj_bias", (4, 8)),
        ("layers.0.dense.bias", (4, 8)),
        ("encoder.relative_attention_bias.weight", (32, 2)),
        ("logit_scale", ()),
        ("mask_token", (8,)),
    ],
)
def test_norms_biases_and_vectors_do_not_decay(name: str, shape: tuple[int, ...]) -> None:
    assert AdamW(AdamWOptions(weight_decay=0.3)).groups(name, shape) == GroupKey(0.0)


@pytest.mark.parametrize(
    "name", ["model.layers.0.mlp.up_proj.weight", "embed.weight", "norm_table", "helnet.weight", "unbiased_head.weight"]
)
@pytest.mark.parametrize("shape", [(4, 8), (1, 8), (2, 4, 8)])
def test_matrices_decay(name: str, shape: tuple[int, ...]) -> None:
    assert AdamW(AdamWOptions(weight_decay=0.3)).groups(name, shape) == GroupKey(0.3)


def test_no_decay_names_more() -> None:
    options = LionOptions(no_decay=("embeddings", "layer.*.query"))
    found = decaying(Lion(options), built("bert"))
    assert not any("embeddings" in name or ".query." in name for name in found)
    assert any(".key." in name for name in found)


def test_grouping_needs_no_torch() -> None:
    code = (
        "import sys; from spcore_optim import optimizers, options, schedules; "
        "key = optimizers.AdamW(options.AdamWOptions()).groups('a.weight', (2, 2)); "
        "assert key.weight_decay == 0.01; assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}; {code}"], check=True)
