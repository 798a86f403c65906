"""Tokenizers trained with Hugging Face's `tokenizers`. The same texts and options give the same files, whatever the machine's cores."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.progress import track
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from spcore.errors import RefusalError, unknown
from spcore_transformers.options import Style, TokenizerOptions

ROLES = ("pad", "unk", "bos", "eos", "cls", "sep", "mask")
_STYLES: dict[str, dict[str, str]] = {
    "gpt": {"pad": "<|pad|>", "eos": "<|endoftext|>"},
    "bert": {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"},
    "t5": {"pad": "<pad>", "unk": "<unk>", "eos": "</s>"},
}
_FRAMES = {
    "bert": ("{cls} $A {sep}", "{cls} $A {sep} $B:1 {sep}:1", ("cls", "sep")),
    "t5": ("$A {eos}", "$A {eos} $B {eos}", ("eos",)),
}
"""Style -> what stands round a text, round two, and the roles that takes."""
_UNUSED = {
    "bytes": ("vocabulary_size", "min_frequency", "byte_fallback"), "unigram": ("min_frequency", "byte_fallback"),
    "bpe": ("byte_fallback",), "wordpiece": ("byte_fallback",), "characters": (),
}  # fmt: skip
"""Kind -> options it has no use for."""
_BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
_HEXADECIMAL = [f"<0x{byte:02X}>" for byte in range(256)]
_DIGITS = 6
"""Decimals of a piece's score: sums over texts in another order differ in the fourteenth."""


def special_tokens(options: TokenizerOptions) -> dict[str, str]:
    """role -> token, in the order of their ids. Raises RefusalError for a role that is none, or an unknown token that is missing."""
    for role in options.special:
        if role not in ROLES:
            raise RefusalError(f"special: {unknown('role', role, ROLES)}")
    found = {**_STYLES[_style(options)], **options.special}
    needs = options.kind == "wordpiece" or (options.kind == "characters" and not options.byte_fallback)
    if needs and not found.setdefault("unk", "<unk>"):
        raise RefusalError(f"special unk: kind {options.kind} needs a token for what it does not know")
    return {role: found[role] for role in ROLES if found.get(role)}


def check(options: TokenizerOptions) -> None:
    """Refuse options that contradict each other, before a text is read. Raises RefusalError."""
    for name in _UNUSED[options.kind]:
        if getattr(options, name) != TokenizerOptions.model_fields[name].default:
            raise RefusalError(f"{name} {getattr(options, name)}: kind {options.kind} has no use for it; leave it out")
    special = special_tokens(options)
    missing = [role for role in _FRAMES.get(_style(options), ("", "", ()))[2] if role not in special]
    if missing:
        raise RefusalError(
            f"special {missing[0]}: style {_style(options)} puts it round every text; it must not be empty"
        )
    if options.kind not in ("bytes", "characters") and options.vocabulary_size is None:
        raise RefusalError(
            f"vocabulary_size: kind {options.kind} needs one; 8000 suits some megabytes, 32000 gigabytes"
        )
    alphabet = 0 if options.kind == "wordpiece" or (options.kind == "characters" and not options.byte_fallback) else 256
    least = len(set(special.values())) + sentinels(options) + alphabet + 1
    if options.vocabulary_size is not None and options.vocabulary_size < least:
        raise RefusalError(f"vocabulary_size {options.vocabulary_size}: special tokens and bytes alone need {least}")


def sentinels(options: TokenizerOptions) -> int:
    """How many tokens <extra_id_N> there are."""
    if options.sentinels is not None:
        return options.sentinels
    return 100 if _style(options) == "t5" else 0


