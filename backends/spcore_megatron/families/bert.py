"""BERT (so MiniLM) and RoBERTa: encoders with norms after attention and MLP, and one after the embeddings."""

from __future__ import annotations

from typing import Any

from spcore_megatron.families import Family, Shape, refuse
from spcore_megatron.families.parts import activation
from spcore_megatron.rules import column, row, vocabulary, whole


def settings(config: Any) -> dict[str, Any]:
    """Sizes."""
    kind = getattr(config, "position_embedding_type", None) or "absolute"
    refuse(
        config.model_type,
        [
            (kind != "absolute", f"position_embedding_type {kind!r}"),
            (bool(getattr(config, "is_decoder", False)), "is_decoder true"),
        ],
    )
    return {
        "num_layers": config.num_hidden_layers, "hidden_size": config.hidden_size, "ffn_hidden_size": config.intermediate_size,
        "num_attention_heads": config.num_attention_heads, "layernorm_epsilon": config.layer_norm_eps,
        "activation_func": activation(config.hidden_act), "hidden_dropout": config.hidden_dropout_prob,
        "attention_dropout": config.attention_probs_dropout_prob,
    }  # fmt: skip


def shape(config: Any) -> Shape:
    """A row for each position and kind of token."""
    return Shape(config.vocab_size, positions=config.max_position_embeddings, token_types=config.type_vocab_size)


def roberta_shape(config: Any) -> Shape:
    """Positions begin behind the padding token's."""
    return Shape(
        config.vocab_size, positions=config.max_position_embeddings, first_position=config.pad_token_id + 1,
        token_types=config.type_vocab_size,
    )  # fmt: skip


WEIGHTS = {
    "embedding.word_embeddings": vocabulary("embeddings.word_embeddings"),
    "embedding.position_embeddings": whole("embeddings.position_embeddings"),
    "embedding.tokentype_embeddings": whole("embeddings.token_type_embeddings"),
    "embedding_norm": whole("embeddings.LayerNorm"),
    "decoder.layers.*.self_attention.linear_qkv": column(
        *(f"encoder.layer.*.attention.self.{name}" for name in ("query", "key", "value")), how="heads"
    ),
    "decoder.layers.*.self_attention.linear_proj": row("encoder.layer.*.attention.output.dense"),
    "decoder.layers.*.input_layernorm": whole("encoder.layer.*.attention.output.LayerNorm"),
    "decoder.layers.*.mlp.linear_fc1": column("encoder.layer.*.intermediate.dense"),
    "decoder.layers.*.mlp.linear_fc2": row("encoder.layer.*.output.dense"),
    "decoder.layers.*.pre_mlp_layernorm": whole("encoder.layer.*.output.LayerNorm"),
}
_KIND = {"causal": False, "post_norm": True, "embedding_norm": True, "transform": True}
BERT = Family(
    settings, shape, WEIGHTS,
    {
        "transform": whole("^cls.predictions.transform.dense"),
        "transform_norm": whole("^cls.predictions.transform.LayerNorm"),
        "output_layer": vocabulary("^cls.predictions.decoder"),
    },
    **_KIND,
)  # fmt: skip
ROBERTA = Family(
    settings, roberta_shape, WEIGHTS,
    {
        "transform": whole("^lm_head.dense"), "transform_norm": whole("^lm_head.layer_norm"),
        "output_layer": vocabulary("^lm_head.decoder"),
    },
    **_KIND,
)  # fmt: skip
"""Its head's activation is always gelu, as is the layers' of every RoBERTa that there is."""
