"""Tiny models of every family that is verified, with random weights, in folders as transformers saves them."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from spcore.interfaces.model import Head, LanguageModel
from spcore.tensors.materialise import materialise
from spcore_transformers.model import TransformersModel
from spcore_transformers.options import TransformersOptions

VOCABULARY, LENGTHS = 120, (9, 21, 3, 14, 1, 21)
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
HEADS = {
    "sequence": Head("sequence", 3, {"logits": ("sequence", "label")}, ("low", "middle", "high")),
    "token": Head("token", 4, {"tags": ("sequence", "position", "label")}),
    "span": Head("span", 2, {"start": ("sequence", "position"), "end": ("sequence", "position")}),
    "vocabulary": Head("vocabulary", 0, {"logits": ("sequence", "position", "vocabulary")}),
}
_BERT = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "max_position_embeddings": 64, "pad_token_id": 0,
}  # fmt: skip
_MODERN = dict(
    **_BERT,
    global_attn_every_n_layers=2,
    local_attention=8,
    cls_token_id=2,
    sep_token_id=3,
    bos_token_id=2,
    eos_token_id=3,
)
_DEBERTA = dict(
    **_BERT, relative_attention=True, position_buckets=8, pos_att_type=["p2c", "c2p"], norm_rel_ebd="layer_norm",
    share_att_key=True, position_biased_input=False, type_vocab_size=0,
)  # fmt: skip
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("bert", _BERT),
    "distilbert": (
        "distilbert",
        {
            "vocab_size": VOCABULARY,
            "dim": 32,
            "n_layers": 2,
            "n_heads": 4,
            "hidden_dim": 48,
            "max_position_embeddings": 64,
            "pad_token_id": 0,
        },
    ),
    "roberta": ("roberta", {**_BERT, "pad_token_id": 1, "type_vocab_size": 1}),
    "electra": ("electra", {**_BERT, "embedding_size": 16}),
    "deberta-v2": ("deberta-v2", _DEBERTA),
    "modernbert": ("modernbert", _MODERN),
    "modernbert-mean": ("modernbert", {**_MODERN, "classifier_pooling": "mean", "global_attn_every_n_layers": 1}),
}
_LLAMA = {**_BERT, "num_key_value_heads": 2, "bos_token_id": 2, "eos_token_id": 3}
_GEMMA = {**_LLAMA, "head_dim": 16, "layer_types": ["sliding_attention", "full_attention"], "sliding_window": 5}
_SEQ2SEQ = {
    "vocab_size": VOCABULARY, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 64, "pad_token_id": 0,
    "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 3, "forced_eos_token_id": None,
}  # fmt: skip
DECODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", _LLAMA),
    "llama-tied": ("llama", {**_LLAMA, "tie_word_embeddings": True, "num_key_value_heads": 4}),
    "mistral": ("mistral", {**_LLAMA, "sliding_window": 5}),
    "qwen2": ("qwen2", _LLAMA),
    "qwen2-window": ("qwen2", {**_LLAMA, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}),
    "qwen3": ("qwen3", {**_LLAMA, "head_dim": 16}),
    "gemma": ("gemma", {**_LLAMA, "head_dim": 16, "num_key_value_heads": 1}),
    "gemma2": ("gemma2", {**_GEMMA, "attn_logit_softcapping": 3.0}),
    "gemma3_text": ("gemma3_text", _GEMMA),
    "phi": ("phi", {**_LLAMA, "partial_rotary_factor": 0.5}),
    "gpt2": (
        "gpt2",
        {
            "vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "pad_token_id": 0, "bos_token_id": 2,
            "eos_token_id": 3,
        },
    ),
    "gpt_neox": ("gpt_neox", {**_BERT, "rotary_pct": 0.5, "bos_token_id": 2, "eos_token_id": 3}),
}  # fmt: skip
"""Decoders: shared key and value heads, windows shorter than texts, bounded scores, learnt positions and rotary ones of each kind."""
ENCODER_DECODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "bart": ("bart", _SEQ2SEQ),
    "marian": ("marian", _SEQ2SEQ),
    "t5": (
        "t5",
        {
            "vocab_size": VOCABULARY, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "pad_token_id": 0,
            "eos_token_id": 3, "decoder_start_token_id": 0, "relative_attention_num_buckets": 8,
        },
    ),
    "t5-untied": (
        "t5",
        {
            "vocab_size": VOCABULARY, "d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 2, "num_heads": 4, "pad_token_id": 0,
            "eos_token_id": 3, "decoder_start_token_id": 0, "tie_word_embeddings": False, "feed_forward_proj": "gated-gelu",
        },
    ),
}  # fmt: skip
_EVERY = {**FAMILIES, **DECODERS, **ENCODER_DECODERS}
PACKING = [name for name in FAMILIES if name != "deberta-v2"]


def tokenizer() -> Any:
    """One token a letter, in BERT's frame."""
    backend = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, "[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **{f"{name}_token": word for name, word in names.items()},
    )  # fmt: skip


