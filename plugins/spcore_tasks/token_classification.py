"""Task `token-classification`: a tag for each word of a text: entities, parts of speech.

Of a word's tokens the first one is asked (Devlin et al. 2019, section 5.3); texts that are longer than the model allows are cut into
windows of whole words. The loss is that of transformers' `AutoModelForTokenClassification`: cross-entropy over labelled tokens, as a sum.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from spcore.errors import DataError, RefusalError, unknown
from spcore.interfaces.dataset import Column, Row, Schema
from spcore.interfaces.model import Head, Processor
from spcore.interfaces.task import IGNORE, Batch, BoundTask, EvalPart, Feature, Limits, LossTerm, Ops, Role, Task
from spcore.text import TextTask, mean_loss
from spcore_tasks.labels import Labels, learn, numbered
from spcore_tasks.tagging import (
    OUTSIDE,
    Scheme,
    entities,
    entity_figures,
    inside,
    scheme_of,
    tag_figures,
    types_in,
    word_windows,
    words_of,
)

if TYPE_CHECKING:
    import torch

    from spcore_tasks.options import TokenClassificationOptions

TERM = "tags"
TOKENS = Role("tokens", kind="any", guesses=("words", "word", "token", "text", "sentence", "分词", "文本", "句子"))
TAGS = Role(
    "tags", kind="label", target=True, guesses=("ner_tags", "ner", "labels", "label", "tag", "pos_tags", "upos", "pos", "标签"),
)  # fmt: skip


class TokenClassification(Task):
    """Kind `task`, `token-classification`."""

    roles = (TOKENS, TAGS)
    portable = True
    windows = True

    def __init__(self, options: TokenClassificationOptions) -> None:
        self.options = options

    def suits(self, schema: Schema, columns: Mapping[str, str]) -> float:
        """See `Task.suits`: words and tags are lists."""
        lists = schema.columns["tokens"].kind == schema.columns["tags"].kind == "list"
        return 0.8 if lists and super().suits(schema, columns) else 0.0

    def bind(
        self, processor: Processor, config: Any, schema_or_state: Schema | dict[str, Any], limits: Limits
    ) -> BoundTask:
        """Learn the tags from their column, or take them from a saved state. Raises RefusalError for a tokenizer that tells no words."""
        processor.encode_words(["a"])
        given = schema_or_state
        bound = BoundTokenClassification(
            processor, limits, given if isinstance(given, dict) else self._learn(given.columns["tags"])
        )
        chosen = self.options.metric
        bound.prefer([chosen] if isinstance(chosen, str) else chosen or [])
        return bound

    def state_of(self, config: Any) -> dict[str, Any] | None:
        """See `Task.state_of`: of models that transformers has as ...ForTokenClassification."""
        if not any("ForTokenClassification" in name for name in getattr(config, "architectures", None) or []):
            return None
        names = tuple(str(name) for _, name in sorted(config.id2label.items()))
        return self._state(numbered(names, range(len(names))))

    def _learn(self, column: Column) -> dict[str, Any]:
        if column.kind != "list":
            raise DataError(
                f"tags: the column holds {column.kind} values; expected a list in each row, a tag for each word",
                hint="Map another column: data.columns.tags=COLUMN",
            )
        labels = learn(column, self.options.labels)
        if len(labels) < 2:
            only = f"one value, {labels.names[0]!r}" if labels.names else "no value"
            raise DataError(f"tags: the column has {only}: nothing to tell apart")
        return self._state(labels)

    def _state(self, labels: Labels) -> dict[str, Any]:
        o = self.options
        scheme = scheme_of(labels.names, o.scheme)
        if o.strict and scheme == "raw":
            raise RefusalError("task.strict: goes with tags of entities, and these are raw; leave it out")
        return {
            "labels": list(labels.names), "values": dict(labels.values), "integers": list(labels.integers), "scheme": scheme,
            "subtokens": o.subtokens, "strict": o.strict,
        }  # fmt: skip


class BoundTokenClassification(TextTask):
    """Feature arrays: "input_ids" [n]; and, for tokens that are asked, the first of each word that is the window's own: "words" the word's
    number, "begins", "ends" its characters, -1 elsewhere. "labels": their ids, -100 elsewhere; with `subtokens: all` all tokens of a word
    have one. Targets: the same, [S, L] int64."""

    terms = (TERM,)
    token_targets: ClassVar[Mapping[str, int]] = {"labels": IGNORE, "words": -1, "begins": -1, "ends": -1}

    def __init__(self, processor: Processor, limits: Limits, state: dict[str, Any]) -> None:
        super().__init__(processor, limits)
        self._state = state
        self.labels = Labels(tuple(state["labels"]), state["values"], tuple(state["integers"]))
        self.scheme: Scheme = state["scheme"]
        self.strict: bool = state["strict"]
        names = self.labels.names
        self.types = types_in(names, self.scheme)
        self.outside = names.index(OUTSIDE) if OUTSIDE in names else 0
        ids = {name: n for n, name in enumerate(names)}
        later = [ids.get(inside(name), n) for n, name in enumerate(names)]
        self._later = np.array(later if state["subtokens"] == "all" else [IGNORE] * len(names), np.int64)
        self.head = Head("token", len(names), {"logits": ("sequence", "position", "label")}, names)
        self.prefer(())

    def prefer(self, chosen: Sequence[str]) -> None:
        """Put these metrics first. Raises RefusalError for one that there is not."""
        known = tuple(self._figures([], []))
        for name in chosen:
            if name not in known:
                raise RefusalError(f"task.metric: {unknown('metric', name, known)}")
        self.metric_names = (*dict.fromkeys([*chosen, *known]), "loss", "rows")

    # -- rows to features ------------------------------------------------------------------------------------------

    def featurize(self, row: Row) -> list[Feature]:
        """The windows of a text. Raises DataError for a row without words, or whose tags do not go with them."""
        text, spans = words_of(row)
        labels = self._tagged(row, len(spans)) if "tags" in row else None
        encoding = self.processor.encode_words([text[first:stop] for first, stop in spans])
        assert encoding.words is not None, "the promise of encode_words"
        seen, starts, counts = np.unique(encoding.words[encoding.words >= 0], return_index=True, return_counts=True)
        if not len(seen):
            raise DataError("the text gives no token")
        if labels is not None:
            self._refuse_lost(text, spans, labels, set(seen.tolist()))
        low = int(np.argmax(encoding.words >= 0))
        frame = len(encoding.words) - int(counts.sum())
        room = len(encoding.words) if self.limits.max_length is None else self.limits.max_length - frame
        overlap = self.limits.stride or 0
        if room <= overlap:
            raise DataError(
                f"a window of {self.limits.max_length} tokens has room for {room} of a text, and {overlap} overlap"
            )
        made = []
        for first, stop, own, own_stop in word_windows((starts + counts).tolist(), room, overlap):
            begin, end = int(starts[first]), int(starts[stop - 1] + counts[stop - 1])
            kept = np.r_[
                0:low, low + begin : low + min(end, begin + room), low + int(counts.sum()) : len(encoding.words)
            ]
            arrays = {name: array[kept] for name, array in encoding.arrays.items()}
            at = low + starts[own:own_stop] - begin
            arrays.update(self._asked(len(kept), at, seen[own:own_stop], spans))
            if labels is not None:
                arrays["labels"] = self._labels(arrays["words"], encoding.words[kept], labels)
            made.append(Feature(0, 0, arrays, len(kept), truncated=max(0, end - begin - room)))
        return made

    def _tagged(self, row: Row, words: int) -> np.ndarray:
        """Label ids, [words]."""
        tags = row["tags"]
        if not isinstance(tags, list):
            raise DataError("no tags" if tags is None else "the tags are no list")
        if len(tags) != words:
            raise DataError(f"{'more' if len(tags) > words else 'fewer'} tags than words")
        return np.array([self.labels.id(tag) for tag in tags], np.int64)

    def _refuse_lost(self, text: str, spans: Sequence[tuple[int, int]], labels: np.ndarray, seen: set[int]) -> None:
        """Raise DataError where a word of which the tokenizer makes nothing is a part of an entity; outside of any nothing is lost."""
        for word, (first, stop) in enumerate(spans):
            if word not in seen and (self.scheme == "raw" or self.labels.names[labels[word]] != OUTSIDE):
                raise DataError(f"a word with a tag gives no token ({text[first:stop]!a})")

    @staticmethod
    def _asked(
        length: int, at: np.ndarray, words: np.ndarray, spans: Sequence[tuple[int, int]]
    ) -> dict[str, np.ndarray]:
        """The arrays besides the labels. at: where the first tokens of `words` stand."""
        where = np.array(spans, np.int64)[words]
        made = {name: np.full(length, -1, np.int64) for name in ("words", "begins", "ends")}
        for name, values in zip(made, (words, where[:, 0], where[:, 1]), strict=True):
            made[name][at] = values
        return made

    def _labels(self, asked: np.ndarray, words: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """[n] int64. asked: numbers of words at the tokens that are asked; words: of all tokens, -1 for special ones."""
        later = np.where(np.isin(words, asked[asked >= 0]) & (words >= 0), self._later[labels[words]], IGNORE)
        return np.where(asked >= 0, labels[asked], later)

    # -- learning and evaluation -----------------------------------------------------------------------------------

    def weights(self, features: Sequence[Feature], targets: Mapping[str, np.ndarray]) -> dict[str, float]:
        """The number of labels."""
        return {TERM: float((targets["labels"] >= 0).sum())}

    def loss(self, outputs: Mapping[str, torch.Tensor], batch: Batch, ops: Ops) -> list[LossTerm]:
        """Cross-entropy, summed over labels."""
        return [LossTerm(TERM, -ops.token_logprobs(outputs, batch.targets["labels"]).sum())]

    def reduce(self, outputs: Mapping[str, torch.Tensor], batch: Batch, ops: Ops) -> EvalPart:
        """Rows, one a window: words, their numbers; predicted, gold: their tags, gold None where there are none."""
        total = -ops.token_logprobs(outputs, batch.targets["labels"]).sum()
        best = ops.argmax(outputs).cpu().numpy()
        labels, words = (batch.targets[name].cpu().numpy() for name in ("labels", "words"))
        names, rows = self.labels.names, []
        for feature, row, s, at in _asked_of(batch, words):
            gold = labels[s, at]
            rows.append({
                "feature_id": feature, "row_id": row, "words": words[s, at].tolist(),
                "predicted": [names[n] for n in best[s, at]],
                "gold": [names[n] for n in gold] if (gold >= 0).all() else None,
            })  # fmt: skip
        return EvalPart({f"{TERM}.sum": float(total.detach()), f"{TERM}.weight": batch.weights[TERM]}, rows)

    def metrics(self, part: EvalPart) -> dict[str, float]:
        """Of entities seqeval's figures, of raw tags accuracy and f1_macro; loss: nats a label; rows: texts. Windows of a text are put
        together again; a word of which the tokenizer makes nothing is outside of all entities."""
        texts = _whole(part.rows)
        gold, predicted = (
            [self._filled(rows, which) for rows in texts if rows[0]["gold"] is not None]
            for which in ("gold", "predicted")
        )
        found = {**self._figures(gold, predicted), "loss": mean_loss(part), "rows": float(len(texts))}
        return {name: found[name] for name in self.metric_names}

    def _figures(self, gold: list[list[str]], predicted: list[list[str]]) -> dict[str, float]:
        if self.scheme == "raw":
            return tag_figures(gold, predicted)
        return entity_figures(gold, predicted, self.types, self.scheme, strict=self.strict)

    def _filled(self, rows: Sequence[dict[str, Any]], which: str) -> list[str]:
        """Tags of the words of a text, from the first to the last one that has a token. rows: of its windows, or of some that follow each other."""
        known = {word: tag for row in rows for word, tag in zip(row["words"], row[which], strict=True)}
        return [known.get(word, self.labels.names[self.outside]) for word in range(min(known), max(known) + 1)]

    # -- answers ---------------------------------------------------------------------------------------------------

    def decode(self, outputs: Mapping[str, np.ndarray], batch: Batch) -> list[dict[str, Any]]:
        """Of each window, the words that are its own: number, characters, label and how likely it is."""
        words, answers = np.asarray(batch.targets["words"]), []
        for _, row, s, at in _asked_of(batch, words):
            logits = outputs["logits"][s, at].astype(np.float64)
            shares = np.exp(logits - logits.max(-1, keepdims=True))
            shares /= shares.sum(-1, keepdims=True)
            answers.append({
                "row_id": row, "words": words[s, at].tolist(), "labels": shares.argmax(-1).tolist(),
                "scores": shares.max(-1).tolist(),
            })  # fmt: skip
        return answers

    def combine(self, answers: Sequence[dict[str, Any]], row: Row) -> dict[str, Any]:
        """entities: label, text, start and end (characters; of a list of words, of them with a space between any two), score (the mean of
        its words' probabilities); of raw tags `words` of the same form. tags: of all words."""
        text, spans = words_of(row)
        tags = [self.labels.names[self.outside]] * len(spans)
        scores = [1.0] * len(spans)
        for answer in answers:
            for word, label, score in zip(answer["words"], answer["labels"], answer["scores"], strict=True):
                tags[word], scores[word] = self.labels.names[label], score
        raw = self.scheme == "raw"
        found = (
            [(tag, n, n + 1) for n, tag in enumerate(tags)] if raw else entities(tags, self.scheme, strict=self.strict)
        )
        told = []
        for label, first, stop in found:
            start, end = spans[first][0], spans[stop - 1][1]
            score = sum(scores[first:stop]) / (stop - first)
            told.append({"label": label, "text": text[start:end], "start": start, "end": end, "score": score})
        return {"row_id": answers[0]["row_id"], "words" if raw else "entities": told, "tags": tags}

    def prediction(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """words: the numbers of the first to the last one that has a token; predicted, gold: their tags, gold None where there are none."""
        first = min(row["words"][0] for row in rows)
        predicted = self._filled(rows, "predicted")
        gold = self._filled(rows, "gold") if rows[0]["gold"] is not None else None
        return {"words": list(range(first, first + len(predicted))), "predicted": predicted, "gold": gold}

    def state(self) -> dict[str, Any]:
        """labels, values, integers (see `Labels`), scheme, subtokens, strict."""
        return self._state


def _asked_of(batch: Batch, words: np.ndarray) -> Iterator[tuple[int, int, int, np.ndarray]]:
    """(feature id, row id, sequence, positions that are asked) of each feature, in order; filler left out."""
    segments = batch.inputs.get("segment_ids")
    if segments is None:
        segments = (words >= 0).astype(np.int64)
    elif hasattr(segments, "cpu"):
        segments = segments.cpu().numpy()
    for s, (features, rows) in enumerate(zip(batch.feature_ids, batch.row_of, strict=True)):
        for k, (feature, row) in enumerate(zip(features.tolist(), rows.tolist(), strict=True)):
            if feature >= 0:
                yield feature, row, s, np.flatnonzero((segments[s] == k + 1) & (words[s] >= 0))


def _whole(rows: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Evaluation rows by text. Windows of a text follow each other, and so do their words: what begins anew is another text, also where
    rows of several sources, or of a sample, have one number."""
    texts: list[list[dict[str, Any]]] = []
    for row in rows:
        last = texts[-1][-1] if texts else None
        if last is not None and last["row_id"] == row["row_id"] and row["words"][0] > last["words"][-1]:
            texts[-1].append(row)
        else:
            texts.append([row])
    return texts
