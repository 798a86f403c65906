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
    count = len(text)
    word_of = np.full(count + 1, -1, np.int64)
    for n, found in enumerate(_WORD.finditer(text)):
        word_of[found.start() : found.end()] = n
    place = np.arange(count + 1)
    seen = word_of >= 0
    following = np.minimum.accumulate(np.where(seen, place, count)[::-1])[::-1]  # the next place that is in a word
    before = np.maximum.accumulate(np.where(seen, place, -1))
    low, high = offsets[:, 0], offsets[:, 1]
    first, last = following[low], before[np.maximum(high - 1, 0)]
    worded = (high > low) & (first < high)
    # The word that the tokens before one ended in; spaces, and tokens of nothing, are with the word before them.
    ended = np.maximum.accumulate(np.where(worded, last, -1))
    known = np.concatenate([[-1], ended[:-1]])
    starts: np.ndarray = worded & (word_of[first] != np.where(known >= 0, word_of[known], -1))
    starts[:1] = True
    return starts


def choose_tokens(candidates: np.ndarray, budget: int, rng: np.random.Generator) -> np.ndarray:
    """`budget` of the candidates, each as likely: int64, sorted. candidates: [n] positions."""
    return np.sort(rng.choice(candidates, size=budget, replace=False))


def choose_words(candidates: np.ndarray, bounds: np.ndarray, budget: int, rng: np.random.Generator) -> np.ndarray:
    """Whole words in random order, until `budget` tokens are chosen; one that would exceed it is left out. Where none fits, as many tokens
    of one as fit. candidates: [n] positions; bounds: [words + 1], where each word begins among them."""
    sizes = np.diff(bounds)
    order, left, chosen = rng.permutation(len(sizes)), budget, list[int]()
    for n, size in zip(order.tolist(), sizes[order].tolist(), strict=True):
        if size <= left:
            chosen.append(n)
            left -= size
            if not left:
                break
    if chosen:
        return np.concatenate([candidates[bounds[n] : bounds[n + 1]] for n in chosen])
    word = int(order[0])
    first = int(bounds[word] + rng.integers(sizes[word] - budget + 1))
    return candidates[first : first + budget]


def choose_spans(
    candidates: np.ndarray, bounds: np.ndarray, budget: int, stop: float, most: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """SpanBERT's spans: each begins at a word and holds whole words, min(geometric(stop), most) of them; until `budget` tokens are
    chosen, the last cut to what is left. Joshi et al. 2020, section 3.1. candidates, bounds: as in `choose_words`."""
    free = np.ones(len(bounds) - 1, np.bool_)
    chosen: list[np.ndarray] = []
    left = budget
    while left:
        first = int(rng.choice(np.flatnonzero(free)))
        last = min(first + min(int(rng.geometric(stop)), most), len(free))
        taken = np.flatnonzero(~free[first:last])
        last = first + int(taken[0]) if len(taken) else last
        free[first:last] = False
        chosen.append(candidates[bounds[first] : bounds[last]][:left])
        left -= len(chosen[-1])
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
