"""Words of a text and their tags: where words lie, how tags are spelt, which entities they make, and seqeval's figures of them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, Literal

from spcore.errors import DataError, RefusalError
from spcore.imports import undisturbed
from spcore.interfaces.dataset import Row
from spcore.text import text_of

OUTSIDE = "O"
Scheme = Literal["bio", "bioes", "iob1", "raw"]
_TAG = re.compile(r"(?P<place>[BIESLUM])-(?P<type>.+)", re.DOTALL)
_PLACES = {"bio": "BI", "iob1": "BI", "bioes": "BIESLUM"}
_AS_BIOES = {"L": "E", "U": "S", "M": "I"}
"""Of BILOU and BMES, which are BIOES by other letters."""
Span = tuple[str, int, int]
"""An entity: type, first word, last word + 1."""


def words_of(row: Row) -> tuple[str, list[tuple[int, int]]]:
    """A row's text, and (first, last + 1) character of each of its words. A list of words is the text with a space between any two; a
    text with tags is cut at spaces, one without at spaces, punctuation and around Chinese characters. Raises DataError."""
    value = row.get("tokens")
    if not isinstance(value, list):
        text = text_of(row, "tokens")
        return text, [found.span() for found in re.finditer(r"\S+", text)] if "tags" in row else _cut(text)
    if not value:
        raise DataError("no word")
    words = []
    for word in value:
        if word is None or isinstance(word, list | dict):
            raise DataError(f"a word is {'missing' if word is None else 'no text'}")
        words.append(str(word))
    spans, at = [], 0
    for word in words:
        spans.append((at, at + len(word)))
        at += len(word) + 1
    return " ".join(words), spans


def _cut(text: str) -> list[tuple[int, int]]:
    return [span for _, span in _cutter().pre_tokenize_str(text)]


@cache
def _cutter() -> Any:
    from tokenizers import Regex, pre_tokenizers

    alone = pre_tokenizers.Split(Regex(r"\p{Han}"), behavior="isolated")
    return pre_tokenizers.Sequence([pre_tokenizers.BertPreTokenizer(), alone])


def scheme_of(names: Sequence[str], asked: str) -> Scheme:
    """The scheme of these tags. asked: the option; auto: bioes where tags say how an entity ends, bio where they say how it begins, iob1
    where they say neither, raw where they are no tags of entities. Raises RefusalError for tags that are not of the scheme."""
    tags = [_TAG.fullmatch(name) for name in names if name != OUTSIDE]
    places = {tag["place"] for tag in tags if tag}
    if asked == "auto":
        if not tags or None in tags:
            return "raw"
        return "bioes" if places - {"B", "I"} else "bio" if "B" in places else "iob1"
    scheme: Scheme = asked  # type: ignore[assignment]  # the option's values
    if scheme != "raw":
        allowed = _PLACES[scheme]
        strange = [n for n in names if n != OUTSIDE and not ((tag := _TAG.fullmatch(n)) and tag["place"] in allowed)]
        if strange:
            raise RefusalError(
                f"task.scheme {scheme}: tag {strange[0]!r} is none of it; tags are {OUTSIDE} and {', '.join(f'{p}-TYPE' for p in allowed[:4])}",
                hint="Leave scheme out, or give raw for tags that are no entities",
            )
    return scheme


def types_in(names: Sequence[str], scheme: Scheme) -> tuple[str, ...]:
    """The types of entities that tags name, in the order of the alphabet; of raw tags none."""
    if scheme == "raw":
        return ()
    return tuple(sorted({tag["type"] for name in names if (tag := _TAG.fullmatch(name))}))


def inside(name: str) -> str:
    """The tag of a word's later tokens: within what the word begins."""
    return f"I-{name[2:]}" if name.startswith("B-") else name


def _plain(tag: str) -> str:
    found = _TAG.fullmatch(tag)
    return f"{_AS_BIOES.get(found['place'], found['place'])}-{found['type']}" if found else tag


