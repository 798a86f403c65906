"""Task `causal-lm`: the next token of a text.

A text's tokens, an end token after them, are cut into windows. Each carries the token that follows it, so that the last position of a
window has a target too: every token but a text's first is a target exactly once. Windows that overlap (`data.stride`) see more of
what came before; the targets that the window before had already are not counted again: the perplexity of a sliding window.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from spcore.errors import DataError, RefusalError
from spcore.interfaces.dataset import Row, Schema
from spcore.interfaces.model import Processor
from spcore.interfaces.task import IGNORE, Batch, BoundTask, EvalPart, Feature, Limits, Ops
from spcore.text import TEXT, Groups, places, stacked
from spcore_tasks.language import (
    BoundLanguageTask,
    LanguageTask,
    check_ids,
    each_feature,
    first_tokens,
    spread,
    windows,
)

if TYPE_CHECKING:
    import torch

    from spcore_tasks.options import CausalLMOptions

_TEXT = ("bytes", "characters")
_MEASURES = ("bits_per_byte", "nats_per_character")


class CausalLM(LanguageTask):
    """Kind `task`, `causal-lm`."""

    roles = (replace(TEXT, tokens=True),)
    endings = ("ForCausalLM", "LMHeadModel")

    def __init__(self, options: CausalLMOptions) -> None:
        self.options = options

    def bind(
        self, processor: Processor, config: Any, schema_or_state: Schema | dict[str, Any], limits: Limits
    ) -> BoundTask:
        """Nothing is taken from the data. Raises RefusalError for a special token that the tokenizer lacks, and for data of tokens that
        are another tokenizer's."""
        self.whole(config)
        check_ids(processor, schema_or_state)
        if self.options.shift and not limits.evaluation:
            if limits.stride:
                raise RefusalError("task.shift: windows that overlap stay where they are; leave it or data.stride out")
            return _Shifting(processor, limits, self.options)
        return BoundCausalLM(processor, limits, self.options)


