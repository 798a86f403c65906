"""GPT-2: learned positions, one matrix for query, key and value, weights stored [in, out]."""

from __future__ import annotations

from typing import Any

from spcore_megatron.families import Family, Shape, refuse
from spcore_megatron.families.parts import activation
from spcore_megatron.rules import column, row, vocabulary, whole


def settings(config: Any) -> dict[str, Any]:
    """Sizes. One rate of dropout serves embeddings and residuals alike."""
    refuse(
        config.model_type,
        [
            (
                config.embd_pdrop != config.resid_pdrop,
                f"embd_pdrop {config.embd_pdrop}, resid_pdrop {config.resid_pdrop}",
            ),
            (not config.scale_attn_weights, "scale_attn_weights false"),
            (config.scale_attn_by_inverse_layer_idx, "scale_attn_by_inverse_layer_idx"),
        ],
    )
    return {
        "num_layers": config.n_layer, "hidden_size": config.n_embd, "ffn_hidden_size": config.n_inner or 4 * config.n_embd,
        "num_attention_heads": config.n_head, "layernorm_epsilon": config.layer_norm_epsilon,
        "activation_func": activation(config.activation_function), "hidden_dropout": config.resid_pdrop,
        "attention_dropout": config.attn_pdrop,
    }  # fmt: skip


def shape(config: Any) -> Shape:
    """A row for each position."""
    return Shape(config.vocab_size, positions=config.n_positions)


WEIGHTS = {
    "embedding.word_embeddings": vocabulary("wte"),
    "embedding.position_embeddings": whole("wpe"),
    "decoder.layers.*.input_layernorm": whole("h.*.ln_1"),
    "decoder.layers.*.self_attention.linear_qkv": column("h.*.attn.c_attn", how="heads", transposed=True),
    "decoder.layers.*.self_attention.linear_proj": row("h.*.attn.c_proj", transposed=True),
    "decoder.layers.*.pre_mlp_layernorm": whole("h.*.ln_2"),
    "decoder.layers.*.mlp.linear_fc1": column("h.*.mlp.c_fc", transposed=True),
    "decoder.layers.*.mlp.linear_fc2": row("h.*.mlp.c_proj", transposed=True),
    "decoder.final_layernorm": whole("ln_f"),
}
GPT2 = Family(settings, shape, WEIGHTS, {"output_layer": vocabulary("^lm_head")})