def auto_of(family: str) -> str:
    """transformers' class of a family's pretraining."""
    if family in DECODERS:
        return "AutoModelForCausalLM"
    return "AutoModelForSeq2SeqLM" if family in ENCODER_DECODERS else "AutoModelForMaskedLM"


def save_tiny(folder: Path, family: str, auto: str | None = None, **changes: Any) -> Path:
    """A folder of a tiny model with weights far from zero, so that differences show."""
    kind, settings = _EVERY[family]
    config = transformers.AutoConfig.for_model(kind, **{**settings, **changes})
    torch.manual_seed(sum(map(ord, family)))
    model = getattr(transformers, auto or auto_of(family)).from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(1.0 if parameter.dim() == 1 else 0.0, 0.15)
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def opened(folder: Path | str, **options: Any) -> LanguageModel:
    """As a recipe opens it."""
    return TransformersModel(TransformersOptions(**options)).open(str(folder))


def made(model: LanguageModel, head: Head, seed: int = 0) -> Any:
    """The module with weights, for evaluation."""
    module = model.build(head)
    materialise(module, model, head, seed)
    return module.eval()


def oracle(module: Any, auto: str, attention: str | None = None) -> Any:
    """transformers' own class with the same weights: every name fits, none is left over."""
    whole = getattr(transformers, auto).from_config(copy.deepcopy(module.config), attn_implementation=attention)
    whole.load_state_dict(module.state_dict(), strict=True)
    return whole.eval()


def texts(family: str = "bert", lengths: tuple[int, ...] = LENGTHS, seed: int = 0) -> list[torch.Tensor]:
    """Ids of texts, none of them padding."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(5, VOCABULARY, (n,), generator=generator) for n in lengths]


def padded(rows: list[torch.Tensor], pad: int = 0) -> dict[str, torch.Tensor]:
    """A padded batch."""
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    return {"input_ids": ids, "attention_mask": mask}


def packed(rows: list[torch.Tensor], cuts: tuple[int, ...] = (3,), pad: int = 0) -> dict[str, torch.Tensor]:
    """Packs: rows[:cuts[0]], rows[cuts[0]:cuts[1]], ..., padded to one length."""
    edges = [0, *cuts, len(rows)]
    groups = [rows[a:b] for a, b in itertools.pairwise(edges)]

    def lay(values: list[torch.Tensor], fill: int = 0) -> torch.Tensor:
        return torch.nn.utils.rnn.pad_sequence(values, batch_first=True, padding_value=fill)

    return {
        "input_ids": lay([torch.cat(group) for group in groups], pad),
        "segment_ids": lay(
            [torch.cat([torch.full_like(row, n + 1) for n, row in enumerate(group)]) for group in groups]
        ),
        "position_ids": lay([torch.cat([torch.arange(len(row)) for row in group]) for group in groups]),
    }
