"""A tiny model of each family that is cut for tensor parallelism, in folders, and what it is trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

from exact.recipes import language
from objectives import language_tools

_BERT = language_tools.SIZES["bert"]
_LLAMA = {**language_tools.SIZES["llama"], "head_dim": 8}
_SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "roberta": ("masked-lm", "roberta", _BERT),
    "electra": ("masked-lm", "electra", {**_BERT, "embedding_size": 16}),
    "distilbert": ("masked-lm", "distilbert", {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "dropout": 0.0, "attention_dropout": 0.0}),
    "modernbert": ("masked-lm", "modernbert", {**_SMALL, "cls_token_id": 2, "sep_token_id": 3}),
    "gpt2": ("causal-lm", "gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}),
    "gpt_neox": ("causal-lm", "gpt_neox", _SMALL),
    "phi": ("causal-lm", "phi", {**_SMALL, "embd_pdrop": 0.0, "resid_pdrop": 0.0}),
    "phi3": ("causal-lm", "phi3", language_tools.SIZES["llama"]),
    "mistral": ("causal-lm", "mistral", _LLAMA),
    "qwen3": ("causal-lm", "qwen3", _LLAMA),
    "gemma2": ("causal-lm", "gemma2", _LLAMA),
    "opt": ("causal-lm", "opt", {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 48, "word_embed_proj_dim": 32, "dropout": 0.0,
    }),
    "one group": ("causal-lm", "llama", {**_LLAMA, "num_key_value_heads": 1}),
    "bart": ("denoising", "bart", {
        "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
        "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "dropout": 0.0, "decoder_start_token_id": 6,
    }),
}  # fmt: skip
"""name -> task, model type, sizes. The vocabulary of 87 words divides by no number of ranks."""
_HEADS = {"masked-lm": "MaskedLM", "causal-lm": "CausalLM", "denoising": "Seq2SeqLM"}


def recipe(name: str, folder: Path) -> dict[str, Any]:
    """The recipe, its model written into `folder` the first time."""
    task, kind, sizes = FAMILIES[name]
    place = folder / name
    if not place.exists():
        transformers.set_seed(3)
        more = {"vocab_size": len(language_tools.WORDS), "pad_token_id": 0, "bos_token_id": 5, "eos_token_id": 6}
        config = transformers.AutoConfig.for_model(kind, max_position_embeddings=64, **more, **sizes)
        model = getattr(transformers, f"AutoModelFor{_HEADS[task]}").from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(1.0 if parameter.dim() == 1 else 0.0, 0.2)
        model.save_pretrained(place)
        frame = {"masked-lm": "bert", "causal-lm": "llama", "denoising": "t5"}[task]
        language_tools.words_tokenizer(frame, model_max_length=48).save_pretrained(place)
    return {**language(task, folder), "model": {"use": "transformers", "source": str(place)}}
