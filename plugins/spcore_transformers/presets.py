"""Known architectures by name. To add one: a line here, and its published number of parameters in the tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Preset:
    """An architecture and its sizes. sizes: options of `TransformersOptions`, `config` among them."""

    architecture: str
    sizes: Mapping[str, Any] = field(default_factory=dict)


def _sized(
    architecture: str, hidden_size: int, layers: int, heads: int, intermediate_size: int, positions: int | None, **more: Any
) -> Preset:  # fmt: skip
    sizes = {
        "hidden_size": hidden_size, "layers": layers, "heads": heads, "intermediate_size": intermediate_size, "positions": positions,
    }  # fmt: skip
    return Preset(architecture, {**{k: v for k, v in sizes.items() if v is not None}, **more})


_SMOL: dict[str, Any] = {
    "tie_embeddings": True,
    "config": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e5}, "rms_norm_eps": 1e-5},
}
_STORIES: dict[str, Any] = {"tie_embeddings": True, "config": {"rms_norm_eps": 1e-5}}
_QWEN3: dict[str, Any] = {
    "tie_embeddings": True, "config": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
}  # fmt: skip

PRESETS: Mapping[str, Preset] = {
    # nanoGPT's two settings for Shakespeare's characters
    "nano-gpt-cpu": _sized("gpt2", 128, 4, 4, 512, 64, dropout=0.0),
    "nano-gpt": _sized("gpt2", 384, 6, 6, 1536, 256, dropout=0.2),
    "gpt2-small": _sized("gpt2", 768, 12, 12, 3072, 1024),
    "gpt2-medium": _sized("gpt2", 1024, 24, 16, 4096, 1024),
    # llama2.c's models of TinyStories
    "tiny-llama-15m": _sized("llama", 288, 6, 6, 768, 256, **_STORIES),
    "tiny-llama-42m": _sized("llama", 512, 8, 8, 1376, 1024, **_STORIES),
    "tiny-llama-110m": _sized("llama", 768, 12, 12, 2048, 1024, **_STORIES),
    "smollm2-135m": _sized("llama", 576, 30, 9, 1536, 8192, key_value_heads=3, **_SMOL),
    "smollm2-360m": _sized("llama", 960, 32, 15, 2560, 8192, key_value_heads=5, **_SMOL),
    "qwen3-0.6b": _sized("qwen3", 1024, 28, 16, 3072, 40960, key_value_heads=8, head_size=128, **_QWEN3),
    "pythia-14m": _sized("gpt_neox", 128, 6, 4, 512, 2048),
    "pythia-70m": _sized("gpt_neox", 512, 6, 8, 2048, 2048),
    "pythia-160m": _sized("gpt_neox", 768, 12, 12, 3072, 2048),
    # BERT's miniatures (Turc et al. 2019, https://arxiv.org/abs/1908.08962)
    "bert-tiny": _sized("bert", 128, 2, 2, 512, 512),
    "bert-mini": _sized("bert", 256, 4, 4, 1024, 512),
    "bert-small": _sized("bert", 512, 4, 8, 2048, 512),
    "bert-medium": _sized("bert", 512, 8, 8, 2048, 512),
    "bert-base": _sized("bert", 768, 12, 12, 3072, 512),
    "distilbert-base": _sized("distilbert", 768, 6, 12, 3072, 512),
    "roberta-base": _sized("roberta", 768, 12, 12, 3072, 512, config={"type_vocab_size": 1, "layer_norm_eps": 1e-5}),
    "electra-small": _sized("electra", 256, 12, 4, 1024, 512, config={"embedding_size": 128}),
    "modernbert-base": _sized("modernbert", 768, 22, 12, 1152, 8192),
    # T5's small ones (Tay et al. 2021, https://arxiv.org/abs/2109.10686) and the first T5's
    "t5-tiny": _sized("t5", 256, 4, 4, 1024, None, head_size=64),
    "t5-mini": _sized("t5", 384, 4, 8, 1536, None, head_size=64),
    "t5-small": _sized("t5", 512, 6, 8, 2048, None, head_size=64),
    "bart-base": _sized("bart", 768, 6, 12, 3072, 1024),
    "marian-base": _sized(
        "marian", 512, 6, 8, 2048, 512, config={"scale_embedding": True, "activation_function": "swish"}
    ),
}