def train(
    texts: Iterable[str], options: TokenizerOptions, *, rows: int | None = None, progress: bool = False
) -> Tokenizer:
    """A tokenizer of these texts. texts: iterated once, for wordpiece twice; for bytes never. rows: how many, for the bar.

    BPE (Sennrich et al. 2016) and unigram (Kudo 2018) are of bytes as GPT-2's, WordPiece as BERT's. Raises RefusalError.
    """
    check(options)
    special = list(dict.fromkeys(special_tokens(options).values()))
    room = None if options.vocabulary_size is None else options.vocabulary_size - sentinels(options)
    model: Any
    if options.kind == "bytes":
        model = models.BPE({token: n for n, token in enumerate([*special, *_BYTES])}, [])
    elif options.kind == "characters":
        model = _characters(watched(texts, rows, progress), options, special, room)
    else:
        assert room is not None, "check refuses none"
        makes = {"bpe": _bpe, "wordpiece": _wordpiece, "unigram": _unigram}[options.kind]
        model = makes(texts, options, special, room, {"length": rows}, progress)
    made = _around(model, options)
    made.add_special_tokens([_plain(token) for token in special])
    # T5's order: the first sentinel has the highest id.
    made.add_special_tokens([_plain(f"<extra_id_{n}>") for n in reversed(range(sentinels(options)))])
    frame = _FRAMES.get(_style(options))
    if frame is not None:
        roles = special_tokens(options)
        single, pair = (text.format(**roles) for text in frame[:2])
        ids = [(roles[role], made.token_to_id(roles[role])) for role in frame[2]]
        made.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=ids)
    return made


def watched(texts: Iterable[str], rows: int | None, progress: bool) -> Iterable[str]:
    """The same texts, under a bar on stderr where that is wanted: for passes in which `tokenizers` shows none of its own."""
    return track(texts, "reading", total=rows, console=Console(stderr=True), disable=not progress)


def in_transformers(made: Tokenizer, options: TokenizerOptions) -> Any:
    """A trained tokenizer as transformers has them, with the roles of its special tokens."""
    types = (
        ["token_type_ids"] if options.style == "bert" or (options.style is None and options.kind == "wordpiece") else []
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        model_input_names=["input_ids", *types, "attention_mask"],
        clean_up_tokenization_spaces=False,
        extra_special_tokens=[f"<extra_id_{n}>" for n in range(sentinels(options))],
        **{f"{role}_token": token for role, token in special_tokens(options).items()},
    )


def of_bytes(style: Style) -> Any:
    """The tokenizer of bytes, for which no text is needed, with a family's special tokens."""
    options = TokenizerOptions.model_validate({"kind": "bytes", "style": style})
    return in_transformers(train([], options), options)


def _style(options: TokenizerOptions) -> str:
    return options.style or ("bert" if options.kind == "wordpiece" else "gpt")


def _plain(token: str) -> AddedToken:
    return AddedToken(token, normalized=False, special=True)


def _around(model: Any, options: TokenizerOptions) -> Tokenizer:
    """A tokenizer of a model, without its special tokens."""
    made = Tokenizer(model)
    steps: list[Any] = [getattr(normalizers, options.normalise.upper())()] if options.normalise else []
    if options.kind == "wordpiece":
        steps.append(normalizers.BertNormalizer(lowercase=options.lowercase))
        made.pre_tokenizer, made.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    else:
        steps += [normalizers.Lowercase()] if options.lowercase else []
        if options.kind == "characters":
            # The model takes words apart; that there are any is for tasks that mask whole ones.
            made.pre_tokenizer = pre_tokenizers.Split(Regex(r"\S+|\s"), "isolated")
            made.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
        else:
            made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=options.kind != "bytes")
            made.decoder = decoders.ByteLevel()
    if steps:
        made.normalizer = normalizers.Sequence(steps)
    return made


def _characters(texts: Iterable[str], options: TokenizerOptions, special: list[str], room: int | None) -> Any:
    """BPE without merges: its words are characters, and those it has not are bytes, where that is wanted."""
    first = [*special, *(_HEXADECIMAL if options.byte_fallback else [])]
    counts = _alphabet(texts, options)
    kept = _commonest(counts, options.min_frequency or 1, None if room is None else room - len(first))
    vocabulary = {token: n for n, token in enumerate(dict.fromkeys([*first, *sorted(kept)]))}
    unk = None if options.byte_fallback else special_tokens(options)["unk"]
    return models.BPE(vocabulary, [], unk_token=unk, byte_fallback=options.byte_fallback)