def entities(tags: Sequence[str], scheme: Scheme, *, strict: bool) -> list[Span]:
    """The entities of a text's tags, in order. strict: those alone that are spelt as the scheme has it; else as conlleval finds them."""
    with undisturbed():
        from seqeval.metrics.sequence_labeling import get_entities
        from seqeval.scheme import Entities

    plain = [_plain(tag) for tag in tags]
    if strict:
        found = Entities([plain], scheme=_scheme(scheme)).entities[0]
        return [(entity.tag, entity.start, entity.end) for entity in found]
    return [(kind, first, last + 1) for kind, first, last in get_entities(plain)]


def _scheme(scheme: Scheme) -> Any:
    from seqeval import scheme as schemes

    return {"bio": schemes.IOB2, "bioes": schemes.IOBES, "iob1": schemes.IOB1}[scheme]


def entity_figures(
    gold: Sequence[Sequence[str]],
    predicted: Sequence[Sequence[str]],
    types: Sequence[str],
    scheme: Scheme,
    *,
    strict: bool,
) -> dict[str, float]:
    """seqeval's f1, precision and recall over all entities, accuracy of words, and the first three of each type as TYPE_f1. 0 where a
    figure is not defined. gold, predicted: tags of each text's words."""
    with undisturbed():
        from seqeval.metrics import accuracy_score, classification_report

    truth, guess = ([[_plain(tag) for tag in tags] for tags in texts] for texts in (gold, predicted))
    how = {"mode": "strict", "scheme": _scheme(scheme)} if strict else {}
    held = any(entities(tags, scheme, strict=strict) for tags in [*truth, *guess])
    report = classification_report(truth, guess, output_dict=True, zero_division=0, **how) if held else {}
    figures = {}
    for name, entry in [("", "micro avg"), *((f"{kind}_", kind) for kind in types)]:
        found = report.get(entry, {})
        for figure, key in (("f1", "f1-score"), ("precision", "precision"), ("recall", "recall")):
            figures[name + figure] = float(found.get(key, 0.0))
    return {**figures, "accuracy": float(accuracy_score(truth, guess)) if truth else 0.0}


def tag_figures(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> dict[str, float]:
    """Of tags that are no entities, over words: accuracy, and scikit-learn's f1, the mean over tags."""
    with undisturbed():
        from sklearn.metrics import accuracy_score, f1_score

    truth, guess = ([tag for tags in texts for tag in tags] for texts in (gold, predicted))
    if not truth:
        return {"accuracy": 0.0, "f1_macro": 0.0}
    macro = f1_score(truth, guess, average="macro", zero_division=0)
    return {"accuracy": float(accuracy_score(truth, guess)), "f1_macro": float(macro)}


def word_windows(ends: Sequence[int], room: int, overlap: int) -> Iterator[tuple[int, int, int, int]]:
    """Windows of whole words over a long text: (first, stop, own, own stop), numbers of words. A window holds the words from `first` on, up
    to `stop`, of `room` tokens together, or one word that has more; the next begins so that at most `overlap` tokens are in both.
    What two windows share is divided in the middle: each word is one window's own. ends: tokens up to the end of each word."""
    cuts, first = list[tuple[int, int]](), 0
    while True:
        before = ends[first - 1] if first else 0
        stop = first + 1
        while stop < len(ends) and ends[stop] - before <= room:
            stop += 1
        cuts.append((first, stop))
        if stop == len(ends):
            break
        begin = stop  # the next window also reaches further than this one
        while (
            begin - 1 > first and ends[stop - 1] - ends[begin - 2] <= overlap and ends[stop] - ends[begin - 2] <= room
        ):
            begin -= 1
        first = begin
    middles = [0, *((later[0] + earlier[1]) // 2 for earlier, later in itertools.pairwise(cuts)), len(ends)]
    for (first, stop), own, own_stop in zip(cuts, middles, middles[1:], strict=False):
        yield first, stop, own, own_stop
