"""Tokenizers of every kind, trained on a few lines, tiny models with random weights in folders, and tasks bound to them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from spcore.components import default_registry
from spcore.interfaces.dataset import Schema
from spcore.interfaces.model import Processor
from spcore.interfaces.task import BoundTask, Feature, Limits
from spcore.testing.fakes import FakeProcessor
from spcore_transformers.processor import TransformersProcessor

LINES = [
    "The quick brown fox jumps over the lazy dog, and the dog's owner laughs.",
    "Unbelievable misunderstandings happened: 1,234 people weren't there!",
    "Größe und Straße – naïve café déjà-vu … 中文字符 也在 這裡 🙂🙂 done",
    "nothing but words and more words upon words within words",
]
SENTINELS = [f"<extra_id_{n}>" for n in range(20)]
WORDS = ["<pad>", "<unk>", "<cls>", "<sep>", "<mask>", "<s>", "</s>", *SENTINELS, *(f"w{n}" for n in range(60))]
NAMES = {
    "pad_token": "<pad>", "unk_token": "<unk>", "cls_token": "<cls>", "sep_token": "<sep>", "mask_token": "<mask>",
    "bos_token": "<s>", "eos_token": "</s>", "additional_special_tokens": SENTINELS,
}  # fmt: skip
SIZES: dict[str, dict[str, Any]] = {
    "llama": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48},
    "bert": {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    },
    "t5": {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "dropout_rate": 0.0, "decoder_start_token_id": 0},
}  # fmt: skip
AUTO = {"llama": "AutoModelForCausalLM", "bert": "AutoModelForMaskedLM", "t5": "AutoModelForSeq2SeqLM"}


def fast(backend: Tokenizer, **names: Any) -> Any:
    """As transformers wraps it."""
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **{**NAMES, **names})


def words_tokenizer(frame: str, **names: Any) -> Any:
    """A token a word. frame: the family whose special tokens stand round a text."""
    backend = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, "<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if frame == "bert":
        backend.post_processor = processors.BertProcessing(("<sep>", 3), ("<cls>", 2))
    elif frame == "t5":
        backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 6)])
    return fast(backend, **names)


def folder_of(kind: str, folder: Path) -> Path:
    """A tiny model with its tokenizer."""
    if not folder.exists():
        transformers.set_seed(3)
        more = {} if kind == "t5" else {"max_position_embeddings": 64}
        config = transformers.AutoConfig.for_model(
            kind, vocab_size=len(WORDS), pad_token_id=0, bos_token_id=5, eos_token_id=6, **SIZES[kind], **more
        )
        model = getattr(transformers, AUTO[kind]).from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(1.0 if parameter.dim() == 1 else 0.0, 0.2)
        model.save_pretrained(folder)
        words_tokenizer(kind, **({"model_max_length": 48} if kind == "t5" else {})).save_pretrained(folder)
    return folder


@functools.cache
def real(kind: str) -> Processor:
    """A tokenizer of a kind, trained on LINES."""
    special = [name for name in WORDS if name.startswith("<")]
    made: dict[str, tuple[Any, Any]] = {
        "wordpiece": (models.WordPiece(unk_token="<unk>"), trainers.WordPieceTrainer(vocab_size=150, special_tokens=special, show_progress=False)),
        "bpe": (models.BPE(), trainers.BpeTrainer(vocab_size=330, special_tokens=special, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())),
        "unigram": (models.Unigram(), trainers.UnigramTrainer(vocab_size=150, special_tokens=special, unk_token="<unk>", show_progress=False)),
    }  # fmt: skip
    model, trainer = made[kind]
    backend = Tokenizer(model)
    if kind == "wordpiece":
        backend.normalizer = normalizers.BertNormalizer()
        backend.pre_tokenizer, backend.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    elif kind == "bpe":
        backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    else:
        backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    backend.train_from_iterator(LINES * 20, trainer)
    ids = {name: backend.token_to_id(name) for name in ("<cls>", "<sep>")}
    backend.post_processor = processors.BertProcessing(("<sep>", ids["<sep>"]), ("<cls>", ids["<cls>"]))
    return TransformersProcessor(fast(backend), transformers.PretrainedConfig(), None)


def bind(
    name: str, limits: Limits | None = None, processor: Processor | None = None, config: Any = None, **options: Any
) -> BoundTask:
    """A task of ours, by name."""
    registry = default_registry()
    model = registry.options_model("task", name)
    assert model is not None
    task = registry.create("task", name, model.model_validate(options))
    bound: BoundTask = task.bind(processor or FakeProcessor(), config, Schema({}), limits or Limits(max_length=16))
    return bound


def features(bound: BoundTask, texts: Sequence[str]) -> list[Feature]:
    """Of all texts, numbered as the core does."""
    made = [(row, feature) for row, text in enumerate(texts) for feature in bound.featurize({"text": text})]
    return [replace(feature, id=n, row_id=row) for n, (row, feature) in enumerate(made)]


def augmented(bound: BoundTask, made: Sequence[Feature], epoch: int = 0) -> list[Feature]:
    """An epoch's versions."""
    return [bound.augment(f, np.random.default_rng([epoch, f.id])) for f in made]


def text_of_words(count: int, seed: int = 0) -> str:
    """So many words that the tiny models know."""
    return " ".join(f"w{n}" for n in np.random.default_rng(seed).integers(0, 60, count))
