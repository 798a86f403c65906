"""Defaults for what most tasks on text share: encoding rows, collating them (packs too), and evaluation rows.

`TextTask` is a `BoundTask` that lacks only what makes a task: `head`, `terms` and `loss`; a row's labels come from `label`,
and `targets` says how a batch holds them. Everything else has a default that may be replaced one method at a time. A task of
another shape implements `BoundTask` itself and takes from here what fits. TEXT, TEXT_PAIR and LABEL are the roles of a task on
labelled texts. Nothing here imports torch.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from spcore.errors import DataError
from spcore.interfaces.dataset import Row
from spcore.interfaces.model import Processor
from spcore.interfaces.task import Batch, BoundTask, EvalPart, Feature, Limits, Ops, Role

if TYPE_CHECKING:
    import torch

Groups = Sequence[Sequence[Feature]]

_TEXT = (
    "text1", "text_a", "sentence1", "premise", "question1", "question", "sentence", "review", "review_text", "content", "body",
    "tweet", "comment", "comment_text", "message", "document", "headline", "title", "#1 string", "文本", "内容", "评论", "句子", "标题",
)  # fmt: skip
_PAIR = (
    "text2",
    "text_b",
    "sentence2",
    "hypothesis",
    "question2",
    "sentence",
    "passage",
    "#2 string",
    "文本2",
    "句子2",
)
_LABEL = (
    "labels", "class", "category", "target", "sentiment", "score", "stars", "rating", "gold", "gold_label", "intent", "topic",
    "emotion", "quality", "标签", "类别", "情感",
)  # fmt: skip
TEXT = Role("text", guesses=_TEXT)
TEXT_PAIR = Role("text_pair", required=False, guesses=_PAIR)
LABEL = Role("label", kind="label", target=True, guesses=_LABEL)


class TextTask(BoundTask):
    """A task whose rows have a `text` and perhaps a `text_pair`.

    token_targets: feature arrays with one value a token that are targets, and what fills them where there is none
        ({"labels": IGNORE}); they reach `Batch.targets` as [sequences, length].
    """

    token_targets: ClassVar[Mapping[str, int]] = {}

    def __init__(self, processor: Processor, limits: Limits) -> None:
        self.processor, self.limits = processor, limits

    # -- rows to features ------------------------------------------------------------------------------------------

    def label(self, row: Row) -> dict[str, Any]:
        """A row's arrays besides its tokens, of any shape; {} where it has no label (predictions). Raises DataError for a row
        that cannot be used: it is then dropped, counted and reported."""
        return {}

    def encode(self, row: Row) -> tuple[dict[str, np.ndarray], int]:
        """Token arrays of a row, [length] int64 each, and the tokens that did not fit. Raises DataError for a blank text."""
        pair = text_of(row, "text_pair") if "text_pair" in row else None
        encoding = self.processor.encode(text_of(row, "text"), pair, max_length=self.limits.max_length)
        if not len(encoding.arrays["input_ids"]):
            raise DataError("the text gives no token")
        return dict(encoding.arrays), encoding.truncated

    def encode_texts(self, texts: Sequence[tuple[str, str | None]]) -> tuple[dict[str, np.ndarray], int]:
        """Token arrays of several (text, pair) that make one feature, [sequences, length] each, with "attention_mask"."""
        found = [self.processor.encode(text, pair, max_length=self.limits.max_length) for text, pair in texts]
        length = max(len(e.arrays["input_ids"]) for e in found)
        arrays = {
            name: pad([e.arrays[name] for e in found], length, self.processor.fill.get(name, 0))
            for name in found[0].arrays
        }
        arrays["attention_mask"] = pad([np.ones_like(e.arrays["input_ids"]) for e in found], length, 0)
        return arrays, sum(e.truncated for e in found)

    def featurize(self, row: Row) -> list[Feature]:
        """One feature: `encode` and `label`."""
        arrays, truncated = self.encode(row)
        arrays.update({name: np.asarray(value) for name, value in self.label(row).items()})
        return [Feature(0, 0, arrays, arrays["input_ids"].shape[-1], truncated=truncated)]

    # -- features to batches ---------------------------------------------------------------------------------------

    def targets(self, features: Sequence[Feature]) -> dict[str, np.ndarray]:
        """Targets with one entry a feature, [features, ...]; see `stacked`. Filler and features without a label are among
        them. `collate` puts the entries where the outputs are: by sequence, in packs by segment."""
        return {}

    def weights(self, features: Sequence[Feature], targets: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Weight of each loss term in a batch. targets: as in the batch. Default: the number of features that `label` gave
        something for, of all features where the task has no `label`; filler left out."""
        real = [feature for feature in features if not feature.filler]
        if type(self).label is not TextTask.label:
            real = [f for f in real if f.arrays.keys() - self.processor.fill.keys() - {"attention_mask"}]
        return dict.fromkeys(self.terms, float(len(real)))

    def collate(self, groups: Groups, length: int) -> Batch:
        """See `BoundTask.collate`. Inputs: the arrays that the processor fills, with `attention_mask`, in packs with
        `segment_ids` and `position_ids` in its place. A feature of [sequences, length] gives that many sequences."""
        features = [feature for group in groups for feature in group]
        packs = self.limits.pack is not None or any(len(group) > 1 for group in groups)
        names = [name for name in features[0].arrays if name in self.processor.fill]
        inputs = {name: placed(groups, length, _reader(name), self.processor.fill[name]) for name in names}
        inputs.update(_pack_inputs(groups, length) if packs else {"attention_mask": placed(groups, length, _mask, 0)})
        order = _order(groups)
        targets = {name: np.asarray(values)[order] for name, values in self.targets(features).items()}
        for name, fill in self.token_targets.items():
            targets[name] = placed(groups, length, _reader(name, fill), fill)
        row_of, feature_ids = (_numbers(groups, what) for what in ("row_id", "id"))
        return Batch(inputs, targets, row_of, feature_ids, self.weights(features, targets))

    # -- outputs to figures and answers ----------------------------------------------------------------------------

    def values(self, outputs: Mapping[str, torch.Tensor], batch: Batch, ops: Ops) -> dict[str, Any]:
        """What an evaluation row holds, each [sequences, ...] or in packs [segments, ...]: tensors, arrays or lists. Default:
        every output with a value a sequence, and the targets that have one, under their own names."""
        found: dict[str, Any] = {name: _squeezed(ops.full(outputs, name)) for name in self._by_sequence()}
        return {**found, **{name: v for name, v in batch.targets.items() if name not in self.token_targets}}

    def reduce(self, outputs: Mapping[str, torch.Tensor], batch: Batch, ops: Ops) -> EvalPart:
        """Rows of `values`, one a feature; sums of the loss terms (coefficients in) and of their weights, for `mean_loss`."""
        sums = {f"{name}.weight": float(weight) for name, weight in batch.weights.items()}
        for term in self.loss(outputs, batch, ops):
            sums[f"{term.name}.sum"] = term.coefficient * float(term.sum.detach())
        return EvalPart(sums, _rows(self.values(outputs, batch, ops), batch, "feature_id", "row_id"))

    def metrics(self, part: EvalPart) -> dict[str, float]:
        """loss, and the number of rows."""
        return {"loss": mean_loss(part), "rows": float(len(part.rows))}

    def decode(self, outputs: Mapping[str, np.ndarray], batch: Batch) -> list[dict[str, Any]]:
        """Every output with a value a sequence, under its own name."""
        return _rows({name: _squeezed(outputs[name]) for name in self._by_sequence()}, batch, "row_id")

    def state(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def _by_sequence(self) -> list[str]:
        return [name for name, axes in self.head.outputs.items() if axes[0] == "sequence" and "position" not in axes]


def visible(text: str) -> bool:
    """Whether a text has anything but spaces, control characters and characters of no width."""
    return any(not c.isspace() and unicodedata.category(c) not in ("Cc", "Cf") for c in text)


def text_of(row: Row, role: str) -> str:
    """A row's text; a number is written out. Raises DataError for one that is missing, blank, or no text."""
    value = row.get(role)
    if value is None or (isinstance(value, float) and math.isnan(value)) or not visible(str(value)):
        raise DataError(f"blank {role}")
    if isinstance(value, list | dict):
        raise DataError(f"{role} is a {type(value).__name__}, not a text")
    return str(value)


def pad(rows: Sequence[np.ndarray], length: int, fill: float, dtype: Any = np.int64) -> np.ndarray:
    """[rows, length]: each row from the left, then `fill`."""
    padded = np.full((len(rows), length), fill, dtype)
    for line, row in zip(padded, rows, strict=True):
        line[: len(row)] = row
    return padded


def stacked(features: Sequence[Feature], name: str, fill: float, shape: tuple[int, ...] = ()) -> np.ndarray:
    """[features, *shape]: an array of each feature; `fill` for filler and where a feature lacks it. int64 for an int fill,
    else float32. shape: of one feature's array."""
    values = np.full((len(features), *shape), fill, np.int64 if isinstance(fill, int) else np.float32)
    for entry, feature in enumerate(features):
        if name in feature.arrays and not feature.filler:
            values[entry] = feature.arrays[name]
    return values


def labelled(features: Sequence[Feature], name: str) -> np.ndarray:
    """[features] float32: 1 where a feature has the array, 0 for filler and for the others."""
    return np.array([name in f.arrays and not f.filler for f in features], np.float32)


def placed(groups: Groups, length: int, read: Callable[[Feature], np.ndarray], fill: int) -> np.ndarray:
    """[sequences, length] int64: what `read` gives for each feature ([length] or [sequences, length]), the features of a pack
    end to end, then `fill`."""
    lines: list[np.ndarray] = []
    for group in groups:
        arrays = [read(feature) for feature in group]
        assert len({a.shape[:-1] for a in arrays}) == 1, "the features of a pack have one number of sequences"
        whole = arrays[0] if len(arrays) == 1 else np.concatenate(arrays, -1)
        lines.extend([whole] if whole.ndim == 1 else whole)
    return pad(lines, length, fill)


def places(batch: Batch) -> dict[int, tuple[int, list[int]]]:
    """feature id -> (row id, rows of the outputs with a value a sequence), in the batch's order; filler left out. In packs a
    row is a segment; a feature of several sequences has several rows."""
    found: dict[int, tuple[int, list[int]]] = {}
    at = 0
    for ids, rows, count in zip(batch.feature_ids, batch.row_of, _segment_counts(batch), strict=True):
        for k in range(count):
            if ids[k] >= 0:
                found.setdefault(int(ids[k]), (int(rows[k]), []))[1].append(at + k)
        at += count
    return found


def mean_loss(part: EvalPart) -> float:
    """The loss that training minimises, of the sums that `TextTask.reduce` gives: each term over its weight, coefficients in. A
    term whose weight is 0 counts 0."""
    total = 0.0
    for name, value in part.sums.items():
        term, dot, what = name.rpartition(".")
        if dot and what == "sum" and part.sums[f"{term}.weight"]:
            total += value / part.sums[f"{term}.weight"]
    return total


def _segment_counts(batch: Batch) -> list[int]:
    segments = batch.inputs.get("segment_ids")
    if segments is None:
        return [1] * len(batch.feature_ids)
    counts: list[int] = np.asarray(segments.cpu() if hasattr(segments, "cpu") else segments).max(-1).tolist()
    return counts


def _rows(values: Mapping[str, Any], batch: Batch, *keys: str) -> list[dict[str, Any]]:
    """One dict a feature, in plain Python values; for a feature of several sequences they are lists."""
    lists = {name: v.tolist() if hasattr(v, "tolist") else v for name, v in values.items()}
    made = []
    for feature_id, (row_id, rows) in places(batch).items():
        known = {"feature_id": feature_id, "row_id": row_id}
        own = {name: v[rows[0]] if len(rows) == 1 else [v[r] for r in rows] for name, v in lists.items()}
        made.append({**{key: known[key] for key in keys}, **own})
    return made


def _squeezed(values: Any) -> Any:
    """[rows, 1] -> [rows]: one number needs no list."""
    return values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values


def _reader(name: str, fill: int | None = None) -> Callable[[Feature], np.ndarray]:
    """Reads an array with a value a token; with `fill`, in place of what filler has and other features lack."""

    def read(feature: Feature) -> np.ndarray:
        if fill is not None and (feature.filler or name not in feature.arrays):
            return np.full(feature.arrays["input_ids"].shape, fill, np.int64)
        return feature.arrays[name]

    return read


def _mask(feature: Feature) -> np.ndarray:
    """1 for a token; 0 for what fills a feature's shorter sequences."""
    mask = feature.arrays.get("attention_mask")
    return np.ones(feature.arrays["input_ids"].shape, np.int64) if mask is None else mask


def _pack_inputs(groups: Groups, length: int) -> dict[str, np.ndarray]:
    numbers = {id(feature): k + 1 for group in groups for k, feature in enumerate(group)}
    return {
        "segment_ids": placed(groups, length, lambda f: _mask(f) * numbers[id(f)], 0),
        "position_ids": placed(groups, length, lambda f: _mask(f) * np.arange(f.arrays["input_ids"].shape[-1]), 0),
    }


def _sequences(feature: Feature) -> int:
    ids = feature.arrays["input_ids"]
    return len(ids) if ids.ndim == 2 else 1


def _order(groups: Groups) -> np.ndarray:
    """The feature, by its number, of each segment: sequence by sequence."""
    order: list[int] = []
    at = 0
    for group in groups:
        order += [*range(at, at + len(group))] * _sequences(group[0])
        at += len(group)
    return np.array(order, np.int64)


def _numbers(groups: Groups, what: str) -> np.ndarray:
    """[sequences, segments] int64: ids of the features, -1 = none."""
    most = max(len(group) for group in groups)
    lines = [
        np.array([getattr(f, what) for f in group], np.int64) for group in groups for _ in range(_sequences(group[0]))
    ]
    return pad(lines, most, -1)