def _alphabet(texts: Iterable[str], options: TokenizerOptions) -> Counter[str]:
    """How often each character occurs, once texts are normalised."""
    normalizer = _around(models.BPE(), options).normalizer
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(normalizer.normalize_str(text) if normalizer is not None else text)
    return counts


def _commonest(counts: Counter[str], least: int, most: int | None) -> list[str]:
    """Characters that occur often enough, the commonest first."""
    enough = [c for c, n in counts.items() if n >= least]
    return sorted(enough, key=lambda c: (-counts[c], c))[:most]


def _fed(trainer: Any, model: Any, texts: Iterable[str], options: TokenizerOptions, rows: dict[str, Any]) -> Any:
    """The model as JSON says it, after training."""
    made = _around(model, options)
    made.train_from_iterator(iter(texts), trainer=trainer, **rows)
    return json.loads(made.to_str())["model"]


def _bpe(
    texts: Iterable[str], options: TokenizerOptions, special: list[str], room: int, rows: dict[str, Any], progress: bool
) -> Any:
    trainer = trainers.BpeTrainer(
        vocab_size=room, min_frequency=options.min_frequency or 2, initial_alphabet=_BYTES, special_tokens=special,
        show_progress=progress,
    )  # fmt: skip
    found = _fed(trainer, models.BPE(), texts, options, rows)
    return models.BPE(found["vocab"], [tuple(merge) for merge in found["merges"]])


def _wordpiece(
    texts: Iterable[str], options: TokenizerOptions, special: list[str], room: int, rows: dict[str, Any], progress: bool
) -> Any:
    """The trainer gives the letters that go on a word ids in the order of a hash table, which differs from process to process, and
    breaks ties by id. So it is given the letters in order, in a first pass."""
    least = options.min_frequency or 2
    splitting = _around(models.WordPiece(), options)
    kept = _commonest(_alphabet(watched(texts, rows["length"], progress), options), least, (room - len(special)) // 2)
    letters = sorted(c for c in kept if not c.isspace())

    def goes_on(letter: str) -> bool:
        return len(splitting.pre_tokenizer.pre_tokenize_str(f"a{letter}")) == 1

    # Punctuation and Chinese characters are words of their own.
    inner = [f"##{c}" for c in letters if goes_on(c)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=room, min_frequency=least, special_tokens=[*special, *letters, *inner], initial_alphabet=letters,
        limit_alphabet=len(letters), show_progress=progress,
    )  # fmt: skip
    found = _fed(trainer, models.WordPiece(), texts, options, rows)
    return models.WordPiece(found["vocab"], unk_token=special_tokens(options)["unk"])


def _unigram(
    texts: Iterable[str], options: TokenizerOptions, special: list[str], room: int, rows: dict[str, Any], progress: bool
) -> Any:
    """The trainer adds scores up, and gives bytes that are rare theirs, in the order of a hash table. So scores are rounded, rare
    bytes get one score below all others, and pieces are put in order."""
    trainer = trainers.UnigramTrainer(
        vocab_size=room, special_tokens=special, initial_alphabet=_BYTES, show_progress=progress
    )
    found = dict(map(tuple, _fed(trainer, models.Unigram(), texts, options, rows)["vocab"]))
    pieces = {piece: score for piece, score in found.items() if piece not in special}
    lowest = min((score for piece, score in pieces.items() if len(piece) > 1), default=0.0)
    # The trainer's own step between bytes that it did not find is 0.0001.
    rare = {piece for piece, score in pieces.items() if len(piece) == 1 and score <= lowest + 0.0001 * 2 * len(_BYTES)}
    scores = {piece: round(score, _DIGITS) for piece, score in pieces.items() if piece not in rare}
    below = min(scores.values(), default=0.0) - 1.0
    scores |= dict.fromkeys(rare, below)
    ordered = sorted(scores.items(), key=lambda item: (-item[1], item[0]))
    return models.Unigram([*((token, 0.0) for token in special), *ordered], None, False)
