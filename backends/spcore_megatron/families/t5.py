"""T5 and its gated successors (v1.1, Flan): an encoder and a decoder, biases by distance, scores that are not scaled."""

from __future__ import annotations

from typing import Any

from spcore_megatron.families import Family, Shape, refuse
from spcore_megatron.families.parts import activation
from spcore_megatron.rules import Rule, column, row, vocabulary, whole


def settings(config: Any) -> dict[str, Any]:
    """Sizes. T5 drops out inside its MLPs too, where Megatron's have no place for it."""
    refuse(config.model_type, [(config.dropout_rate > 0, f"dropout_rate {config.dropout_rate} (set model.dropout=0)")])
    return {
        "num_layers": config.num_decoder_layers, "hidden_size": config.d_model, "ffn_hidden_size": config.d_ff,
        "num_attention_heads": config.num_heads, "kv_channels": config.d_kv, "layernorm_epsilon": config.layer_norm_epsilon,
        "normalization": "RMSNorm", "add_bias_linear": False, "gated_linear_unit": config.is_gated_act,
        "activation_func": activation(config.dense_act_fn), "softmax_scale": 1.0,
    }  # fmt: skip


def shape(config: Any) -> Shape:
    """Buckets of distances stand in the place of positions; logits are scaled where their matrix is the embeddings'."""
    return Shape(
        config.vocab_size, encoder_layers=config.num_layers, buckets=config.relative_attention_num_buckets,
        furthest=config.relative_attention_max_distance,
        output_scale=config.d_model**-0.5 if config.scale_decoder_outputs else 1.0,
    )  # fmt: skip


def _attention(mine: str, stack: str, n: int) -> dict[str, Rule]:
    """A stack's attention to itself."""
    layer, own = f"{stack}.block.*.layer.{n}", f"{mine}.layers.*"
    return {
        f"{own}.input_layernorm": whole(f"{layer}.layer_norm"),
        f"{own}.self_attention.linear_qkv": column(*(f"{layer}.SelfAttention.{name}" for name in "qkv"), how="heads"),
        f"{own}.self_attention.linear_proj": row(f"{layer}.SelfAttention.o"),
        f"{mine}_distances.relative_attention_bias": whole(
            f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias"
        ),
        f"{mine}.final_layernorm": whole(f"{stack}.final_layer_norm"),
    }


def _mlp(mine: str, stack: str, n: int, *, gated: bool) -> dict[str, Rule]:
    layer, own = f"{stack}.block.*.layer.{n}", f"{mine}.layers.*"
    wide = [f"{layer}.DenseReluDense.{name}" for name in (("wi_0", "wi_1") if gated else ("wi",))]
    return {
        f"{own}.pre_mlp_layernorm": whole(f"{layer}.layer_norm"),
        f"{own}.mlp.linear_fc1": column(*wide, how="gated" if gated else "plain"),
        f"{own}.mlp.linear_fc2": row(f"{layer}.DenseReluDense.wo"),
    }


_CROSS = "decoder.block.*.layer.1"


def rules(config: Any) -> dict[str, Rule]:
    """The map; gate and up are two matrices in gated models."""
    gated = config.is_gated_act
    return {
        "embedding.word_embeddings": vocabulary("shared"),
        **_attention("encoder", "encoder", 0), **_mlp("encoder", "encoder", 1, gated=gated),
        **_attention("decoder", "decoder", 0), **_mlp("decoder", "decoder", 2, gated=gated),
        "decoder.layers.*.pre_cross_attn_layernorm": whole(f"{_CROSS}.layer_norm"),
        "decoder.layers.*.cross_attention.linear_q": column(f"{_CROSS}.EncDecAttention.q"),
        "decoder.layers.*.cross_attention.linear_kv": column(*(f"{_CROSS}.EncDecAttention.{n}" for n in "kv"), how="pairs"),
        "decoder.layers.*.cross_attention.linear_proj": row(f"{_CROSS}.EncDecAttention.o"),
    }  # fmt: skip


T5 = Family(settings, shape, rules, {"output_layer": vocabulary("^lm_head")}, encoder=True)
