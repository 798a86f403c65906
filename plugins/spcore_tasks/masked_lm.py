"""Task `masked-lm`: tokens that were hidden (Devlin et al. 2019): a share of a window's tokens is chosen; most become the mask token, some
a random one, some stay as they are. Drawn anew each epoch, from (seed, epoch, window) alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from spcore.errors import DataError, RefusalError
from spcore.interfaces.dataset import Row, Schema
from spcore.interfaces.model import Processor
from spcore.interfaces.task import IGNORE, Batch, BoundTask, Feature, Limits
from spcore_tasks.language import BoundLanguageTask, LanguageTask, each_feature, frame, windows
from spcore_tasks.masking import choose_spans, choose_tokens, choose_words, word_starts

if TYPE_CHECKING:
    from spcore_tasks.options import MaskedLMOptions


class MaskedLM(LanguageTask):
    """Kind `task`, `masked-lm`."""

    endings = ("ForMaskedLM",)

    def __init__(self, options: MaskedLMOptions) -> None:
        self.options = options

    def bind(
        self, processor: Processor, config: Any, schema_or_state: Schema | dict[str, Any], limits: Limits
    ) -> BoundTask:
        """Nothing is taken from the data. Raises RefusalError for a tokenizer without a mask token, or that tells no words."""
        self.whole(config)
        return BoundMaskedLM(processor, limits, self.options)


class BoundMaskedLM(BoundLanguageTask):
    """Feature arrays: "input_ids" [n], each window in the tokenizer's frame ([CLS] ... [SEP]); "first" and "stop", between which tokens may
    be chosen; for words and spans "starts" [n] bool, whether a token begins a word. Of a single text all token types are 0, which is
    what a model takes where none are given."""

    head = replace(BoundLanguageTask.head, causal=False)

    def __init__(self, processor: Processor, limits: Limits, options: MaskedLMOptions) -> None:
        super().__init__(processor, limits)
        self.options = options
        if "mask" not in processor.special:
            raise RefusalError(
                "task masked-lm: the tokenizer has no mask token", hint="Use causal-lm, or another tokenizer"
            )
        if options.masking != "token" and processor.encode("a").offsets is None:
            raise RefusalError(
                f"task.masking {options.masking}: the tokenizer does not tell where its tokens lie; use token"
            )
        self.mask = processor.special["mask"]
        self.special = np.array(sorted(processor.special_ids), np.int64)
        self.ordinary = np.setdiff1d(np.arange(processor.vocabulary_size), self.special)

    def featurize(self, row: Row) -> list[Feature]:
        """The windows of a text. Raises DataError for one that gives no token."""
        text, encoding = self.encoded(row, special=True)
        ids = encoding.arrays["input_ids"].astype(self.ids)
        low, high = frame(self.processor, text, encoding)
        before, own, after = ids[:low], ids[low:high], ids[high:]
        room = self.size - len(before) - len(after)
        if room <= self.overlap:
            raise DataError(f"a window of {self.size} tokens has room for {room} of a text, and {self.overlap} overlap")
        starts = None
        if self.options.masking != "token":
            assert encoding.offsets is not None, "refused when it was bound"
            starts = word_starts(text, encoding.offsets[low:high])
        made = []
        for first, stop in windows(len(own), room, self.overlap):
            known = self.overlap if first else 0
            arrays = {
                "input_ids": np.concatenate([before, own[first:stop], after]),
                "first": np.array(low + known, np.int64), "stop": np.array(low + stop - first, np.int64),
            }  # fmt: skip
            if starts is not None:
                arrays["starts"] = np.pad(starts[first:stop], (len(before), len(after)))
            made.append(Feature(0, 0, arrays, len(arrays["input_ids"])))
        return made

    def augment(self, feature: Feature, rng: np.random.Generator) -> Feature:
        """Choose and hide. "labels" [n]: what was chosen, -100 elsewhere. A window has one at least, if it has a token of the text that is
        no special one; special tokens are never chosen and none comes by chance, padding is not there yet."""
        ids = feature.arrays["input_ids"].astype(np.int64)
        place = np.arange(len(ids))
        open_ = (place >= feature.arrays["first"]) & (place < feature.arrays["stop"]) & ~np.isin(ids, self.special)
        labels = np.full(len(ids), IGNORE, np.int64)
        hidden = ids.copy()
        for span in self._chosen(np.flatnonzero(open_), feature, rng):
            labels[span] = ids[span]
            # A span is treated as one: SpanBERT's. Others are single tokens to this draw, as BERT's whole words are.
            draws = rng.random(1 if self.options.masking == "span" else len(span))
            how = np.broadcast_to(draws, len(span))
            masked, drawn = how < self.options.mask, how < self.options.mask + self.options.random
            others = self.ordinary[rng.integers(len(self.ordinary), size=len(span))]
            hidden[span] = np.where(masked, self.mask, np.where(drawn, others, ids[span]))
        return replace(feature, arrays={**feature.arrays, "input_ids": hidden, "labels": labels})

    def _chosen(self, candidates: np.ndarray, feature: Feature, rng: np.random.Generator) -> list[np.ndarray]:
        """Positions that are chosen, in pieces that are treated alike."""
        if not len(candidates):
            return []
        o, budget = self.options, max(1, round(self.options.probability * len(candidates)))
        if o.masking == "token":
            return [choose_tokens(candidates, budget, rng)]
        cuts = np.flatnonzero(feature.arrays["starts"][candidates] | (np.diff(candidates, prepend=-1) > 1))
        bounds = np.unique([0, *cuts, len(candidates)])
        if o.masking == "whole-word":
            return [choose_words(candidates, bounds, budget, rng)]
        return choose_spans(candidates, bounds, budget, o.span_stop, o.span_most, rng)

    def decode(self, outputs: Mapping[str, np.ndarray], batch: Batch) -> list[dict[str, Any]]:
        """Of each window: ids of the text with its mask tokens filled, what fills them, and how likely each is."""
        answers = []
        for row, s, at in each_feature(batch):
            ids = np.array(batch.inputs["input_ids"])[s, at]
            gaps = np.flatnonzero(ids == self.mask)
            logits = outputs["logits"][s, at[gaps]].astype(np.float64)
            shares = np.exp(logits - logits.max(-1, keepdims=True))
            shares /= shares.sum(-1, keepdims=True)
            ids[gaps] = shares.argmax(-1)
            fills = [self.processor.decode([i], skip_special=False) for i in ids[gaps].tolist()]
            answers.append(
                {
                    "row_id": row,
                    "ids": ids.tolist(),
                    "fills": fills,
                    "scores": shares.max(-1).tolist() if len(gaps) else [],
                }
            )
        return answers

    def combine(self, answers: Sequence[dict[str, Any]], row: Row) -> dict[str, Any]:
        """text with its mask tokens filled; fills: what fills them, in order; scores: how likely each is."""
        return {
            "row_id": answers[0]["row_id"],
            "text": self.processor.decode([i for answer in answers for i in answer["ids"]]),
            **{name: [x for answer in answers for x in answer[name]] for name in ("fills", "scores")},
        }

    def state(self) -> dict[str, Any]:
        """What decides the features, besides the limits."""
        return {"words": self.options.masking != "token"}
