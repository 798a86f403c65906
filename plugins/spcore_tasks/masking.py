"""What is hidden of a text: BERT's choice of tokens and words, SpanBERT's of spans, T5's of spans of fixed number and length. Pure
functions of their arguments and a generator.
"""

from __future__ import annotations

import re

import numpy as np

_WORD = re.compile(
    "[\u4e00-\u9fff\u3400-\u4dbf\uf900-\ufaff\U00020000-\U0002ebef\U0002f800-\U0002fa1f]|"  # one ideograph
    "[^\\W\u4e00-\u9fff\u3400-\u4dbf\uf900-\ufaff\U00020000-\U0002ebef\U0002f800-\U0002fa1f]+|"
    "[^\\w\\s]"
)
"""A word as BERT's BasicTokenizer has it: letters and digits together, a sign alone, a Chinese character alone."""


def word_starts(text: str, offsets: np.ndarray) -> np.ndarray:
    """[tokens] bool: whether a token begins a word of the text, whatever the tokenizer: it has another word's characters than the token
    before it. offsets: as in `Encoding`, of the text's own tokens."""
    word_of = np.full(len(text) + 1, -1, np.int64)
    for n, found in enumerate(_WORD.finditer(text)):
        word_of[found.start() : found.end()] = n
    starts = np.ones(len(offsets), np.bool_)
    last = -1
    for n, (low, high) in enumerate(offsets.tolist()):
        words = word_of[low:high]
        words = words[words >= 0]
        if len(words):
            starts[n], last = words[0] != last, words[-1]
        else:  # spaces, or nothing: with the word before
            starts[n] = n == 0
    return starts


def choose_tokens(candidates: np.ndarray, budget: int, rng: np.random.Generator) -> np.ndarray:
    """`budget` of the candidates, each as likely: int64, sorted. candidates: [n] positions."""
    return np.sort(rng.choice(candidates, size=budget, replace=False))


def choose_words(words: list[np.ndarray], budget: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Whole words in random order, until `budget` tokens are chosen; one that would exceed it is left out. Where the first fits not even
    alone, as many of its tokens as fit. words: positions of each."""
    chosen: list[np.ndarray] = []
    left = budget
    for n in rng.permutation(len(words)).tolist():
        if len(words[n]) <= left:
            chosen.append(words[n])
            left -= len(words[n])
        if not left:
            break
    if not chosen:
        word = words[int(rng.integers(len(words)))]
        first = int(rng.integers(len(word) - left + 1))
        chosen = [word[first : first + left]]
    return chosen


def choose_spans(
    words: list[np.ndarray], budget: int, stop: float, most: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """SpanBERT's spans: each begins at a word and holds whole words, min(geometric(stop), most) of them; until `budget` tokens are
    chosen, the last cut to what is left. Joshi et al. 2020, section 3.1."""
    free = np.ones(len(words), np.bool_)
    chosen: list[np.ndarray] = []
    left = budget
    while left and free.any():
        first = int(rng.choice(np.flatnonzero(free)))
        length, stop_at = min(int(rng.geometric(stop)), most), first
        span: list[np.ndarray] = []
        while stop_at < len(words) and free[stop_at] and stop_at - first < length:
            span.append(words[stop_at])
            stop_at += 1
        free[first:stop_at] = False
        tokens = np.concatenate(span)[:left]
        chosen.append(tokens)
        left -= len(tokens)
    return chosen


def noise_sizes(length: int, density: float, mean: float) -> tuple[int, int]:
    """(tokens taken out, spans) of a text of that many tokens, two at least: T5's `random_spans_noise_mask`."""
    noise = min(max(round(length * density), 1), length - 1)
    spans = min(max(round(noise / mean), 1), noise, length - noise)
    return noise, spans


def noise_mask(length: int, density: float, mean: float, rng: np.random.Generator) -> np.ndarray:
    """[length] bool: tokens taken out, in spans of random lengths that begin after a token that stays. The numbers of tokens and spans
    are those of `noise_sizes`, whatever is drawn. Raffel et al. 2020, section 3.1.4."""
    noise, spans = noise_sizes(length, density, mean)
    lengths = np.stack([_segmented(length - noise, spans, rng), _segmented(noise, spans, rng)], 1).ravel()
    return np.repeat(np.arange(2 * spans) % 2 == 1, lengths)


def _segmented(total: int, parts: int, rng: np.random.Generator) -> np.ndarray:
    """Lengths of `parts` pieces of `total`, none empty, each way alike: int64."""
    cuts = (
        np.sort(rng.choice(np.arange(1, total), size=parts - 1, replace=False)) if parts > 1 else np.empty(0, np.int64)
    )
    return np.diff(np.concatenate([[0], cuts, [total]])).astype(np.int64)
