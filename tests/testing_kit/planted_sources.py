"""Faults in models, processors, data sets and adapters."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from planted_tasks import Planted

from spcore.interfaces.dataset import Column, Schema
from spcore.interfaces.model import Anatomy
from spcore.testing import check_adapter, check_dataset, check_model, check_processor
from spcore.testing.fakes import FakeAdapter, FakeDataset, FakeLanguageModel, FakeModel, FakeProcessor, FakeSource
from spcore.testing.options import FakeDatasetOptions, FakeModelOptions

FAULTS: list[Planted] = []


def model(check: str, what: str, /, **members: Any) -> None:
    """Plant members into the language model that the fake opens."""

    class Faulty(FakeModel):
        def open(self, source: str) -> Any:
            opened = super().open(source)
            opened.__class__ = type("FaultyModel", (FakeLanguageModel,), members)
            return opened

    options = FakeModelOptions(pretrained=True)  # type: ignore[call-arg]
    FAULTS.append((check, what, lambda: check_model(Faulty(options), source="fake")))


def plant(check: str, what: str, run: Callable[[Any], Any], base: type, /, **members: Any) -> None:
    """Plant members into a fake."""
    FAULTS.append((check, what, lambda: run(type("Faulty", (base,), members)())))


def source(check: str, what: str, style: str = "map", /, **members: Any) -> None:
    """Plant members into what the fake data set opens."""

    class Faulty(FakeDataset):
        def open(self, split: str | None) -> Any:
            opened = super().open(split)
            opened.__class__ = type("FaultySource", (FakeSource,), members)
            return opened

    options = FakeDatasetOptions(style=style)  # type: ignore[call-arg, arg-type]
    FAULTS.append((check, what, lambda: check_dataset(Faulty(options))))


def with_storage(self: Any, head: Any, dtype: str = "float32", device: str = "meta") -> Any:
    return FakeLanguageModel.build(self, head, dtype, "cpu")


def wrong_path(self: Any, head: Any) -> Anatomy:
    return replace(FakeLanguageModel.anatomy(self, head), layers="blocks")


def untied(self: Any, head: Any) -> Anatomy:
    return replace(FakeLanguageModel.anatomy(self, head), tied={"model.final.bias": "model.final.weight"})


def patched(change: Callable[[Any, dict[str, Any]], Any]) -> Callable[..., Any]:
    """A build whose module's forward is changed."""

    def build(self: Any, head: Any, dtype: str = "float32", device: str = "meta") -> Any:
        module = FakeLanguageModel.build(self, head, dtype, device)
        module.forward = lambda **inputs: change(type(module).forward.__get__(module), inputs)
        return module

    return build


def without_layers(self: Any, module: Any, head: Any, layers: range) -> None:
    FakeLanguageModel.stage(self, module, head, layers)
    module.layers = range(layers.start, layers.start)


def maskless(forward: Any, inputs: dict[str, Any]) -> Any:
    return forward(**{name: value for name, value in inputs.items() if name != "attention_mask"})


def segmentless(forward: Any, inputs: dict[str, Any]) -> Any:
    return forward(**{name: value for name, value in inputs.items() if name != "segment_ids"})


def misnamed(forward: Any, inputs: dict[str, Any]) -> Any:
    return {f"{name}_x": value for name, value in forward(**inputs).items()}


def twice(self: Any) -> Any:
    yield from FakeLanguageModel.weights(self)
    yield from FakeLanguageModel.weights(self)


def nothing_saved(self: Any, folder: Any, head: Any) -> None:
    FakeLanguageModel.save_config(replace_config(self), folder, head)


def replace_config(model: Any) -> Any:
    return FakeLanguageModel(replace(model.config, num_hidden_layers=1))


plant(
    "model.contract",
    "an open that takes nothing",
    lambda part: check_model(part, source="fake"),
    FakeModel,
    open=lambda self: None,
)
plant(
    "model.opens",
    "opens nothing",
    lambda part: check_model(part, source="fake"),
    FakeModel,
    open=lambda self, source: object(),
)
model("model.builds", "storage on the meta device", build=with_storage)
model("model.builds", "a path that is not there", anatomy=wrong_path)
model("model.builds", "a tie that is none", anatomy=untied)
model("model.forward", "outputs under other names", build=patched(misnamed))
model("model.padding", "a mask that is not read", build=patched(maskless))
model("model.packs", "segments that are not read", build=patched(segmentless))
model("model.stages", "a stage that leaves its layers out", stage=without_layers)
model("model.weights", "weights twice", weights=twice)
model("model.saves", "another configuration saved", save_config=nothing_saved)


