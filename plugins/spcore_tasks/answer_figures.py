"""Metrics of generated texts against one reference each or several: sacreBLEU's, rouge-score's, and exact matches."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from spcore.imports import undisturbed

if TYPE_CHECKING:
    from spcore_tasks.options import Seq2SeqOptions

_ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")
ANSWERS = ("bleu", "chrf", *_ROUGE, "exact_match")


def answers(generated: Sequence[str], references: Sequence[Sequence[str]], options: Seq2SeqOptions) -> dict[str, float]:
    """Of a corpus, references of each text, one or more. In percent: bleu (Papineni et al. 2002, as Post 2018,
    https://arxiv.org/abs/1804.08771, computes it), chrf: chrF2 (Popovic 2015), rouge1, rouge2, rougeL, rougeLsum: means over texts of F1 (Lin
    2004), of several references the best; in rougeLsum lines are sentences. exact_match: share of texts that are one of their references
    but for spaces around."""
    with undisturbed():
        from sacrebleu.metrics import BLEU, CHRF

    # sacreBLEU takes streams: every text's first reference, every text's second, ...; None where a text has fewer.
    streams = [list(stream) for stream in zip_longest(*references)]
    same = sum(
        text.strip() in [one.strip() for one in known] for text, known in zip(generated, references, strict=True)
    )
    return {
        "bleu": float(BLEU(tokenize=options.bleu_tokenizer).corpus_score(generated, streams).score),
        "chrf": float(CHRF().corpus_score(generated, streams).score),
        **_rouge(generated, references, options),
        "exact_match": same / len(references),
    }


def _rouge(generated: Sequence[str], references: Sequence[Sequence[str]], options: Seq2SeqOptions) -> dict[str, float]:
    with undisturbed():
        from rouge_score.rouge_scorer import RougeScorer

    own = None if options.rouge_tokenizer == "default" else _Words(options.rouge_tokenizer)
    scorer = RougeScorer(list(_ROUGE), use_stemmer=options.rouge_stemmer, tokenizer=own)
    scores = [scorer.score_multi(list(known), text) for text, known in zip(generated, references, strict=True)]
    return {name: 100.0 * sum(score[name].fmeasure for score in scores) / len(scores) for name in _ROUGE}


class _Words:
    """A tokenizer of sacreBLEU's as rouge-score takes one."""

    def __init__(self, name: str) -> None:
        with undisturbed():
            from sacrebleu.metrics import BLEU

        self._own: Any = BLEU(tokenize=name).tokenizer

    def tokenize(self, text: str) -> list[str]:
        """The words of a text, lower-cased."""
        return str(self._own(text.lower())).split()
