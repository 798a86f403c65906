"""What the objectives over the vocabulary share: `causal-lm`, `masked-lm`, `denoising`. A row is a text of any length; it is cut into
windows, and nothing of it is lost between two. Losses are sums over labelled positions, the batch's weight is their number.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from spcore.errors import DataError, RefusalError
from spcore.interfaces.dataset import Row, Schema
from spcore.interfaces.model import Encoding, Head, Processor
from spcore.interfaces.task import IGNORE, Batch, EvalPart, Feature, Limits, LossTerm, Ops, Role, Task
from spcore.text import TEXT, TextTask, mean_loss, pad, places, text_of

if TYPE_CHECKING:
    import torch

TERM = "tokens"
WINDOW = 512
"""Tokens of a window where neither the recipe nor the model sets a limit."""
_MOST = 700.0
"""Largest exponent whose exponential is a number: the perplexity of a model that is far off is then finite."""


class LanguageTask(Task):
    """Kind `task`: an objective over the vocabulary. endings: of the architectures of models that were trained for it elsewhere."""

    roles: tuple[Role, ...] = (TEXT,)
    portable = True
    windows = True
    lower_is_better = Task.lower_is_better | {"bits_per_byte", "nats_per_character"}
    endings: ClassVar[tuple[str, ...]] = ()

    def whole(self, config: Any) -> None:
        """Raise RefusalError for an encoder-decoder, which reads and writes by two stacks."""
        if getattr(config, "is_encoder_decoder", False):
            raise RefusalError(f"task: {config.model_type!r} is an encoder-decoder", hint="Use denoising")

    def state_of(self, config: Any) -> dict[str, Any] | None:
        """See `Task.state_of`."""
        named = getattr(config, "architectures", None) or [""]
        return {} if str(named[0]).endswith(self.endings) else None


class BoundLanguageTask(TextTask):
    """What the objectives share once they are bound. Feature arrays: see each. Targets: "labels" [S, L] int64, -100 = none.

    size: tokens of a window at most. ids: the smallest type that holds the vocabulary, in which features keep their tokens. counts: of a
    window, what `reduce` tells that adds up.
    """

    terms = (TERM,)
    head = Head("vocabulary", 0, {"logits": ("sequence", "position", "vocabulary")})
    token_targets: ClassVar[Mapping[str, int]] = {"labels": IGNORE}
    metric_names: tuple[str, ...] = ("loss", "perplexity", "accuracy", "rows")
    counts: ClassVar[tuple[str, ...]] = ("nats", "tokens", "right")

    def __init__(self, processor: Processor, limits: Limits) -> None:
        super().__init__(processor, limits)
        self.size = limits.max_length or WINDOW
        self.overlap = limits.stride or 0
        self.ids: np.dtype[Any] = np.min_scalar_type(max(processor.vocabulary_size - 1, *processor.special_ids, 1))
        if self.overlap >= self.size:
            raise RefusalError(f"data.stride {self.overlap}: windows have {self.size} tokens; give less")

    def encoded(self, row: Row, *, special: bool = False) -> tuple[str, Encoding]:
        """The row's text and all of its tokens, however many. Raises DataError for a blank text."""
        text = text_of(row, "text")
        return text, self.processor.encode(text, special=special)

    def given_ids(self, value: Sequence[Any]) -> np.ndarray:
        """The ids of a text that comes tokenised: [tokens], int64. Raises DataError for what are no ids of the tokenizer's."""
        if not all(type(one) is int for one in value):
            raise DataError("text is a list of other things than ids of tokens")
        ids = np.array(value, np.int64)
        if len(ids) and not 0 <= ids.min() <= ids.max() < self.processor.vocabulary_size:
            raise DataError(f"an id that none of the tokenizer's {self.processor.vocabulary_size} tokens has")
        return ids

    def weights(self, features: Sequence[Feature], targets: Mapping[str, np.ndarray]) -> dict[str, float]:
        """The number of labels."""
        return {TERM: float((targets["labels"] >= 0).sum())}

    def loss(self, outputs: Mapping[str, torch.Tensor], batch: Batch, ops: Ops) -> list[LossTerm]:
        """Cross-entropy, summed over labels: nats."""
        return [LossTerm(TERM, -ops.token_logprobs(outputs, batch.targets["labels"]).sum())]

    def reduce(self, outputs: Mapping[str, torch.Tensor], batch: Batch, ops: Ops) -> EvalPart:
        """Rows, one a window: nats, tokens (labels), right (of them, the likeliest token was right); and their sums."""
        labels = batch.targets["labels"]
        logprobs, right = ops.token_logprobs(outputs, labels), ops.argmax(outputs) == labels
        sums = by_segment([-logprobs, labels >= 0, right], batch)
        rows = []
        for feature, (row, at) in places(batch).items():
            nats, tokens, hits = (float(column[at[0]]) for column in sums)
            rows.append({"feature_id": feature, "row_id": row, "nats": nats, "tokens": int(tokens), "right": int(hits)})
        return EvalPart(self.sums(rows), rows)

    def sums(self, rows: Sequence[dict[str, Any]]) -> dict[str, float]:
        """Rows tell all; where nothing but answers was made, there are none."""
        if rows and "nats" not in rows[0]:
            return {}
        found = {f"{TERM}.sum": "nats", f"{TERM}.weight": "tokens", "right": "right"}
        return {name: math.fsum(row[key] for row in rows) for name, key in found.items()}

    def prediction(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """The first feature's, its counts those of all together, windows or references; below 0: not known."""
        counts = [name for name in self.counts if name in rows[0]]
        return {**rows[0], **{name: max(-1, sum(row[name] for row in rows)) for name in counts}}

    def metrics(self, part: EvalPart) -> dict[str, float]:
        """loss: nats a token. perplexity: its exponential. accuracy: share of tokens that were the likeliest. rows: windows."""
        loss, tokens = mean_loss(part), part.sums[f"{TERM}.weight"]
        return {
            "loss": loss, "perplexity": math.exp(min(loss, _MOST)), "accuracy": part.sums["right"] / max(1.0, tokens),
            "rows": float(len(part.rows)),
        }  # fmt: skip


def check_ids(processor: Processor, schema_or_state: Schema | dict[str, Any]) -> None:
    """Raise RefusalError for data that comes tokenised, by another tokenizer, as its ids tell."""
    column = schema_or_state.columns.get(TEXT.name) if isinstance(schema_or_state, Schema) else None
    if column is not None and column.largest is not None and column.largest >= processor.vocabulary_size:
        raise RefusalError(
            f"data: its tokens have ids up to {column.largest}, and the model's tokenizer has {processor.vocabulary_size}: another made them",
            hint="Give the tokenizer that they were made with (model.tokenizer), or the texts",
        )


def first_tokens(processor: Processor) -> list[int]:
    """What the tokenizer itself puts before a text of its own accord: its first token (bos), or nothing."""
    known, framed = processor.special.get("bos"), processor.encode("a").arrays["input_ids"]
    return [known] if known is not None and len(framed) > 1 and int(framed[0]) == known else []


def decoder_start(processor: Processor, config: Any) -> int:
    """The token that an encoder-decoder's decoder begins with: as the configuration says, else padding, as T5's. Raises RefusalError."""
    found = getattr(config, "decoder_start_token_id", None)
    if found is None:
        found = processor.special.get("pad")
    if found is None:
        raise RefusalError(
            "model: its configuration names no decoder_start_token_id, and the tokenizer has no padding token"
        )
    return int(found)


def refuse_packs(limits: Limits) -> None:
    """Raise RefusalError for packs, which an encoder-decoder does not take."""
    if limits.pack is not None:
        raise RefusalError(
            f"data.pack {limits.pack}: an encoder-decoder's texts do not share a sequence; leave data.pack out"
        )


def with_decoder(batch: Batch, features: Sequence[Feature], start: int, fill: int) -> Batch:
    """A batch of single features with what the decoder reads: "decoder_input_ids" [S, D], each feature's "labels" one place on behind
    `start`, and "decoder_attention_mask"; targets "labels" [S, D]. D: of the longest. fill: id that pads."""
    labels = [_labels(f).astype(np.int64) for f in features]
    # Filler, and what has no labels, has the first token, so that no row is empty.
    widths = [max(1, len(own)) for own in labels]
    given = [np.concatenate([[start], own])[:width] for own, width in zip(labels, widths, strict=True)]
    longest = max(widths)
    inputs = {
        **batch.inputs,
        "decoder_input_ids": pad(given, longest, fill),
        "decoder_attention_mask": pad([np.ones(width, np.int64) for width in widths], longest, 0),
    }
    return replace(batch, inputs=inputs, targets={"labels": pad(labels, longest, IGNORE)})


def label_weights(features: Sequence[Feature]) -> dict[str, float]:
    """The number of the features' "labels"."""
    return {TERM: float(sum(len(_labels(f)) for f in features))}


def _labels(feature: Feature) -> np.ndarray:
    return np.empty(0, np.int64) if feature.filler else feature.arrays.get("labels", np.empty(0, np.int64))


def windows(count: int, size: int, overlap: int) -> list[tuple[int, int]]:
    """(first, last + 1) of the windows over `count` tokens: each has `size` at most and begins size - overlap after the one before;
    the last one reaches the end."""
    starts = range(0, max(1, count - overlap), size - overlap)
    return [(start, min(start + size, count)) for start in starts]


def frame(processor: Processor, text: str, encoding: Encoding) -> tuple[int, int]:
    """(first, last + 1) of a text's own tokens within its encoding with special tokens. Raises DataError where there is none."""
    ids, parts = encoding.arrays["input_ids"], encoding.parts
    if parts is not None:
        own = np.flatnonzero(parts >= 0)
        found = (int(own[0]), int(own[-1]) + 1) if len(own) else (0, 0)
    else:  # the tokenizer does not say: where the same text without them lies
        bare = processor.encode(text, special=False).arrays["input_ids"]
        starts = range(len(ids) - len(bare) + 1)
        first = next((n for n in starts if np.array_equal(ids[n : n + len(bare)], bare)), 0)
        found = (first, first + len(bare))
    if found[0] == found[1]:
        raise DataError("the text gives no token")
    return found


def each_feature(batch: Batch) -> Iterator[tuple[int, int, np.ndarray]]:
    """(row id, sequence, positions of its tokens) of each feature of a batch (numpy), in order; filler left out."""
    segments = np.asarray(batch.inputs.get("segment_ids", batch.inputs.get("attention_mask")))
    for s, (features, rows) in enumerate(zip(batch.feature_ids, batch.row_of, strict=True)):
        for k, (feature, row) in enumerate(zip(features, rows, strict=True)):
            if feature >= 0:
                yield int(row), s, np.flatnonzero(segments[s] == k + 1)


def by_segment(values: Sequence[torch.Tensor], batch: Batch) -> list[list[float]]:
    """Sums of each [S, L] over every sequence, in packs over every segment, in the order of `spcore.text.places`: float64."""
    import torch

    table = torch.stack([value.detach().to("cpu", torch.float64) for value in values])
    segments = batch.inputs.get("segment_ids")
    if segments is None:
        return table.sum(-1).tolist()  # type: ignore[no-any-return]
    segments = torch.as_tensor(segments).cpu().long()
    counts = segments.max(-1).values
    number = (counts.cumsum(0) - counts)[:, None] + segments - 1
    real = segments > 0
    found = torch.zeros(len(values), int(counts.sum()), dtype=torch.float64).index_add(1, number[real], table[:, real])
    return found.tolist()  # type: ignore[no-any-return]


def spread(text: str, offsets: np.ndarray) -> np.ndarray:
    """[tokens, 2] int64: UTF-8 bytes and characters that each token stands for: from where the tokens before it end to where it ends
    itself. So every byte is counted once, also where one character is several tokens or a tokenizer leaves spaces out; what comes
    after the last token is the last one's. offsets: as in `Encoding`, of the text's own tokens."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    widths = 1 + (codes >= 0x80).astype(np.int64) + (codes >= 0x800) + (codes >= 0x10000)
    until = np.concatenate([[0], np.cumsum(widths)])
    ends = np.maximum.accumulate(np.minimum(offsets[:, 1], len(codes)))
    ends[-1] = len(codes)
    return np.diff(np.stack([until[ends], ends], 1), axis=0, prepend=0)
