"""Task `denoising`: spans that were taken out of a text, for encoder-decoders (T5; Raffel et al. 2020). The encoder reads the text with a
sentinel in place of each span; the decoder gives every sentinel and what it stands for. How much is taken out is a function of a
window's length alone, so lengths are known before a span is drawn; where, is drawn anew each epoch.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from spcore.errors import DataError, RefusalError
from spcore.interfaces.dataset import Row, Schema
from spcore.interfaces.model import Processor
from spcore.interfaces.task import Batch, BoundTask, Feature, Limits
from spcore.text import Groups
from spcore_tasks.language import (
    BoundLanguageTask,
    LanguageTask,
    decoder_start,
    frame,
    label_weights,
    refuse_packs,
    windows,
    with_decoder,
)
from spcore_tasks.masking import noise_mask, noise_sizes

if TYPE_CHECKING:
    from spcore_tasks.options import DenoisingOptions

_SENTINELS = 1000
"""More are not looked for."""


class Denoising(LanguageTask):
    """Kind `task`, `denoising`."""

    windows = False
    endings = ("T5ForConditionalGeneration",)

    def __init__(self, options: DenoisingOptions) -> None:
        self.options = options

    def bind(
        self, processor: Processor, config: Any, schema_or_state: Schema | dict[str, Any], limits: Limits
    ) -> BoundTask:
        """The decoder's first token comes from the configuration, or the saved state. Raises RefusalError for a model without a decoder of
        its own, a tokenizer without sentinels, and packs."""
        refuse_packs(limits)
        if getattr(config, "is_encoder_decoder", True) is False:
            kind = getattr(config, "model_type", "this family")
            raise RefusalError(f"task denoising: {kind!r} is no encoder-decoder", hint="Use causal-lm or masked-lm")
        saved = schema_or_state if isinstance(schema_or_state, dict) else None
        start = int(saved["start"]) if saved is not None else decoder_start(processor, config)
        return BoundDenoising(processor, limits, self.options, start)

    def state_of(self, config: Any) -> dict[str, Any] | None:
        """See `Task.state_of`."""
        return None if super().state_of(config) is None else {"start": config.decoder_start_token_id}


class BoundDenoising(BoundLanguageTask):
    """Feature arrays: "input_ids" [n], the first tokens of a window in the tokenizer's frame, as many as the encoder will read, and "rest",
    the others; "first" and "stop" of the text's own among all. An augmented feature has what the encoder reads, and "labels".
    start: id that the decoder begins with."""

    token_targets: ClassVar[Mapping[str, int]] = {}

    def __init__(self, processor: Processor, limits: Limits, options: DenoisingOptions, start: int) -> None:
        super().__init__(processor, limits)
        self.options, self.start = options, start
        self.sentinels = self._sentinels()
        spans = noise_sizes(
            max(2, window(self.size, options.density, options.mean_span)), options.density, options.mean_span
        )[1]
        if spans > len(self.sentinels):
            raise RefusalError(
                f"data.max_length {self.size}: a window has {spans} spans, and the tokenizer {len(self.sentinels)} sentinels",
                hint="Give a smaller data.max_length, or a larger task.mean_span",
            )
        eos = processor.special.get("eos")
        self.end = np.array([] if eos is None else [eos], np.int64)

    def _sentinels(self) -> np.ndarray:
        """Ids of the sentinels: those numbers from 0 on that are one token, known and another's than those before. Raises RefusalError."""
        found: list[int] = []
        for n in range(_SENTINELS):
            ids = self.processor.encode(self.options.sentinel.format(n), special=False).arrays["input_ids"].tolist()
            if len(ids) != 1 or ids[0] in found or ids[0] == self.processor.special.get("unk"):
                break
            found.append(ids[0])
        if not found:
            first = self.options.sentinel.format(0)
            raise RefusalError(
                f"task.sentinel {self.options.sentinel!r}: the tokenizer has no {first!r}",
                hint="Name the sentinels of its vocabulary, or train a tokenizer that has some",
            )
        return np.array(found, np.int64)

    def featurize(self, row: Row) -> list[Feature]:
        """The windows of a text. A last one of one token is left out and counted. Raises DataError for a text of less than two."""
        text, encoding = self.encoded(row, special=True)
        ids = encoding.arrays["input_ids"].astype(self.ids)
        low, high = frame(self.processor, text, encoding)
        before, own, after = ids[:low], ids[low:high], ids[high:]
        if len(own) < 2:
            raise DataError("the text is one token: none can be taken out")
        o = self.options
        room = window(self.size - len(before) - len(after), o.density, o.mean_span)
        if room < 2:
            raise DataError(f"a window of {self.size} tokens has no room for a text")
        made: list[Feature] = []
        for first, stop in windows(len(own), room, 0):
            if stop - first < 2:
                made[-1] = replace(made[-1], truncated=1)
                continue
            whole = np.concatenate([before, own[first:stop], after])
            length = len(before) + corrupted(stop - first, o.density, o.mean_span) + len(after)
            bounds = {"first": np.array(low), "stop": np.array(low + stop - first)}
            made.append(Feature(0, 0, {"input_ids": whole[:length], "rest": whole[length:], **bounds}, length))
        return made

    def augment(self, feature: Feature, rng: np.random.Generator) -> Feature:
        """Take spans out: "input_ids" [n] as the encoder reads them; "labels" [targets]: each sentinel and its span, then the end token."""
        whole = np.concatenate([feature.arrays["input_ids"], feature.arrays["rest"]]).astype(np.int64)
        low, high = int(feature.arrays["first"]), int(feature.arrays["stop"])
        own = whole[low:high]
        out = noise_mask(len(own), self.options.density, self.options.mean_span, rng)
        kept = np.concatenate([whole[:low], self._marked(own, out), whole[high:]])
        assert len(kept) == feature.length, "the number of tokens and spans is a function of the window's length"
        labels = np.concatenate([self._marked(own, ~out), self.end])
        return replace(feature, arrays={"input_ids": kept, "labels": labels})

    def _marked(self, own: np.ndarray, out: np.ndarray) -> np.ndarray:
        """The tokens that are not out, a sentinel for each run of the others."""
        begins = out & ~np.concatenate([[False], out[:-1]])
        marked: np.ndarray = np.where(begins, self.sentinels[np.maximum(np.cumsum(begins) - 1, 0)], own)
        kept: np.ndarray = marked[~out | begins]
        return kept

    def collate(self, groups: Groups, length: int) -> Batch:
        """See `BoundTask.collate` and `with_decoder`."""
        features = [feature for group in groups for feature in group]
        if any("labels" not in f.arrays and not f.filler for f in features):
            raise RefusalError(
                "task denoising: its answers are generated, which this version does not do; it can be evaluated"
            )
        return with_decoder(super().collate(groups, length), features, self.start, self.processor.fill["input_ids"])

    def weights(self, features: Sequence[Feature], targets: Mapping[str, np.ndarray]) -> dict[str, float]:
        """The number of labels."""
        return label_weights(features)

    def decode(self, outputs: Mapping[str, np.ndarray], batch: Batch) -> list[dict[str, Any]]:
        """Not reached: `collate` refuses features whose spans were not taken out."""
        raise RefusalError("task denoising: its answers are generated, which this version does not do")

    def state(self) -> dict[str, Any]:
        """start, and what decides the features besides the limits."""
        return {"start": self.start, "density": self.options.density, "mean_span": self.options.mean_span}


def corrupted(count: int, density: float, mean_span: float) -> int:
    """Tokens that the encoder reads of `count` of a text: a sentinel for each span."""
    noise, spans = noise_sizes(count, density, mean_span)
    return count - noise + spans


@functools.cache
def window(room: int, density: float, mean_span: float) -> int:
    """Tokens of a text, the most of which the encoder reads no more than `room`; 0 where none fit."""
    fitting = (n for n in itertools.count(2) if corrupted(n + 1, density, mean_span) > room)
    return next(fitting) if room >= 2 else 0
