"""Task `seq2seq`: a text for a text (translation, summaries, answers). The loss is on the target alone; the figures that count are made of
texts that the model generates.

An encoder-decoder reads the source with its encoder and learns the target with its decoder. A decoder reads a prompt that holds the source,
and learns what comes after it. A prompt is encoded by itself and a target behind it, so what is learnt and what is asked later are
the same tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from spcore.errors import DataError, RefusalError
from spcore.generation.checks import check_request
from spcore.interfaces.dataset import Row, Schema
from spcore.interfaces.model import Processor
from spcore.interfaces.runtime import ANY_ROOM, GenerationRequest
from spcore.interfaces.task import IGNORE, Batch, BoundTask, EvalPart, Feature, Limits, LossTerm, Ops
from spcore.text import Groups
from spcore_tasks import answer_figures
from spcore_tasks.exchanges import ROLES, SOURCE, check_prompt, joined, pair_of, pairs_of, references, rendered
from spcore_tasks.language import (
    BoundLanguageTask,
    LanguageTask,
    decoder_start,
    each_feature,
    first_tokens,
    label_weights,
    refuse_packs,
    with_decoder,
)

if TYPE_CHECKING:
    import torch

    from spcore_tasks.options import Seq2SeqOptions

_USUAL = 128
"""Tokens of a target at most, where neither the recipe nor the model says."""


class Seq2Seq(LanguageTask):
    """Kind `task`, `seq2seq`."""

    roles = ROLES
    windows = False
    lower_is_better = LanguageTask.lower_is_better | {"unfinished"}
    endings = ("MarianMTModel", "BartForConditionalGeneration", "PegasusForConditionalGeneration")

    def __init__(self, options: Seq2SeqOptions) -> None:
        self.options = options

    def bind(
        self, processor: Processor, config: Any, schema_or_state: Schema | dict[str, Any], limits: Limits
    ) -> BoundTask:
        """Whether the model has an encoder comes from the configuration, or the saved state; of a configuration that does not say, from
        the prompt. Raises RefusalError for a decoder without a prompt, a tokenizer without an end token, and lengths that leave no room.
        """
        if processor.special.get("eos") is None:
            raise RefusalError(
                "task seq2seq: the tokenizer has no end token (eos), which ends an answer",
                hint="`slimpajama tokenizer train --special eos=TOKEN` gives it one",
            )
        if isinstance(schema_or_state, dict):
            encodes, start = schema_or_state["encodes"], schema_or_state["start"]
            pairs = tuple(schema_or_state.get("pairs", ()))
        else:
            encodes = getattr(config, "is_encoder_decoder", self.options.prompt is None)
            start = decoder_start(processor, config) if encodes else None
            check_prompt(self.options.prompt, schema_or_state)
            pairs = pairs_of(schema_or_state)
        if encodes:
            refuse_packs(limits)
            return _ByEncoder(processor, limits, self.options, pairs, start)
        if self.options.prompt is None:
            kind = getattr(config, "model_type", "the model")
            raise RefusalError(
                f"task.prompt: {kind!r} is no encoder-decoder, and a decoder is asked by a prompt",
                hint="Give one, as task.prompt='\"English: {source}\\nGerman:\"'",
            )
        return _ByDecoder(processor, limits, self.options, pairs)

    def suits(self, schema: Schema, columns: Mapping[str, str]) -> float:
        """See `Task.suits`: both texts go by a usual name, and are no numbers or objects."""
        kinds = {schema.columns[role].kind for role in ("source", "target")}
        named = columns["source"].lower() in {name.lower() for name in ("source", *SOURCE.guesses)}
        if not named or not kinds <= {"text", "list"}:
            return 0.0
        return 0.7 if {"source", "target"} <= set(columns.values()) else super().suits(schema, columns)

    def state_of(self, config: Any) -> dict[str, Any] | None:
        """See `Task.state_of`."""
        return None if super().state_of(config) is None else {"encodes": True, "start": config.decoder_start_token_id}


class _Bound(BoundLanguageTask):
    """What both kinds of models share. Has the ability `Prompts`."""

    head = replace(BoundLanguageTask.head, causal=True)
    start: int | None = None

    def __init__(self, processor: Processor, limits: Limits, options: Seq2SeqOptions, pairs: Sequence[str]) -> None:
        super().__init__(processor, limits)
        self.options, self.pairs = options, tuple(pairs)
        self.most = options.max_target_length or max(2, min(_USUAL, self.target_room() or _USUAL))
        self.new = options.generate.max_new_tokens or self.most
        self.eos = processor.special["eos"]
        chosen = [options.metric] if isinstance(options.metric, str) else options.metric or []
        whole = (*dict.fromkeys([*chosen, *answer_figures.ANSWERS]), "unfinished")
        self.answer_metrics: tuple[str, ...] = (*whole, *(f"{name}/{pair}" for pair in self.pairs for name in whole))
        self.metric_names = (*self.answer_metrics, "loss", "perplexity", "accuracy", "rows")
        try:  # what the loop would refuse of every request
            check_request(self._asked((self.eos,)), (options.generate.beams, *ANY_ROOM[1:]), self.start)
        except RefusalError as error:
            raise RefusalError(f"task.generate: {error.message.partition(': ')[2]}", hint=error.hint) from error
        positions = processor.max_length
        for name, tokens in (("max_target_length", self.most), ("generate.max_new_tokens", self.new)):
            if positions is not None and tokens > positions:
                raise RefusalError(
                    f"task.{name} {tokens}: the model has {positions} positions; give {positions} or less"
                )

    def target_room(self) -> int | None:
        """Tokens of a target at most where the options do not say; None: any number."""
        raise NotImplementedError

    def room(self) -> int | None:
        """Tokens of a prompt at most; None: any number."""
        raise NotImplementedError

    def encode_prompt(self, text: str) -> np.ndarray:
        """All tokens of a prompt [n], special ones in place."""
        raise NotImplementedError

    def prompt(self, row: Row) -> tuple[np.ndarray, int]:
        """What the model reads of a row [n], and the tokens that did not fit: the source's last ones. Raises DataError."""
        source, room, prompt = joined(row, "source"), self.room(), self.options.prompt
        ids = self.encode_prompt(rendered(prompt, row, source))
        if not len(ids):
            raise DataError("the source gives no token")
        whole = len(ids)
        while room is not None and len(ids) > room:
            source = self._shorter(source, len(ids) - room)
            if not source:
                raise DataError(f"the prompt has no room for a source: it has {room} tokens in all")
            ids = self.encode_prompt(rendered(prompt, row, source))
        return ids, whole - len(ids)

    def _shorter(self, text: str, count: int) -> str:
        """A text without its last `count` tokens, and by a character at least: of several tokens that are one, none goes alone."""
        encoding = self.processor.encode(text, special=False)
        kept = len(encoding.arrays["input_ids"]) - count
        if kept < 1:
            return ""
        if encoding.offsets is not None:
            first = text[: int(encoding.offsets[kept - 1][1])]
        else:
            first = self.processor.decode(encoding.arrays["input_ids"][:kept].tolist())
        return first if len(first) < len(text) else text[:-1]

    def labels(self, row: Row) -> list[tuple[np.ndarray, int]]:
        """Of each of a row's references the tokens with the end token [n], and how many did not fit; one of nothing for a row without a
        target. Raises DataError."""
        if "target" not in row:
            return [(np.empty(0, np.int64), 0)]
        return [self._label(text) for text in references(row)]

    def _label(self, text: str) -> tuple[np.ndarray, int]:
        own = self.encode_answer(text)
        if not len(own):
            raise DataError("the target gives no token")
        kept = own[: self.most - 1]
        return np.append(kept, self.eos), len(own) - len(kept)

    def encode_answer(self, text: str) -> np.ndarray:
        """All tokens of a target [n] but the end token."""
        raise NotImplementedError

    # -- by generating ---------------------------------------------------------------------------------------------

    def request(self, row: Row) -> GenerationRequest:
        """See `Prompts.request`."""
        return self._asked(tuple(self.prompt(row)[0].tolist()))

    def _asked(self, ids: tuple[int, ...]) -> GenerationRequest:
        o = self.options.generate
        return GenerationRequest(
            ids, max_new_tokens=self.new, temperature=o.temperature, top_k=o.top_k, top_p=o.top_p,
            repetition_penalty=o.repetition_penalty, beams=o.beams, length_penalty=o.length_penalty,
            early_stopping=o.early_stopping, seed=o.seed, stop=(self.eos,),
        )  # fmt: skip

    def answer(self, row: Row, text: str) -> dict[str, Any]:
        """text; of a row with its target also "reference", all of them where there are several; of one of a pair of languages "pair"."""
        found: dict[str, Any] = {"text": text}
        if "target" in row:
            known = references(row)
            found["reference"] = known[0] if len(known) == 1 else known
        pair = pair_of(row)
        return found if pair is None else {**found, "pair": pair}

    def metrics(self, part: EvalPart) -> dict[str, float]:
        """See `answer_figures.answers`: of all answers, and of each pair of languages as NAME/PAIR; unfinished: answers that max_new_tokens
        ended; and as of every objective, over the targets' tokens. What there are no figures for is left out."""
        answered = [row for row in part.rows if "reference" in row]
        found: dict[str, float] = self._figures(answered) if answered else {}
        for pair in sorted({row["pair"] for row in answered if "pair" in row}):
            own = self._figures([row for row in answered if row.get("pair") == pair])
            found |= {f"{name}/{pair}": value for name, value in own.items()}
        return {**found, **(super().metrics(part) if part.sums else {"rows": float(len(part.rows))})}

    def _figures(self, answered: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Figures of these answers, the ones that are asked for first."""
        known = [row["reference"] for row in answered]
        figures = answer_figures.answers(
            [row["text"] for row in answered], [[one] if isinstance(one, str) else one for one in known], self.options
        )
        figures["unfinished"] = float(sum(row["finish"] == "length" for row in answered))
        return {name: figures[name] for name in self.answer_metrics if name in figures}

    def loss(self, outputs: Mapping[str, torch.Tensor], batch: Batch, ops: Ops) -> list[LossTerm]:
        """Cross-entropy, summed over labels: nats. Smoothed, a share of each label's probability is spread over the vocabulary."""
        found, share = super().loss(outputs, batch, ops), self.options.label_smoothing
        if not share:
            return found
        spread = ops.logprob_mean(outputs)[batch.targets["labels"] >= 0].sum()
        return [replace(term, sum=(1 - share) * term.sum - share * spread) for term in found]

    def decode(self, outputs: Mapping[str, np.ndarray], batch: Batch) -> list[dict[str, Any]]:
        """The text of the likeliest tokens where the target before each is given; predictions are generated, see `answer`."""
        best, labels = outputs["logits"].argmax(-1), np.asarray(batch.targets["labels"])
        places = [(row, s, at) for row, s, at in each_feature(self._seen(batch))]
        return [
            {"row_id": row, "text": self.processor.decode(best[s, at][labels[s, at] >= 0].tolist())}
            for row, s, at in places
        ]

    def _seen(self, batch: Batch) -> Batch:
        """A batch whose mask is of the outputs' positions."""
        return batch

    def state(self) -> dict[str, Any]:
        """encodes, start, and what decides the features besides the limits."""
        o = self.options
        own = {"prompt": o.prompt, "max_target_length": self.most, "max_new_tokens": self.new}
        return {"encodes": self.start is not None, "start": self.start, "pairs": list(self.pairs), **own}


class _ByEncoder(_Bound):
    """Feature arrays: "input_ids" [n], what the encoder reads; "labels" [m], what the decoder writes. start: id that it begins with."""

    token_targets: ClassVar[Mapping[str, int]] = {}

    def __init__(
        self, processor: Processor, limits: Limits, options: Seq2SeqOptions, pairs: Sequence[str], start: int
    ) -> None:
        super().__init__(processor, limits, options, pairs)
        self.start: int = start

    def target_room(self) -> int | None:
        """What the decoder's positions allow."""
        return self.processor.max_length

    def room(self) -> int | None:
        """As the limit says."""
        return self.limits.max_length

    def encode_prompt(self, text: str) -> np.ndarray:
        """In the tokenizer's frame."""
        return self.processor.encode(text).arrays["input_ids"]

    def encode_answer(self, text: str) -> np.ndarray:
        """In the frame of the tokenizer that the family writes with. A language's token behind the end token (mBART's) is none of the text:
        the decoder begins with it."""
        ids = self.processor.encode_target(text).arrays["input_ids"]
        ends = np.flatnonzero(ids == self.eos)
        if len(ends) and self.processor.special_ids.issuperset(ids[ends[-1] :].tolist()):
            return ids[: ends[-1]]
        return ids

    def featurize(self, row: Row) -> list[Feature]:
        """One feature a reference; without "labels" for a row without a target. Raises DataError for a blank source or target."""
        ids, cut = self.prompt(row)
        made = []
        for labels, lost in self.labels(row):
            arrays = {"input_ids": ids.astype(self.ids)}
            if len(labels):
                arrays["labels"] = labels.astype(self.ids)
            made.append(Feature(0, 0, arrays, len(ids), truncated=cut, truncated_target=lost))
        return made

    def collate(self, groups: Groups, length: int) -> Batch:
        """See `BoundTask.collate` and `with_decoder`."""
        features = [feature for group in groups for feature in group]
        return with_decoder(super().collate(groups, length), features, self.start, self.processor.fill["input_ids"])

    def weights(self, features: Sequence[Feature], targets: Mapping[str, np.ndarray]) -> dict[str, float]:
        """The number of labels."""
        return label_weights(features)

    def _seen(self, batch: Batch) -> Batch:
        return replace(batch, inputs={"attention_mask": batch.inputs["decoder_attention_mask"]})


class _ByDecoder(_Bound):
    """Feature arrays: "input_ids" [n], a prompt and the target but its last token; "labels" [n], the token after each, -100 within the
    prompt."""

    def __init__(self, processor: Processor, limits: Limits, options: Seq2SeqOptions, pairs: Sequence[str]) -> None:
        super().__init__(processor, limits, options, pairs)
        self.begin = first_tokens(processor)
        room = self.room()
        if room is not None and room < 1:
            raise RefusalError(
                f"task.max_target_length {self.most}, task.generate.max_new_tokens {self.new}: a prompt and its answer share "
                f"{self.limits.max_length} tokens; give less, or a larger data.max_length"
            )

    def target_room(self) -> int | None:
        """Half of what it shares with its prompt."""
        return self.limits.max_length and self.limits.max_length // 2

    def room(self) -> int | None:
        """What an answer leaves."""
        most = self.limits.max_length
        return None if most is None else most - max(self.most, self.new) + 1

    def encode_prompt(self, text: str) -> np.ndarray:
        """Behind the first token that the tokenizer puts before a text; nothing after it, as the answer follows."""
        own = self.processor.encode(text, special=False).arrays["input_ids"]
        return np.concatenate([np.array(self.begin, np.int64), own])

    def encode_answer(self, text: str) -> np.ndarray:
        """Without special tokens."""
        return self.processor.encode(text, special=False).arrays["input_ids"]

    def featurize(self, row: Row) -> list[Feature]:
        """One feature a reference; of a row without a target the prompt alone. Raises DataError for a blank source or target."""
        ids, cut = self.prompt(row)
        made = []
        for labels, lost in self.labels(row):
            read = np.concatenate([ids, labels[:-1]])
            known = np.full(len(read) - len(labels), IGNORE, np.int64)
            arrays = {"input_ids": read.astype(self.ids), "labels": np.concatenate([known, labels])}
            made.append(Feature(0, 0, arrays, len(read), truncated=cut, truncated_target=lost))
        return made
