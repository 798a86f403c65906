"""Small honest parts for the core's tests: a data set of rows in memory, a task of words, components with options."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from spcore.components import Component, Registry
from spcore.errors import DataError
from spcore.features import FeatureStore
from spcore.interfaces.dataset import Column, Dataset, Row, Schema, Source
from spcore.interfaces.model import Head
from spcore.interfaces.strategy import Place
from spcore.interfaces.task import Batch, BoundTask, EvalPart, Feature
from spcore.loading import Cut, StepData
from spcore.streaming import Feed, StreamLoader


class ModelOptions(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    source: str = Field(description="where from")


class FilesOptions(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    source: str | list[str] = Field(description="files")
    delimiter: str = Field(",", description="between columns")


class Named(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    name: Literal["sst2", "mrpc"] = Field("sst2", description="which")


class Nested(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    beta: float = Field(0.9, ge=0, lt=1, description="decay")


class AdamOptions(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    lr: float = Field(2e-5, gt=0, description="per step")
    moment: Nested | None = Field(None, description="of the first moment")


class SgdOptions(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    lr: float = Field(0.1, gt=0, description="per step")
    momentum: float = Field(0.0, ge=0, description="0: none")


def fake(kind: str, name: str, options: str | None = None, **more: Any) -> Component:
    """A component whose target is never imported."""
    return Component(kind, name, "core_fakes:Nowhere", f"a fake {kind}", options and f"core_fakes:{options}", **more)


def registry() -> Registry:
    """One small part of each kind that a recipe needs, and what its defaults name."""
    made = Registry(entry_points=False)
    for component in (
        fake("model", "hub", "ModelOptions", schemes=("hf",), default=True), fake("model", "gguf", "ModelOptions", schemes=("gguf",)),
        fake("task", "text-classification"), fake("dataset", "files", "FilesOptions", default=True), fake("dataset", "glue", "Named"),
        fake("strategy", "single", default=True), fake("strategy", "ddp"), fake("precision", "fp32", default=True), fake("precision", "bf16"),
        fake("optimizer", "adamw", "AdamOptions", aliases=("adam",), default=True), fake("optimizer", "sgd", "SgdOptions"),
        fake("schedule", "linear", default=True), fake("launcher", "inline", default=True),
        fake("logger", "progress", default=True), fake("logger", "jsonl", default=True),
    ):  # fmt: skip
        made.add(component, object)
    return made


class ListSource(Source):
    """Rows in memory. streamed: without a length."""

    def __init__(
        self, rows: Sequence[Row], schema: Schema, *, streamed: bool = False, fingerprint: str = "rows"
    ) -> None:
        self.rows, self.schema, self.fingerprint = list(rows), schema, fingerprint
        self.length = None if streamed else len(self.rows)

    def read(self, ids: Sequence[int]) -> list[Row]:
        return [self.rows[i] for i in ids]

    def stream(self, shard: int, shards: int, skip: int) -> Iterator[Row]:
        yield from self.rows[shard::shards][skip:]


class ListDataset(Dataset):
    """Splits in memory."""

    def __init__(self, **splits: ListSource) -> None:
        self.splits = splits

    def open(self, split: str | None) -> Source:
        return self.splits[split or "train"]


def source(count: int, **more: Any) -> ListSource:
    """`count` rows of a text and a label that are told apart by their number."""
    rows = [{"sentence": f"row {i}", "label": ("neg", "pos")[i * 2 // count]} for i in range(count)]
    half = {"neg": -(-count // 2), "pos": count // 2}
    columns = {"sentence": Column("text"), "label": Column("text", ("neg", "pos"), half)}
    return ListSource(rows, Schema(columns), **more)


class WordTask(BoundTask):
    """A feature for each part of a text between slashes; a token a word. A text without words is refused.

    `augment` records its random draw in the arrays, so that tests see which generator was used.
    """

    head = Head("sequence", 2, {"logits": ("sequence", "label")})
    terms = ("loss",)

    def __init__(self, most: int = 10**6) -> None:
        self.most, self.calls = most, 0

    def featurize(self, row: Row) -> list[Feature]:
        self.calls += 1
        if not str(row["text"]).split():
            raise DataError("empty text")
        made = []
        for part in str(row["text"]).split("/"):
            ids = np.array([len(word) for word in part.split()], np.int64)
            arrays = {"input_ids": ids[: self.most]}
            if "label" in row:
                arrays["label"] = np.array(row["label"], np.int64)
            made.append(Feature(0, 0, arrays, len(arrays["input_ids"]), truncated=max(0, len(ids) - self.most)))
        return made

    def augment(self, feature: Feature, rng: np.random.Generator) -> Feature:
        return replace(feature, arrays={**feature.arrays, "noise": np.full(feature.length, rng.integers(1, 2**31))})

    def collate(self, groups: Sequence[Sequence[Feature]], length: int) -> Batch:
        segments = max(len(group) for group in groups)
        inputs = {name: np.zeros((len(groups), length), np.int64) for name in ("input_ids", "segment_ids", "noise")}
        numbers = np.full((2, len(groups), segments), -1, np.int64)
        for s, group in enumerate(groups):
            at = 0
            for n, feature in enumerate(group):
                span = slice(at, at + feature.length)
                assert len(feature.arrays["input_ids"]) == feature.length, "arrays are as long as the feature says"
                inputs["input_ids"][s, span] = feature.arrays["input_ids"]
                inputs["segment_ids"][s, span] = n + 1
                inputs["noise"][s, span] = feature.arrays.get("noise", 0)
                numbers[:, s, n] = feature.row_id, feature.id
                at += feature.length
            assert at <= length, "a group fits the length it is given"
        real = sum(not feature.filler for group in groups for feature in group)
        return Batch(inputs, {}, numbers[0], numbers[1], {"loss": float(real)})

    def loss(self, outputs: Any, batch: Batch, ops: Any) -> list[Any]:
        raise AssertionError("no engine here")

    def reduce(self, outputs: Any, batch: Batch, ops: Any) -> EvalPart:
        raise AssertionError("no engine here")

    def metrics(self, part: EvalPart) -> dict[str, float]:
        raise AssertionError("no engine here")

    def decode(self, outputs: Any, batch: Batch) -> list[dict[str, Any]]:
        raise AssertionError("no runtime here")

    def state(self) -> dict[str, Any]:
        return {}


def store_of(lengths: Sequence[int]) -> FeatureStore:
    """A store of features of these lengths, a row each; the ids are the feature's number."""
    return FeatureStore.of(Feature(i, i, {"input_ids": np.full(n, i, np.int64)}, int(n)) for i, n in enumerate(lengths))


def stream_of(feed: Feed, *, rank: int = 0, size: int = 1, batch: int = 4, **more: Any) -> StreamLoader:
    """A loader of a feed's steps for a rank."""
    place = Place(rank=rank, world_size=size, data_rank=rank, data_size=size)
    sizes: dict[str, Any] = {"seed": 0, "pack": None, **more}
    return StreamLoader(feed, WordTask(), place=place, how=Cut(None, 32, size), global_batch_size=batch, **sizes)


def seen(step: StepData) -> tuple[Any, ...]:
    """Everything of a step that an engine or a person gets."""
    arrays = [{k: v.tolist() for k, v in b.inputs.items()} for b in step.microbatches]
    ids = [b.feature_ids.tolist() for b in step.microbatches]
    return arrays, ids, step.feature_ids, step.row_ids, step.epoch, step.tokens, step.positions


def ids_in(batch: Batch) -> list[int]:
    """Ids of a batch's features, filler left out, in the order in which they lie there."""
    return [int(i) for i in batch.feature_ids.ravel() if i >= 0]
