"""Task `question-answering`: the span of a context that answers a question (Devlin et al. 2019, https://arxiv.org/abs/1810.04805; Rajpurkar et
al. 2016, 2018).

A long context is cut into windows that overlap; each is a feature, the question in front of it. The loss is that of transformers'
`AutoModelForQuestionAnswering`: the mean of two cross-entropies over a window's positions, of the answer's first token and of its last.
A window that does not hold the answer whole has its first token for both. So has a question without an answer, if there are such.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from spcore.errors import DataError, RefusalError
from spcore.interfaces.dataset import Row, Schema
from spcore.interfaces.model import Encoding, Head, Processor
from spcore.interfaces.task import IGNORE, Batch, BoundTask, EvalPart, Feature, Limits, LossTerm, Ops, Role, Task
from spcore.text import TextTask, mean_loss, pad, places, stacked, text_of
from spcore_tasks import span_figures
from spcore_tasks.labels import canonical
from spcore_tasks.language import each_feature, windows
from spcore_tasks.spans import (
    Gold,
    Span,
    as_bytes,
    as_text,
    golds_of,
    likeliest,
    located,
    shares,
    texts_as_bytes,
    texts_of,
    together,
    tokens_of,
    trimmed,
)

if TYPE_CHECKING:
    import torch

    from spcore_tasks.options import QuestionAnsweringOptions

TERM = "span"
WINDOW = 384
"""Tokens of a window where neither the recipe nor the model sets a limit."""
OVERLAP = 128
"""Tokens by which windows overlap where the recipe does not say: as the published recipes have it; of small windows a third."""
START, END = "start_logits", "end_logits"
UNHELD = "an answer that no window holds whole"

QUESTION = Role("question", guesses=("query", "问题"))
CONTEXT = Role("context", guesses=("passage", "paragraph", "document", "article", "text", "文章"))
ANSWERS = Role("answers", kind="any", target=True, guesses=("answer", "gold", "target", "答案"))
ANSWER_START = Role("answer_start", kind="number", required=False, target=True, guesses=("start", "start_index"))
IMPOSSIBLE = Role("is_impossible", kind="any", required=False, target=True, guesses=("impossible", "unanswerable"))


class QuestionAnswering(Task):
    """Kind `task`, `question-answering`."""

    roles = (QUESTION, CONTEXT, ANSWERS, ANSWER_START, IMPOSSIBLE)
    portable = True
    windows = True
    lower_is_better = Task.lower_is_better | {"unreachable"}

    def __init__(self, options: QuestionAnsweringOptions) -> None:
        self.options = options

    def bind(
        self, processor: Processor, config: Any, schema_or_state: Schema | dict[str, Any], limits: Limits
    ) -> BoundTask:
        """Whether questions may have no answer comes from the options, else from the column that says so, or the saved state. Raises
        RefusalError for a tokenizer that does not tell where its tokens lie, and a stride that leaves windows no room to move on."""
        encoded = processor.encode("a", "a")
        if encoded.offsets is None or encoded.parts is None:
            raise RefusalError(
                "task question-answering: the tokenizer does not tell where its tokens lie in a text",
                hint="Use a model whose tokenizer is a fast one (tokenizer.json)",
            )
        asked = self.options.no_answer
        if isinstance(schema_or_state, dict):
            may_lack, overlap = schema_or_state["no_answer"], schema_or_state["overlap"]
        else:
            column, overlap = schema_or_state.columns.get(IMPOSSIBLE.name), None
            counts = column.counts or {} if column is not None else {}
            may_lack = any(canonical(value).lower() in ("1", "true") for value in counts)
        return BoundQuestions(processor, limits, self.options, may_lack if asked == "auto" else asked, overlap)

    def state_of(self, config: Any) -> dict[str, Any] | None:
        """See `Task.state_of`: of models that transformers has as ...ForQuestionAnswering; that they may answer nothing they do not say."""
        known = any("ForQuestionAnswering" in name for name in getattr(config, "architectures", None) or [])
        return {"no_answer": False, "overlap": None} if known else None


class BoundQuestions(TextTask):
    """Feature arrays, n tokens a window: the encoding's own; "offsets" [n, 2] int32, characters of "text" that each token of the context stands
    for (empty for others); "text", the window's part of the context; "place" [3] int64: the window's number in its row, the character that
    "text" begins with, the position that stands for no answer; with labels "span" [2] int64, first and last token, and in a row's first
    window "golds", the right answers' texts.

    Targets: "labels" [S, 2] int64, -100 = none; the others as they are, padded."""

    terms = (TERM,)
    head = Head("span", 2, {START: ("sequence", "position"), END: ("sequence", "position")})

    def __init__(
        self,
        processor: Processor,
        limits: Limits,
        options: QuestionAnsweringOptions,
        no_answer: bool,
        overlap: int | None,
    ) -> None:
        super().__init__(processor, limits)
        self.options, self.no_answer = options, no_answer
        self.size = limits.max_length or WINDOW
        self.asked = limits.stride or overlap
        room = self.size - (len(processor.encode("a", "a").arrays["input_ids"]) - 2)
        if room < 2:
            raise RefusalError(f"data.max_length {self.size}: no room for a question and a context; give more")
        if limits.stride is not None and limits.stride >= room - 1:
            raise RefusalError(
                f"data.stride {limits.stride}: windows of {self.size} tokens have room for a question and {room - 1} of a context; give less"
            )
        self.overlap = min(self.asked or OVERLAP, self.size // 3) if limits.stride is None else limits.stride
        figures = (*span_figures.ANSWERED, *(span_figures.WITH_NONE if no_answer else ()))
        self.metric_names = (*figures, "unreachable", "loss", "rows")

    # -- rows to features ------------------------------------------------------------------------------------------

    def featurize(self, row: Row) -> list[Feature]:
        """The windows of a row. Raises DataError for a question that leaves too little room, in training for answers that no window holds or
        that are not where they are said to be, and for a question without an answer where that is not asked for."""
        question, context = text_of(row, "question").lstrip(), text_of(row, "context")
        golds = self._golds(row)
        encoding = self.processor.encode(question, context)
        assert encoding.offsets is not None, "refused when it was bound"
        low, high = _frame(encoding)
        room = self.size - len(encoding.arrays["input_ids"]) + high - low
        if room <= self.overlap:
            raise DataError(
                f"a question that leaves no more of {self.size} tokens than the {self.overlap} by which windows overlap"
            )
        offsets = trimmed(context, encoding.offsets[low:high])
        cuts = windows(high - low, room, self.overlap)
        answer = None if golds is None else self._answer(context, golds, offsets, cuts)
        made = []
        for number, (first, stop) in enumerate(cuts):
            arrays, place = self._window(encoding, (low, high), (first, stop), context, offsets)
            arrays["place"] = np.array([number, *place], np.int64)
            if answer is not None:
                arrays["span"] = _labels(answer, first, stop, low, place[1])
            if golds is not None and not number:
                arrays["golds"] = texts_as_bytes([gold.text for gold in golds])
            made.append(Feature(0, 0, arrays, len(arrays["input_ids"])))
        return made

    def _golds(self, row: Row) -> list[Gold] | None:
        """A row's right answers; None where it is to be predicted."""
        if "answers" not in row:
            return None
        golds = golds_of(row["answers"], row.get("answer_start"), row.get("is_impossible"))
        if not golds and not self.no_answer:
            raise DataError("a question without an answer (task.no_answer=true learns that there may be none)")
        return golds

    def _answer(
        self, context: str, golds: Sequence[Gold], offsets: np.ndarray, cuts: Sequence[tuple[int, int]]
    ) -> tuple[int, int] | None:
        """(first, last) token, of the context's, of the first answer that can be learnt; (-1, -1) for none. Of an evaluation's rows None where
        there is nothing to learn: they are asked all the same. Raises DataError."""
        why = None
        for gold in golds:
            try:
                found = tokens_of(offsets, *located(context, gold))
                if found is not None and any(first <= found[0] and found[1] < stop for first, stop in cuts):
                    return found
                why = why or DataError(UNHELD)
            except DataError as error:
                why = why or error
        if why is None:
            return -1, -1
        if self.limits.evaluation:
            return None
        raise why

    def _window(
        self, encoding: Encoding, frame: tuple[int, int], cut: tuple[int, int], context: str, offsets: np.ndarray
    ) -> tuple[dict[str, np.ndarray], tuple[int, int]]:
        """Arrays of one window, and its place: the character that its text begins with, the position that stands for no answer."""
        (low, high), (first, stop) = frame, cut
        arrays = {
            name: np.concatenate([array[:low], array[low + first : low + stop], array[high:]])
            for name, array in encoding.arrays.items()
        }
        own = offsets[first:stop]
        real = own[own[:, 1] > own[:, 0]]
        begin, end = (int(real[:, 0].min()), int(real[:, 1].max())) if len(real) else (0, 0)
        arrays["offsets"] = np.zeros((len(arrays["input_ids"]), 2), np.int32)
        arrays["offsets"][low : low + stop - first] = np.where(own[:, 1:] > own[:, :1], own - begin, 0)
        arrays["text"] = as_bytes(context[begin:end])
        ids, special = arrays["input_ids"].tolist(), self.processor.special
        null = next((ids.index(special[n]) for n in ("cls", "bos") if n in special and special[n] in ids), 0)
        return arrays, (begin, null)

    # -- features to batches, and the loss -------------------------------------------------------------------------

    def targets(self, features: Sequence[Feature]) -> dict[str, np.ndarray]:
        """See the class."""
        longest = max(feature.length for feature in features)
        offsets = np.zeros((len(features), longest, 2), np.int32)
        for entry, feature in zip(offsets, features, strict=True):
            if not feature.filler:
                entry[: feature.length] = feature.arrays["offsets"]
        return {
            "labels": stacked(features, "span", IGNORE, (2,)), "offsets": offsets, "text": _bytes(features, "text"),
            "golds": _bytes(features, "golds"), "place": stacked(features, "place", 0, (3,)),
        }  # fmt: skip

    def weights(self, features: Sequence[Feature], targets: Mapping[str, np.ndarray]) -> dict[str, float]:
        """The number of windows with labels."""
        return {TERM: float((targets["labels"][:, 0] >= 0).sum())}

    def loss(self, outputs: Mapping[str, torch.Tensor], batch: Batch, ops: Ops) -> list[LossTerm]:
        """Cross-entropy over a window's own positions, padding left out; the mean of first and last token: nats."""
        import torch

        from spcore.tensors.heads import as_rows

        both = torch.stack([ops.full(outputs, name).float() for name in self.head.outputs], -1)
        rows, real = as_rows(both, *_layout(batch))
        rows = rows.masked_fill(~real[..., None], -torch.inf)
        labels = batch.targets["labels"]
        logprobs = [
            ops.token_logprobs({name: rows[..., n]}, labels[:, n], name) for n, name in enumerate(self.head.outputs)
        ]
        return [LossTerm(TERM, -sum(logprobs, torch.zeros((), device=rows.device)).sum() / 2)]

    # -- outputs to figures and answers ----------------------------------------------------------------------------

    def reduce(self, outputs: Mapping[str, torch.Tensor], batch: Batch, ops: Ops) -> EvalPart:
        """Rows, one a window: window (its number in its row), spans (the candidates), null (score of no answer), golds in the first one, held
        (whether it has labels)."""
        sums = {f"{name}.weight": float(weight) for name, weight in batch.weights.items()}
        for term in self.loss(outputs, batch, ops):
            sums[f"{term.name}.sum"] = term.coefficient * float(term.sum.detach())
        inputs, targets = ({name: _plain(x) for name, x in own.items()} for own in (batch.inputs, batch.targets))
        plain = replace(batch, inputs=inputs, targets=targets)
        found = {name: ops.full(outputs, name).detach().float().cpu().numpy() for name in self.head.outputs}
        rows = []
        for feature, row, at, spans, null in self._found(found, plain):
            number = int(plain.targets["place"][at, 0])
            golds = {} if number else {"golds": texts_of(plain.targets["golds"][at])}
            listed = [[span.start, span.end, span.score, span.text] for span in spans]
            held = bool(plain.targets["labels"][at, 0] >= 0)
            rows.append(
                {"feature_id": feature, "row_id": row, "window": number, "held": held, "null": null, "spans": listed, **golds}
            )  # fmt: skip
        return EvalPart(sums, rows)

    def metrics(self, part: EvalPart) -> dict[str, float]:
        """f1, exact_match and what `span_figures` says else. unreachable: questions none of whose answers could be found in a window.
        loss. rows: questions."""
        questions, unreachable = [], 0
        for own in _questions(part.rows):
            golds = own[0]["golds"]
            if golds is None:
                continue
            text, margin = "", 0.0
            if best := max((row["spans"][0] for row in own if row["spans"]), key=lambda span: span[2], default=None):
                text, margin = best[3], min(row["null"] for row in own) - best[2]
            questions.append(span_figures.Answered(tuple(golds), text, margin))
            unreachable += not any(row["held"] for row in own)
        figures = (
            span_figures.with_none(questions, self.options.null_threshold)
            if self.no_answer
            else span_figures.answered(questions)
        )
        named = {name: figures[name] for name in self.metric_names if name in figures}
        return {**named, "unreachable": float(unreachable), "loss": mean_loss(part), "rows": float(len(questions))}

    def decode(self, outputs: Mapping[str, np.ndarray], batch: Batch) -> list[dict[str, Any]]:
        """Of each window: its candidates and the score of no answer."""
        return [
            {"row_id": row, "null": null, "spans": [[span.start, span.end, span.score, span.text] for span in spans]}
            for _, row, _, spans, null in self._found(outputs, batch)
        ]

    def combine(self, answers: Sequence[dict[str, Any]], row: Row) -> dict[str, Any]:
        """text; start, end: its (first, last + 1) characters in the context, null for no answer; score: its share among the candidates of all
        windows (softmax). With task.answers over 1 also "others", the next best."""
        spans = together([[Span(*span) for span in answer["spans"]] for answer in answers], self.options.n_best)
        null = min(answer["null"] for answer in answers)
        every: list[tuple[float, str, int | None, int | None]] = [(s.score, s.text, s.start, s.end) for s in spans]
        nothing = (null, "", None, None)
        if self.no_answer and every and null - every[0][0] > self.options.null_threshold:
            every.insert(0, nothing)
        elif self.no_answer or not every:
            every.append(nothing)
        parts = shares([score for score, *_ in every])
        listed = [
            {"text": text, "start": start, "end": end, "score": part}
            for (_, text, start, end), part in zip(every, parts, strict=True)
        ]
        others = {"others": listed[1 : self.options.answers]} if self.options.answers > 1 else {}
        return {"row_id": answers[0]["row_id"], **listed[0], **others}

    def prediction(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """As `combine`, and `answers`: the texts of the right ones, none where there is none."""
        return {**self.combine(rows, {}), "answers": rows[0]["golds"]}

    def _found(
        self, outputs: Mapping[str, np.ndarray], batch: Batch
    ) -> Iterator[tuple[int, int, int, list[Span], float]]:
        """(feature, row, segment, candidates, score of no answer) of each window of a batch (numpy); filler left out."""
        targets = batch.targets
        for (feature, (row, at)), (_, s, own) in zip(places(batch).items(), each_feature(batch), strict=True):
            start, end = (np.asarray(outputs[name], np.float32)[s, own] for name in self.head.outputs)
            offsets, text = targets["offsets"][at[0], : len(own)], as_text(targets["text"][at[0]])
            _, begin, null = targets["place"][at[0]].tolist()
            spans = []
            for i, j, score in likeliest(start, end, offsets, self.options.n_best, self.options.max_answer_length):
                low, high = int(offsets[i, 0]), int(offsets[j, 1])
                spans.append(Span(begin + low, begin + high, score, text[low:high]))
            yield feature, row, at[0], spans, float(start[null]) + float(end[null])

    def state(self) -> dict[str, Any]:
        """no_answer: whether questions may have none. overlap: tokens by which windows overlap, as asked for; null: as is usual."""
        return {"no_answer": self.no_answer, "overlap": self.asked}


def _frame(encoding: Encoding) -> tuple[int, int]:
    """(first, last + 1) of the context's own tokens. Raises DataError where there is none."""
    assert encoding.parts is not None, "refused when it was bound"
    own = np.flatnonzero(encoding.parts == 1)
    if not len(own):
        raise DataError("the context gives no token")
    return int(own[0]), int(own[-1]) + 1


def _labels(answer: tuple[int, int], first: int, stop: int, low: int, null: int) -> np.ndarray:
    """[2] int64: first and last token of the answer in a window, of one that does not hold it whole the position of no answer twice."""
    if first <= answer[0] and answer[1] < stop:
        return np.array([low + answer[0] - first, low + answer[1] - first], np.int64)
    return np.array([null, null], np.int64)


def _bytes(features: Sequence[Feature], name: str) -> np.ndarray:
    """[features, longest] uint8, zeros behind each and where a feature has none."""
    empty = np.empty(0, np.uint8)
    arrays = [empty if feature.filler else feature.arrays.get(name, empty) for feature in features]
    return pad(arrays, max(map(len, arrays)), 0, np.uint8)


def _layout(batch: Batch) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Which positions are tokens, bool [S, L]; of packs (sequence, start) of each window, int64 [N, 2], else None."""
    import torch

    segments = batch.inputs.get("segment_ids")
    if segments is None:
        return torch.as_tensor(batch.inputs["attention_mask"]).bool(), None
    segments = torch.as_tensor(segments)
    return segments > 0, ((segments > 0) & (torch.as_tensor(batch.inputs["position_ids"]) == 0)).nonzero()


def _plain(x: Any) -> np.ndarray:
    return x.cpu().numpy() if hasattr(x, "cpu") else np.asarray(x)


def _questions(rows: Sequence[dict[str, Any]]) -> Iterator[Sequence[dict[str, Any]]]:
    """The windows of each question: they follow each other, and each question's begin with number 0."""
    starts = [n for n, row in enumerate(rows) if row["window"] == 0]
    for first, stop in pairwise([*starts, len(rows)]):
        yield rows[first:stop]