class BoundCausalLM(BoundLanguageTask):
    """Feature arrays: "input_ids" [n]; "after", the tokens that follow, the next one first ([0] where none is asked for); "skip", first
    targets that do not count; "bytes" and "characters" that the others stand for, -1 where the text came tokenised."""

    head = replace(BoundLanguageTask.head, causal=True)
    counts = (*BoundLanguageTask.counts, *_TEXT)

    def __init__(self, processor: Processor, limits: Limits, options: CausalLMOptions) -> None:
        super().__init__(processor, limits)
        self.options = options
        if options.min_tail > self.size - self.overlap:
            raise RefusalError(
                f"task.min_tail {options.min_tail}: a window has {self.size - self.overlap} targets of its own; give less"
            )
        self.end = self._end()
        self.begin = self._begin()
        self.measured = processor.encode("a", special=False).offsets is not None
        if self.measured:
            self.metric_names = ("loss", "perplexity", *_MEASURES, "accuracy", "rows")

    def _end(self) -> list[int]:
        asked, known = self.options.end_of_text, self.processor.special.get("eos")
        if asked is False:
            return []
        if isinstance(asked, str):
            ids = self.processor.encode(asked, special=False).arrays["input_ids"]
            if len(ids) != 1 or int(ids[0]) == self.processor.special.get("unk"):
                raise RefusalError(
                    f"task.end_of_text {asked!r}: {len(ids)} tokens or an unknown one, expected one token"
                )
            return [int(ids[0])]
        if known is None:
            raise RefusalError(
                "task.end_of_text: the tokenizer has no end token (eos); name one of its tokens, or give false",
                hint="task.end_of_text='[SEP]', or task.end_of_text=false",
            )
        return [known]

    def _begin(self) -> list[int]:
        asked, known = self.options.begin_of_text, self.processor.special.get("bos")
        if asked is True and known is None:
            raise RefusalError("task.begin_of_text: the tokenizer has no first token (bos); leave it out")
        if known is None or asked is False:
            return []
        return [known] if asked is True else first_tokens(self.processor)

    # -- rows to features ------------------------------------------------------------------------------------------

    def tokens(self, row: Row) -> tuple[np.ndarray, np.ndarray]:
        """All tokens of a row's text, special ones in place, and the (bytes, characters) of each: [tokens], [tokens, 2]."""
        own, measures = self._own(row)
        if not len(own):
            raise DataError("the text gives no token")
        begin = [] if self.begin and isinstance(row["text"], list) and int(own[0]) == self.begin[0] else self.begin
        end = [] if self.end and int(own[-1]) == self.end[0] else self.end
        first, last = np.array(begin, np.int64), np.array(end, np.int64)
        return np.concatenate([first, own, last]).astype(self.ids), np.pad(measures, ((len(first), len(last)), (0, 0)))

    def _own(self, row: Row) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and measures without what is put round a text. What came tokenised is not measured."""
        given = row.get("text")
        if isinstance(given, list):
            return self.given_ids(given), np.zeros((len(given), 2), np.int64)
        text, encoding = self.encoded(row)
        own = encoding.arrays["input_ids"]
        if encoding.offsets is None or not len(own):
            return own, np.zeros((len(own), 2), np.int64)
        return own, spread(text, encoding.offsets)

    def featurize(self, row: Row) -> list[Feature]:
        """The windows of a text. Raises DataError for one that holds nothing to predict, or less than `min_tail`."""
        tokens, measures = self.tokens(row)
        tokenised = isinstance(row["text"], list)
        ahead = int(self.options.look_ahead)
        if len(tokens) < 2:
            raise DataError("the text is one token: there is none to predict")
        until = np.concatenate([[[0, 0]], np.cumsum(measures, 0)])
        made: list[Feature] = []
        for first, stop in windows(len(tokens) - ahead, self.size, self.overlap):
            known = max(0, self.overlap - 1 + ahead) if first else 0
            targets = stop - first - 1 + ahead - known
            if targets < self.options.min_tail:
                if made and targets > 0:
                    made[-1] = replace(made[-1], truncated=targets)
                continue
            size, characters = (-1, -1) if tokenised else until[stop + ahead] - until[first + 1 + known]
            arrays = {
                "input_ids": tokens[first:stop], "skip": np.int64(known), "bytes": np.int64(size),
                "characters": np.int64(characters), **self.around(tokens, first, stop),
            }  # fmt: skip
            made.append(Feature(0, 0, {name: np.asarray(a) for name, a in arrays.items()}, stop - first))
        if not made:
            raise DataError(f"fewer than {self.options.min_tail} tokens to predict (task.min_tail)")
        return made

    def around(self, tokens: np.ndarray, first: int, stop: int) -> dict[str, np.ndarray]:
        """Tokens beside a window that go with it."""
        return {"after": tokens[stop : stop + int(self.options.look_ahead)]}

    # -- features to batches ---------------------------------------------------------------------------------------

    def collate(self, groups: Groups, length: int) -> Batch:
        """See `BoundTask.collate`; targets besides "labels": "bytes" and "characters" of each window, int64."""
        return super().collate([[_labelled(feature) for feature in group] for group in groups], length)

    def targets(self, features: Sequence[Feature]) -> dict[str, np.ndarray]:
        """See `collate`."""
        return {name: stacked(features, name, 0) for name in _TEXT}

    # -- outputs to figures and answers ----------------------------------------------------------------------------

    def reduce(self, outputs: Mapping[str, torch.Tensor], batch: Batch, ops: Ops) -> EvalPart:
        """As every objective's, with the bytes and characters that the tokens stand for; unmeasured: windows that do not tell."""
        part = super().reduce(outputs, batch, ops)
        counts = {name: batch.targets[name].tolist() for name in _TEXT}
        for row, (_, at) in zip(part.rows, places(batch).values(), strict=True):
            row.update({name: counts[name][at[0]] for name in _TEXT})
        return replace(part, sums=self.sums(part.rows))

    def sums(self, rows: Sequence[dict[str, Any]]) -> dict[str, float]:
        """See `BoundTask.sums`."""
        measures = {name: math.fsum(max(0, row.get(name, 0)) for row in rows) for name in _TEXT}
        return {**super().sums(rows), **measures, "unmeasured": sum(row.get("bytes", 0) < 0 for row in rows)}

    def metrics(self, part: EvalPart) -> dict[str, float]:
        """loss: nats a token. bits_per_byte, nats_per_character: of the text that the counted tokens stand for; with a tokenizer that
        tells where its tokens lie, of texts that it cut itself. 0 where nothing was counted."""
        found = super().metrics(part)
        if self.measured and not part.sums["unmeasured"]:
            nats = part.sums["tokens.sum"]
            found["bits_per_byte"] = nats / math.log(2) / max(1.0, part.sums["bytes"])
            found["nats_per_character"] = nats / max(1.0, part.sums["characters"])
        return found

    def decode(self, outputs: Mapping[str, np.ndarray], batch: Batch) -> list[dict[str, Any]]:
        """Of each window: nats, tokens (as in an evaluation), and the likeliest token after it with its probability."""
        logits, labels = outputs["logits"], np.asarray(batch.targets["labels"])
        answers = []
        for row, s, at in each_feature(batch):
            own = logits[s, at].astype(np.float64)
            logprobs = own - own.max(-1, keepdims=True)
            logprobs -= np.log(np.exp(logprobs).sum(-1, keepdims=True))
            counted = np.flatnonzero(labels[s, at] >= 0)
            best = int(logprobs[-1].argmax())
            answers.append({
                "row_id": row, "nats": -float(logprobs[counted, labels[s, at][counted]].sum()), "tokens": len(counted),
                "next": best, "score": float(np.exp(logprobs[-1, best])),
            })  # fmt: skip
        return answers

    def combine(self, answers: Sequence[dict[str, Any]], row: Row) -> dict[str, Any]:
        """loss (nats a token) and perplexity of the text, tokens; next: what most likely comes after it, and score: how likely. Without an
        end token the text's last token is a target only, and `next` is not known."""
        tokens = sum(answer["tokens"] for answer in answers)
        loss = math.fsum(answer["nats"] for answer in answers) / max(1, tokens)
        found = {
            "row_id": answers[0]["row_id"],
            "loss": loss,
            "perplexity": math.exp(min(loss, 700.0)),
            "tokens": tokens,
        }
        if self.end and self.options.look_ahead:
            found |= {
                "next": self.processor.decode([answers[-1]["next"]], skip_special=False),
                "score": answers[-1]["score"],
            }
        return found

    def state(self) -> dict[str, Any]:
        """What decides the features, besides the limits."""
        return self.options.model_dump(mode="json")


