"""Layer specs: Transformer Engine's where it is installed, Megatron's local one, with norms and attention of our own, where not."""

from __future__ import annotations

import copy
import importlib.util
from typing import Any

import torch
from megatron.core.models.gpt.gpt_layer_specs import (
    get_gpt_layer_local_spec,
    get_gpt_layer_with_transformer_engine_spec,
)
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_layer import TransformerLayer

from spcore_megatron.attention import Attention, Norm


def has_transformer_engine() -> bool:
    """Whether Transformer Engine is installed."""
    return importlib.util.find_spec("transformer_engine") is not None


class PostNormLayer(TransformerLayer):  # type: ignore[misc]
    """A layer whose norms follow what they normalise (BERT): h = norm(h + attention(h)); h = norm(h + mlp(h))."""

    def forward(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, **_: Any) -> Any:
        """[T, B, H] -> ([T, B, H], None)."""
        fused, joined = self.config.bias_dropout_fusion, hidden_states
        with self.bias_dropout_add_exec_handler():
            found = self.self_attention(joined, attention_mask=attention_mask)
            joined = self.input_layernorm(self.self_attn_bda(self.training, fused)(found, joined, self.hidden_dropout))
            found = self.mlp(joined)
            joined = self.pre_mlp_layernorm(self.mlp_bda(self.training, fused)(found, joined, self.hidden_dropout))
        return joined, None


def block(
    config: Any, *, causal: bool, post_norm: bool, masks: bool, vp_stage: int | None
) -> TransformerBlockSubmodules:
    """The layers that this stage has. post_norm: see `PostNormLayer`; such layers have no norm after the last. masks: whether positions
    are kept apart by masks that Transformer Engine's attention is not given (packs, a window): ours then stands in its place."""
    engine = has_transformer_engine() and not post_norm  # its layers have the norm in front built in
    kinds = {"num_experts": config.num_moe_experts, "qk_layernorm": config.qk_layernorm}
    if engine:
        layer = get_gpt_layer_with_transformer_engine_spec(**kinds)
    else:
        layer = get_gpt_layer_local_spec(**kinds, normalization=config.normalization)
    layer = copy.deepcopy(layer)  # some are one object for the whole process
    parts, attention = layer.submodules, layer.submodules.self_attention
    if not engine:
        parts.input_layernorm = parts.pre_mlp_layernorm = Norm
        if attention.submodules.q_layernorm is not IdentityOp:
            attention.submodules.q_layernorm = attention.submodules.k_layernorm = Norm
    if not engine or masks:
        attention.submodules.core_attention = Attention
    if not causal:
        attention.params = {**attention.params, "attn_mask_type": AttnMaskType.padding}
    if post_norm:
        layer.module = PostNormLayer
    return TransformerBlockSubmodules(
        [layer] * get_num_layers_to_build(config, vp_stage=vp_stage), _final(engine, post_norm)
    )


def _final(engine: bool, post_norm: bool) -> Any:
    if post_norm:
        return None
    if not engine:
        return Norm
    from megatron.core.extensions.transformer_engine import TENorm

    return TENorm
