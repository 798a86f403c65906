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
from megatron.core.transformer.attention import CrossAttention, CrossAttentionSubmodules
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.moe import moe_utils
from megatron.core.transformer.spec_utils import ModuleSpec
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


def attends(config: Any, *, causal: bool, post_norm: bool, masks: bool) -> bool:
    """Whether layers have our attention. masks: whether positions are kept apart by masks that Transformer Engine's is not given (packs, a
    window); nor does that share the positions of padded texts over a context group."""
    return masks or post_norm or not has_transformer_engine() or (config.context_parallel_size > 1 and not causal)


def block(
    config: Any, *, causal: bool, post_norm: bool, masks: bool, vp_stage: int | None, cross: bool = False
) -> TransformerBlockSubmodules:
    """The layers that this stage has. post_norm: see `PostNormLayer`; such layers have no norm after the last. masks: see `attends`. cross:
    whether layers attend to an encoder's states too."""
    engine = has_transformer_engine() and not post_norm  # its layers have the norm in front built in
    kinds = {"num_experts": config.num_moe_experts, "qk_layernorm": config.qk_layernorm}
    if engine:
        layer = get_gpt_layer_with_transformer_engine_spec(**kinds)
    else:
        layer = get_gpt_layer_local_spec(**kinds, normalization=config.normalization)
    if config.num_moe_experts:
        # megatron-core 0.16.1 asks whether this name is None, and defines it only where Transformer Engine is installed.
        vars(moe_utils).setdefault("te_general_gemm", None)
    layer = copy.deepcopy(layer)  # some are one object for the whole process
    parts, attention = layer.submodules, layer.submodules.self_attention
    if not engine:
        parts.input_layernorm = parts.pre_mlp_layernorm = Norm
        if attention.submodules.q_layernorm is not IdentityOp:
            attention.submodules.q_layernorm = attention.submodules.k_layernorm = Norm
    if attends(config, causal=causal, post_norm=post_norm, masks=masks):
        attention.submodules.core_attention = Attention
    if not causal:
        attention.params = {**attention.params, "attn_mask_type": AttnMaskType.padding}
    if cross:
        own = attention.submodules
        linear = own.linear_qkv if not engine else _engine("TEColumnParallelLinear")
        parts.pre_cross_attn_layernorm = Norm if not engine else _engine("TENorm")
        parts.cross_attention = ModuleSpec(
            CrossAttention,
            params={"attn_mask_type": AttnMaskType.padding},
            submodules=CrossAttentionSubmodules(linear, linear, own.core_attention, own.linear_proj),
        )
        parts.cross_attn_bda = parts.self_attn_bda
    if post_norm:
        layer.module = PostNormLayer
    return TransformerBlockSubmodules(
        [layer] * get_num_layers_to_build(config, vp_stage=vp_stage), _final(engine, post_norm)
    )


def _final(engine: bool, post_norm: bool) -> Any:
    if post_norm:
        return None
    return Norm if not engine else _engine("TENorm")


def _engine(name: str) -> Any:
    """A class of Megatron's over Transformer Engine."""
    from megatron.core.extensions import transformer_engine

    return getattr(transformer_engine, name)
