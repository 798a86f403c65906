"""Metrics of generated texts against one reference each: sacreBLEU's own, and exact matches."""

from __future__ import annotations

from collections.abc import Sequence

from spcore.imports import undisturbed

ANSWERS = ("bleu", "chrf", "exact_match")


def answers(generated: Sequence[str], references: Sequence[str], bleu_tokenizer: str) -> dict[str, float]:
    """Of a corpus, a reference for each text. bleu: percent (Papineni et al. 2002, as Post 2018, https://arxiv.org/abs/1804.08771,
    computes it), chrf: percent, chrF2 (Popovic 2015); exact_match: share of texts that are their reference but for spaces around."""
    with undisturbed():
        from sacrebleu.metrics import BLEU, CHRF

    same = sum(a.strip() == b.strip() for a, b in zip(generated, references, strict=True))
    return {
        "bleu": float(BLEU(tokenize=bleu_tokenizer).corpus_score(generated, [references]).score),
        "chrf": float(CHRF().corpus_score(generated, [references]).score),
        "exact_match": same / len(references),
    }
