"""Phi-3 for Megatron, as a plugin adds it: Llama's layers, from tensors that hold query, key and value, or gate and up, in one."""

from spcore_megatron.families import Family, llama, refuse
from spcore_megatron.rules import column


def settings(config):
    """Fields of Megatron's TransformerConfig, which has one rate for embeddings and residuals."""
    refuse(config.model_type, [(config.resid_pdrop > 0, f"resid_pdrop {config.resid_pdrop}")])
    return llama.settings(config)


PHI3 = Family(
    settings,
    llama.shape,
    {
        **llama.LLAMA.weights,
        "decoder.layers.*.self_attention.linear_qkv": column("layers.*.self_attn.qkv_proj", how="heads"),
        "decoder.layers.*.mlp.linear_fc1": column("layers.*.mlp.gate_up_proj", how="gated"),
    },
    llama.HEAD,
)
