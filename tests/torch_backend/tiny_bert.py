"""A BERT of some thousand parameters in a folder, opened through the model plugin, and transformers' own model beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import transformers

from spcore.interfaces.model import LanguageModel
from spcore.interfaces.task import Batch
from spcore_transformers.model import TransformersModel
from spcore_transformers.options import TransformersOptions

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{n}" for n in range(60))]
TEXTS = ["w1 w2 w3", "w4", "w5 w6 w7 w8 w9 w10 w11", "w2 w2", "w30 w31 w32 w33 w34"]


def write(folder: Path, cls: Any = transformers.BertForSequenceClassification, **changes: Any) -> Path:
    """Save a model of `cls` with its tokenizer."""
    transformers.set_seed(0)
    sizes = {
        "vocab_size": len(WORDS), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
        "max_position_embeddings": 40, "num_labels": 3, "initializer_range": 0.3, "pad_token_id": 0,
    }  # fmt: skip
    config = transformers.BertConfig(**{**sizes, **changes})
    cls(config).save_pretrained(folder)
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({w: n for n, w in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    words.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {f"{n}_token": f"[{n.upper()}]" for n in ("pad", "unk", "cls", "sep", "mask")}
    transformers.BertTokenizerFast(tokenizer_object=words, model_max_length=40, **special).save_pretrained(folder)
    return folder


def open_model(folder: Path, **options: Any) -> LanguageModel:
    """As the recipe opens it."""
    return TransformersModel(TransformersOptions(source=str(folder), **options)).open(str(folder))


def batch_of(model: LanguageModel, texts: Sequence[str], targets: dict[str, Any], weights: dict[str, float]) -> Batch:
    """A padded batch."""
    rows = [model.processor.encode(text).arrays for text in texts]
    length = max(len(row["input_ids"]) for row in rows)
    inputs = {n: np.stack([np.pad(r[n], (0, length - len(r[n]))) for r in rows]) for n in rows[0]}
    inputs["attention_mask"] = np.stack([np.arange(length) < len(r["input_ids"]) for r in rows]).astype(np.int64)
    numbers = np.arange(len(rows))[:, None]
    return Batch(inputs, targets, numbers, numbers, weights)
