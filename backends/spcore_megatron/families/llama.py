"""Llama, and what is built like it: Mistral, Qwen2, Qwen3, SmolLM2 (which is a Llama)."""

from __future__ import annotations

from typing import Any

from spcore_megatron.families import Family, Shape, refuse
from spcore_megatron.families.parts import activation, frequencies, head_width
from spcore_megatron.rules import column, row, vocabulary, whole


def settings(config: Any) -> dict[str, Any]:
    """Sizes; where linear layers have biases is a matter of the family and two switches."""
    biased, mlp = bool(getattr(config, "attention_bias", False)), bool(getattr(config, "mlp_bias", False))
    refuse(
        config.model_type,
        [
            (biased != mlp, f"attention_bias {biased} with mlp_bias {mlp}"),
        ],
    )
    return {
        "num_layers": config.num_hidden_layers, "hidden_size": config.hidden_size, "ffn_hidden_size": config.intermediate_size,
        "num_attention_heads": config.num_attention_heads, "num_query_groups": config.num_key_value_heads,
        "kv_channels": head_width(config), "layernorm_epsilon": config.rms_norm_eps, "normalization": "RMSNorm",
        "attention_dropout": config.attention_dropout, "gated_linear_unit": True, "activation_func": activation(config.hidden_act),
        "add_bias_linear": biased, "add_qkv_bias": config.model_type.startswith("qwen2") and getattr(config, "qkv_bias", True), "qk_layernorm": config.model_type.startswith("qwen3"),
    }  # fmt: skip


def shape(config: Any) -> Shape:
    """Mistral's window holds in all layers; in families that have kinds of layers it must be in all of them, or in none."""
    window, kinds = getattr(config, "sliding_window", None), set(getattr(config, "layer_types", None) or ())
    refuse(config.model_type, [(len(kinds) > 1, f"layer_types {', '.join(sorted(kinds))}")])
    return Shape(config.vocab_size, window=None if kinds == {"full_attention"} else window, rope=frequencies(config))


ATTENTION = {
    "embedding.word_embeddings": vocabulary("embed_tokens"),
    "decoder.layers.*.input_layernorm": whole("layers.*.input_layernorm"),
    "decoder.layers.*.self_attention.linear_qkv": column(
        *(f"layers.*.self_attn.{name}_proj" for name in "qkv"), how="heads"
    ),
    "decoder.layers.*.self_attention.q_layernorm": whole("layers.*.self_attn.q_norm"),
    "decoder.layers.*.self_attention.k_layernorm": whole("layers.*.self_attn.k_norm"),
    "decoder.layers.*.self_attention.linear_proj": row("layers.*.self_attn.o_proj"),
    "decoder.layers.*.pre_mlp_layernorm": whole("layers.*.post_attention_layernorm"),
    "decoder.final_layernorm": whole("norm"),
}
MLP = {
    "decoder.layers.*.mlp.linear_fc1": column("layers.*.mlp.gate_proj", "layers.*.mlp.up_proj", how="gated"),
    "decoder.layers.*.mlp.linear_fc2": row("layers.*.mlp.down_proj"),
}
HEAD = {"output_layer": vocabulary("^lm_head")}
LLAMA = Family(settings, shape, {**ATTENTION, **MLP}, HEAD)
