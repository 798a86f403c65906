"""Tiny models of every family that gives text, in folders, with weights that make their answers go on in many ways."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from spcore.generation import DecodingLoop
from spcore.interfaces.model import LanguageModel, Steps
from spcore.interfaces.runtime import Decodes, GenerationRequest
from spcore.tensors.materialise import frozen
from spcore_torch.generating import LANGUAGE
from transformers_plugin import tiny_models

END = 3
_EMBEDS = re.compile("embed|shared|wte|wpe")
_LEARNT = {
    "vocab_size": tiny_models.VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "pad_token_id": 0,
    "bos_token_id": 2, "eos_token_id": END,
}  # fmt: skip
_LLAMA, _SEQ2SEQ, _T5 = (
    tiny_models.DECODERS["llama"][1],
    tiny_models.ENCODER_DECODERS["bart"][1],
    tiny_models.ENCODER_DECODERS["t5"][1],
)
_GPT = {
    "vocab_size": tiny_models.VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "pad_token_id": 0, "bos_token_id": 2,
    "eos_token_id": END,
}  # fmt: skip
_EXPERTS = {**_LLAMA, "num_experts": 4, "moe_intermediate_size": 16, "num_experts_per_tok": 2}
_SCALED = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
_YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 16}
_MORE: dict[str, tuple[str, dict[str, Any]]] = {
    "opt": ("opt", {**_LEARNT, "ffn_dim": 48, "max_position_embeddings": 64, "word_embed_proj_dim": 32}),
    "bloom": ("bloom", _LEARNT),
    "llama-biased": (
        "llama",
        {**_LLAMA, "attention_bias": True, "mlp_bias": True, "head_dim": 12, "rope_parameters": {**_SCALED, "original_max_position_embeddings": 16}},
    ),
    "qwen3-yarn": ("qwen3", {**_LLAMA, "head_dim": 16, "rope_parameters": _YARN, "hidden_act": "gelu"}),
}  # fmt: skip
WRITERS = {**tiny_models.DECODERS, **tiny_models.ENCODER_DECODERS, **_MORE}
FURTHER: dict[str, tuple[str, dict[str, Any]]] = {
    "codegen": ("codegen", {**_GPT, "n_ctx": 64, "rotary_dim": 4}),
    "cohere": ("cohere", _LLAMA),
    "ernie4_5": ("ernie4_5", {**_LLAMA, "head_dim": 8}),
    "exaone4": ("exaone4", {**_LLAMA, "sliding_window": 5}),
    "falcon": ("falcon", _LLAMA),
    "falcon-alibi": ("falcon", {**_LLAMA, "alibi": True}),
    "falcon-new": ("falcon", {**_LLAMA, "new_decoder_architecture": True, "num_kv_heads": 2}),
    "glm": ("glm", {**_LLAMA, "head_dim": 8}),
    "gpt_bigcode": ("gpt_bigcode", _GPT),
    "gpt_neo": (
        "gpt_neo",
        {**_LEARNT, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": 5, "max_position_embeddings": 64},
    ),
    "gpt_oss": ("gpt_oss", {**_LLAMA, "num_local_experts": 4, "head_dim": 8, "sliding_window": 5}),
    "gptj": ("gptj", {**_GPT, "rotary_dim": 4}),
    "granite": ("granite", {**_LLAMA, "attention_multiplier": 0.3, "residual_multiplier": 0.7, "logits_scaling": 2.0}),
    "helium": ("helium", {**_LLAMA, "head_dim": 8}),
    "hunyuan_v1_dense": ("hunyuan_v1_dense", {**_LLAMA, "head_dim": 8}),
    "mbart": ("mbart", _SEQ2SEQ),
    "mixtral": ("mixtral", {**_LLAMA, "num_local_experts": 4}),
    "mixtral-window": ("mixtral", {**_LLAMA, "num_local_experts": 4, "sliding_window": 5}),
    "mpt": ("mpt", {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 64, "vocab_size": tiny_models.VOCABULARY, "eos_token_id": END}),
    "mt5": ("mt5", _T5),
    "nemotron": ("nemotron", _LLAMA),
    "olmo": ("olmo", {**_LLAMA, "clip_qkv": 2.0}),
    "olmo2": ("olmo2", _LLAMA),
    "olmo3": ("olmo3", {**_LLAMA, "sliding_window": 5}),
    "pegasus": ("pegasus", _SEQ2SEQ),
    "phi3": ("phi3", {**_LLAMA, "sliding_window": 5}),
    "qwen2_moe": ("qwen2_moe", {**_EXPERTS, "shared_expert_intermediate_size": 16}),
    "qwen3_moe": ("qwen3_moe", {**_EXPERTS, "head_dim": 16}),
    "seed_oss": ("seed_oss", {**_LLAMA, "head_dim": 8}),
    "smollm3": ("smollm3", {**_LLAMA, "no_rope_layers": [1, 0]}),
    "stablelm": ("stablelm", {**_LLAMA, "use_parallel_residual": True, "qk_layernorm": True, "partial_rotary_factor": 0.5}),
    "starcoder2": ("starcoder2", {**_LLAMA, "sliding_window": 5}),
    "umt5": ("umt5", _T5),
    "xglm": ("xglm", {**_LEARNT, "d_model": 32, "ffn_dim": 48, "num_layers": 2, "attention_heads": 4, "max_position_embeddings": 64, "pad_token_id": 1}),
}  # fmt: skip
"""Families beyond those that are tried in every run of the tests."""
OTHER = ("biogpt", {**_LEARNT, "max_position_embeddings": 64, "intermediate_size": 48})
"""A family that is not verified: it counts positions in a way of its own."""


def saved(folder: Path, name: str, seed: int = 0, **changes: Any) -> Path:
    """A folder of such a model, as transformers saves it."""
    family, sizes = {**WRITERS, **FURTHER, "other": OTHER}[name]
    config = transformers.AutoConfig.for_model(family, **{**sizes, **changes})
    kind = transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM
    model = kind.from_config(config)
    generator = torch.Generator().manual_seed(seed)
    spread, embedded = (3.0, 3.0) if family == "marian" else (1.0, 0.5)
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            if not parameter.requires_grad:  # Marian's positions are computed
                continue
            if parameter.dim() > 1:
                parameter.normal_(0, embedded if _EMBEDS.search(path) else spread, generator=generator)
            else:
                parameter.normal_(float("bias" not in path), 0.2, generator=generator)
    model.save_pretrained(folder)
    tiny_models.tokenizer().save_pretrained(folder)
    return folder


def opened(folder: Path | str, **options: Any) -> tuple[LanguageModel, Any]:
    """The model and its module, as a runtime loads it."""
    model = tiny_models.opened(folder, **options)
    return model, frozen(model, LANGUAGE)


def decoder(model: LanguageModel, module: Any, slots: int = 4, length: int = 60) -> Decodes:
    """Its decoder."""
    assert isinstance(model, Steps)
    return model.decoder(module, slots, length, length if model.config.is_encoder_decoder else 0)


def requests(count: int, seed: int, longest: int = 20) -> list[GenerationRequest]:
    """Prompts and answers of any lengths."""
    draw = random.Random(seed)
    return [
        GenerationRequest(
            tuple(draw.randrange(5, tiny_models.VOCABULARY) for _ in range(draw.randrange(1, longest))),
            max_new_tokens=draw.randrange(1, longest), stop=(END,),
        )
        for _ in range(count)
    ]  # fmt: skip


def told(
    model: LanguageModel, decodes: Decodes, asked: Sequence[GenerationRequest], seed: int, chunk: int = 5
) -> list[list[int]]:
    """The answers to requests that join at random times while others run, and wait for slots."""
    assert isinstance(model, Steps)
    draw, loop = (
        random.Random(seed),
        DecodingLoop(decodes, prefill_tokens=chunk, decoder_start=model.generation().get("decoder_start")),
    )
    waiting, place = list(enumerate(asked)), {}
    found: list[list[int]] = [[] for _ in asked]
    while waiting:
        number, request = waiting.pop(0)
        place[loop.submit(request)] = number
        for event in loop.events():
            if event.token >= 0:
                found[place[event.request]].append(event.token)
            if waiting and draw.random() < 0.4:
                number, request = waiting.pop(0)
                place[loop.submit(request)] = number
    return found


def theirs(
    folder: Path | str, asked: Sequence[GenerationRequest], attention: str | None = None, **settings: Any
) -> list[list[int]]:
    """The same by `transformers.generate`, each alone."""
    model = reference(folder, attention)
    found = []
    for request in asked:
        ids = torch.tensor([request.ids])
        given = {"max_new_tokens": request.max_new_tokens, "do_sample": False, **settings}
        made = model.generate(ids, attention_mask=torch.ones_like(ids), **given)[0]
        found.append(answer(model, made.tolist(), len(request.ids)))
    return found


def reference(folder: Path | str, attention: str | None = None, dtype: torch.dtype = torch.float32) -> Any:
    """transformers' own."""
    config = transformers.AutoConfig.from_pretrained(folder)
    kind = transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM
    return kind.from_pretrained(folder, attn_implementation=attention, dtype=dtype).eval()


def answer(model: Any, made: list[int], prompt: int) -> list[int]:
    """New tokens, without the end and what pads after it."""
    new = made[1:] if model.config.is_encoder_decoder else made[prompt:]
    return new[: new.index(END)] if END in new else new