class _Shifting(BoundCausalLM):
    """Windows that move. Feature arrays besides: "before", as many tokens as "after" has beyond the next one: half a window, less near a
    text's end. A text's first and last window stay, so that its first tokens are learnt as often as others."""

    def around(self, tokens: np.ndarray, first: int, stop: int) -> dict[str, np.ndarray]:
        """See the class."""
        ahead = int(self.options.look_ahead)
        room = min((stop - first) // 2, len(tokens) - stop - ahead) if first else 0
        return {"before": tokens[first - room : first], "after": tokens[stop : stop + ahead + room]}

    def augment(self, feature: Feature, rng: np.random.Generator) -> Feature:
        """The window, moved by as much as there is room for to either side, each way alike."""
        before, own, after = (
            feature.arrays.get(name, np.empty(0, self.ids)) for name in ("before", "input_ids", "after")
        )
        if not len(before):
            return feature
        whole, at = np.concatenate([before, own, after]), int(rng.integers(2 * len(before) + 1))
        stop = at + feature.length
        moved = {"input_ids": whole[at:stop], "after": whole[stop : stop + int(self.options.look_ahead)]}
        return replace(feature, arrays={**feature.arrays, **moved})


def _labelled(feature: Feature) -> Feature:
    """With "labels" [n]: the token after each position, -100 where it is not known or does not count."""
    if feature.filler:
        return feature
    ids, after = feature.arrays["input_ids"], feature.arrays.get("after", np.empty(0, np.int64))
    labels = np.full(len(ids), IGNORE, np.int64)
    following = np.concatenate([ids[1:], after[:1]])
    labels[: len(following)] = following
    labels[: int(feature.arrays["skip"])] = IGNORE
    return replace(feature, arrays={**feature.arrays, "labels": labels})
