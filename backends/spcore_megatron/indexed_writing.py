"""A recipe's training data, tokenised, as one of Megatron's indexed data sets: what the command `megatron index` writes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spcore.components import Registry
from spcore.errors import DataError, OutputError, RefusalError, SourceError
from spcore.features import FeatureStore, fingerprint
from spcore.featurizing import featurize
from spcore.files import disk_errors, staged, sync_folder, sync_tree
from spcore.interfaces.task import BoundTask, Limits
from spcore.recipe import Recipe, load_recipe
from spcore.rows import RoleSource
from spcore.session import assemble
from spcore_megatron.indexed_files import INDEX, TOKENS, DType, IndexedDatasetBuilder

TASK = "causal-lm"
_WHOLE = 2**31 - 1
"""Tokens of a window that holds any document: lengths in the index are of 32 bits."""


def write_index(
    recipe: str | Path, prefix: Path, registry: Registry, *, overrides: Sequence[str] = (), overwrite: bool = False
) -> dict[str, Any]:
    """Write PREFIX.bin and PREFIX.idx of the data that a recipe trains on: a sequence a document, special tokens round it as the task puts
    them. Returns the counts, as JSON. Raises UserError for what cannot be written so, OutputError."""
    prefix = prefix.with_suffix("") if prefix.suffix in (INDEX, TOKENS) else prefix
    there = [path for path in _files(prefix) if path.exists()]
    if there and not overwrite:
        raise OutputError(f"{there[0]} is there already", hint="Give another output, or --overwrite")
    resolved = load_recipe(recipe, list(overrides), registry=registry)
    source, task = _opened(resolved, registry)
    key = fingerprint(source.fingerprint, task.state(), task.processor.fingerprint, "whole documents")  # type: ignore[attr-defined]
    store = featurize(source, task, limit=None, key=key)
    if not len(store):
        raise DataError(f"no usable row: {'; '.join(store.counts.remarks()) or 'the data has no rows'}")
    dtype = DType.optimal_dtype(task.processor.vocabulary_size)  # type: ignore[attr-defined]
    tokens = _written(store, prefix, dtype)
    counts = store.counts.to_json()
    return {
        "output": str(prefix), "documents": len(store), "tokens": tokens, "dtype": np.dtype(dtype).name, "rows_read": counts["rows_read"],
        "dropped": counts["dropped"], "dropped_by_reader": counts["dropped_by_reader"],
    }  # fmt: skip


def _files(prefix: Path) -> tuple[Path, Path]:
    return prefix.with_name(prefix.name + TOKENS), prefix.with_name(prefix.name + INDEX)


def _opened(recipe: Recipe, registry: Registry) -> tuple[RoleSource, BoundTask]:
    """The rows, and the recipe's task bound so that a document is one feature."""
    session = assemble(recipe, registry)
    part = session.recipe.task
    assert part is not None, "a session has settled its task"
    if part.use != TASK:
        raise RefusalError(f"task {part.use!r}: an indexed data set holds documents of tokens, as {TASK} makes them")
    if not isinstance(session.train, RoleSource):
        raise RefusalError("data.sources: write one indexed data set for each source, and mix those")
    if session.train.length is None:
        raise SourceError("data: a stream has no end; name files, or leave `streaming` out")
    options = registry.options_model("task", TASK)
    assert options is not None, "the task has options"
    whole = options.model_validate({**part.options, "look_ahead": False, "shift": False})
    model = session.plan.model
    task = registry.create("task", TASK, whole)
    return session.train, task.bind(model.processor, model.config, session.train.schema, Limits(_WHOLE))


def _written(store: FeatureStore, prefix: Path, dtype: Any) -> int:
    """Both files, whole or not there; how many tokens they hold. What was there by that name has lost its index before it is replaced."""
    tokens = 0
    with staged(prefix) as work, disk_errors(prefix):
        made = _files(work / prefix.name)
        builder = IndexedDatasetBuilder(str(made[0]), dtype=dtype)
        for n in range(len(store)):
            ids = torch.from_numpy(store[n].arrays["input_ids"].astype(np.int64))
            builder.add_item(ids)
            builder.end_document()
            tokens += len(ids)
        builder.finalize(str(made[1]))
        sync_tree(work)
        final = _files(prefix)
        final[1].unlink(missing_ok=True)
        for new, place in zip(made, final, strict=True):
            new.replace(place)
        sync_folder(prefix.parent)
    return tokens
