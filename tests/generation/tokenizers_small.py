"""Small tokenizers of every kind, trained in the test."""

from __future__ import annotations

import functools

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from spcore.tokenizing import TokenizerProcessor

TEXTS = [
    'The cat, it says "don\'t": {"name": "Zoë", "age": 42, "tags": ["a", "b"]}\n', "你好，世界。🙂 👩‍🚀 naïve café", "positive negative neutral hello world",
    "true false null [1, 2.5, -3] = + x7",
]  # fmt: skip
SPECIAL = ["<pad>", "<eos>", "<unk>"]
KINDS = ("byte-level", "metaspace", "byte-fallback", "wordpiece", "characters")


@functools.cache
def processor(kind: str) -> TokenizerProcessor:
    """A processor whose tokens 0 to 2 are <pad>, <eos>, <unk>."""
    tokenizer = _tokenizer(kind)
    return TokenizerProcessor(
        tokenizer, special={"pad": 0, "eos": 1, "unk": 2}, fill={"input_ids": 0}, vocabulary_size=tokenizer.get_vocab_size(), max_length=None,
        fingerprint=kind, types=False, left=False,
    )  # fmt: skip


def _tokenizer(kind: str) -> Tokenizer:
    if kind == "byte-level":
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=330, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
        )
    elif kind == "metaspace":
        made = Tokenizer(models.Unigram())
        made.pre_tokenizer = pre_tokenizers.Metaspace()
        made.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=150, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False
        )
    elif kind == "byte-fallback":
        return _byte_fallback()
    elif kind == "wordpiece":
        made = Tokenizer(models.WordPiece(unk_token="<unk>"))
        made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        made.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=SPECIAL, show_progress=False)
    else:
        made = Tokenizer(models.WordLevel(unk_token="<unk>"))
        made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
        made.decoder = decoders.Fuse()
        trainer = trainers.WordLevelTrainer(special_tokens=SPECIAL, show_progress=False)
    made.train_from_iterator(TEXTS, trainer)
    return made


def _byte_fallback() -> Tokenizer:
    """As Llama 2 has it: what is no piece is written in bytes, and decoding drops the space in front."""
    pieces = sorted(
        {*"Thecat,isydon'r\"{}[]:01234.5-世界", "▁", "▁the", "▁cat", "hello", "▁world", "pos", "itive", "neg", "ative"}
    )
    names = [*SPECIAL, *(f"<0x{n:02X}>" for n in range(256)), *pieces]
    made = Tokenizer(
        models.BPE({name: n for n, name in enumerate(names)}, [], unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made.add_special_tokens(SPECIAL)
    return made
