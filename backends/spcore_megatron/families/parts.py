"""What several families read from a configuration in the same way: rotary positions and activations, as transformers has them."""

from __future__ import annotations

from typing import Any

import torch

from spcore_megatron.families import refuse

_SCALED = ("default", "linear", "llama3")
"""Kinds of scaling that are the same at every length and leave the scores' size alone."""


def frequencies(config: Any) -> torch.Tensor:
    """float32 [width / 2]. Raises RefusalError for a scaling that depends on a text's length, or scales scores."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    said = config.rope_parameters
    kind = said.get("rope_type", "default")
    partial = said.get("partial_rotary_factor", 1.0) != 1.0
    refuse(config.model_type, [(kind not in _SCALED, f"rope_type {kind!r}"), (partial, "partial_rotary_factor")])
    if kind == "default":
        width = head_width(config)
        return 1.0 / said["rope_theta"] ** (torch.arange(0, width, 2, dtype=torch.int64).float() / width)
    found, _ = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"))
    return found.float()


def head_width(config: Any) -> int:
    """Of one head of queries."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def activation(name: str) -> Any:
    """The function that a configuration calls `name`; Megatron knows torch's own ones by identity, which fused kernels need."""
    from torch.nn import functional
    from transformers.activations import ACT2FN

    own = {"gelu": functional.gelu, "silu": functional.silu, "relu": functional.relu}
    return own[name] if name in own else ACT2FN[name]