def processor(check: str, what: str, /, **members: Any) -> None:
    plant(check, what, check_processor, FakeProcessor, **members)


def uncut(self: Any, text: str, pair: str | None = None, *, max_length: int | None = None, special: bool = True) -> Any:
    return FakeProcessor.encode(self, text, pair, special=special)


def random_ids(
    self: Any, text: str, pair: str | None = None, *, max_length: int | None = None, special: bool = True
) -> Any:
    made = FakeProcessor.encode(self, text, pair, max_length=max_length, special=special)
    made.arrays["input_ids"][:] = [random.randrange(8, 64) for _ in made.arrays["input_ids"]]
    return made


def shifted(
    self: Any, text: str, pair: str | None = None, *, max_length: int | None = None, special: bool = True
) -> Any:
    made = FakeProcessor.encode(self, text, pair, max_length=max_length, special=special)
    return replace(made, offsets=made.offsets + 1000)


def marked(
    self: Any, text: str, pair: str | None = None, *, max_length: int | None = None, special: bool = True
) -> Any:
    return FakeProcessor.encode(self, text, pair, max_length=max_length)


processor("processor.encodes", "texts that are not cut", encode=uncut)
processor("processor.encodes", "ids drawn by lot", encode=random_ids)
processor("processor.offsets", "characters past the end", encode=shifted)
processor("processor.special", "special tokens that were not asked for", encode=marked)


def forwards(self: Any, ids: Any) -> Any:
    return FakeSource.read(self, sorted(ids))


def numpy_labels(self: Any, ids: Any) -> Any:
    return [{**row, "label": np.int64(row["label"])} for row in FakeSource.read(self, ids)]


def unknown_labels(self: Any, ids: Any) -> Any:
    return [{**row, "label": 7} for row in FakeSource.read(self, ids)]


def unsharded(self: Any, shard: int, shards: int, skip: int) -> Any:
    return FakeSource.stream(self, 0, 1, skip)


def unskipped(self: Any, shard: int, shards: int, skip: int) -> Any:
    return FakeSource.stream(self, shard, shards, 0)


def any_split(self: Any, split: str | None) -> Any:
    return FakeDataset.open(self, None)


def broken_split(self: Any, split: str | None) -> Any:
    if split is not None:
        raise KeyError(split)
    return FakeDataset.open(self, None)


changing = property(lambda self: str(random.random()), lambda *_: None)
odd_schema = property(lambda self: Schema({"text": Column("prose")}), lambda *_: None)

plant("dataset.contract", "no open", check_dataset, FakeDataset, open=None)
plant("dataset.unknown-split", "any split opens", check_dataset, FakeDataset, open=any_split)
plant("dataset.unknown-split", "an error of its own", check_dataset, FakeDataset, open=broken_split)
source("dataset.opens", "a kind nobody knows", schema=odd_schema)
source("dataset.fingerprint", "a fingerprint that changes", fingerprint=changing)
source("dataset.read", "rows in their own order", read=forwards)
source("dataset.read", "values of numpy", read=numpy_labels)
source("dataset.labels", "labels nobody declared", read=unknown_labels)
source("dataset.stream", "shards that are all rows", "stream", stream=unsharded)
source("dataset.stream", "a skip that skips nothing", "stream", stream=unskipped)


def unfrozen(self: Any, module: Any, anatomy: Any) -> None:
    FakeAdapter.inject(self, module, anatomy)
    module.requires_grad_(True)


def disturbing(self: Any, module: Any, anatomy: Any) -> None:
    FakeAdapter.inject(self, module, anatomy)
    for name, parameter in module.named_parameters():
        if name.endswith(".up"):
            parameter.data.fill_(1.0)


plant("adapter.contract", "a spec that is a dict", check_adapter, FakeAdapter, spec=lambda self: {"rank": 2})
plant("adapter.injects", "nothing frozen", check_adapter, FakeAdapter, inject=unfrozen)
plant("adapter.injects", "another model from the start", check_adapter, FakeAdapter, inject=disturbing)
plant("adapter.saves", "nothing merged", check_adapter, FakeAdapter, merge=lambda self, model, folder: model.weights())
