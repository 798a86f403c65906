"""Mixtures of experts in place of Llama's MLP: Mixtral, Qwen2-MoE (with experts that all tokens share), Qwen3-MoE.

Tokens go to the experts that transformers sends them to, and none is left out. The router's auxiliary loss is left out, as it is of every
other strategy's loss: tasks make a loss from outputs, and it would depend on how a batch is cut.
"""

from __future__ import annotations

from typing import Any

from spcore_megatron.families import Family, refuse
from spcore_megatron.families.llama import ATTENTION, HEAD, shape
from spcore_megatron.families.llama import settings as dense
from spcore_megatron.rules import Rule, column, row, whole


def settings(config: Any) -> dict[str, Any]:
    """Sizes of the experts beside Llama's. Scores become weights before the best are chosen where they need not add up to one."""
    mixtral, shared = config.model_type == "mixtral", config.model_type == "qwen2_moe"
    narrow = getattr(config, "mlp_only_layers", None) or getattr(config, "decoder_sparse_step", 1) != 1
    refuse(
        config.model_type,
        [
            (bool(narrow), "that some layers have no experts (mlp_only_layers, decoder_sparse_step)"),
            (bool(getattr(config, "router_jitter_noise", 0.0)), "router_jitter_noise"),
        ],
    )
    return {
        **dense(config),
        "num_moe_experts": config.num_local_experts if mixtral else config.num_experts,
        "moe_ffn_hidden_size": config.intermediate_size if mixtral else config.moe_intermediate_size,
        "moe_shared_expert_intermediate_size": config.shared_expert_intermediate_size if shared else None,
        "moe_shared_expert_gate": shared,
        "moe_router_topk": config.num_experts_per_tok,
        "moe_router_pre_softmax": not (mixtral or config.norm_topk_prob),
        "moe_router_load_balancing_type": "none", "moe_router_dtype": "fp32", "moe_token_dispatcher_type": "alltoall",
    }  # fmt: skip


EXPERTS = {
    "decoder.layers.*.mlp.router": whole("layers.*.mlp.gate"),
    "decoder.layers.*.mlp.experts.local_experts.*.linear_fc1": Rule(
        ("layers.*.mlp.experts.gate_up_proj",), "gated", 0, experts=True
    ),
    "decoder.layers.*.mlp.experts.local_experts.*.linear_fc2": Rule(
        ("layers.*.mlp.experts.down_proj",), "plain", 1, experts=True
    ),
    "decoder.layers.*.mlp.shared_experts.linear_fc1": column(
        "layers.*.mlp.shared_expert.gate_proj", "layers.*.mlp.shared_expert.up_proj", how="gated"
    ),
    "decoder.layers.*.mlp.shared_experts.linear_fc2": row("layers.*.mlp.shared_expert.down_proj"),
    "decoder.layers.*.mlp.shared_experts.gate": whole("layers.*.mlp.shared_expert_gate"),
}
MOE = Family(settings, shape, {**ATTENTION, **EXPERTS}, HEAD)
