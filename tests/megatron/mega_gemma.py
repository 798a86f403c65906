"""Gemma for Megatron, as a plugin adds it: Llama's map, norms stored as differences from one, embeddings scaled, another activation."""

from dataclasses import replace

from spcore_megatron.families import Family, llama
from spcore_megatron.families.parts import activation


def settings(config):
    """Fields of Megatron's TransformerConfig."""
    return {
        **llama.settings(config),
        "layernorm_zero_centered_gamma": True,
        "activation_func": activation(config.hidden_act),
    }


def shape(config):
    """What Megatron's configuration does not hold."""
    return replace(llama.shape(config), embedding_scale=config.hidden_size**0.5)


GEMMA = Family(settings, shape, llama.LLAMA.weights, llama.HEAD)
