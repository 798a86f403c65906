"""One rank of a run that `spcore.parity` compares: trains as any run does, and puts what it computed into a folder.

The folder, written by the writer alone: `initial/`, `gradients/` and `final/`, safetensors by Hugging Face name of the weights before the
first step, the first step's gradients and the weights after the last; `fed.json`, see `Fed`. Losses, norms and figures are in the events.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from spcore.files import put_text
from spcore.interfaces.launcher import RunResult
from spcore.interfaces.strategy import Engine, Gradients
from spcore.interfaces.task import Batch

if TYPE_CHECKING:
    import torch

    from spcore.trainer import Trainer

INITIAL, GRADIENTS, FINAL, FED = "initial", "gradients", "final", "fed.json"


def probed(trainer: Trainer, folder: Path) -> RunResult:
    """Carry out a run, called by `spcore.session.run_rank` on every rank. folder: is there on the writer."""
    engine = trainer.engine
    assert isinstance(engine, Gradients), (
        f"{type(engine).__name__} gives no gradients: a strategy with `options_for` does"
    )
    trainer.annotate()
    _keep(engine.weights(), folder / INITIAL, engine)
    steps = trainer.loader.steps(0, trainer.total)
    first = next(steps)
    _keep(engine.gradients(first.microbatches), folder / GRADIENTS, engine)
    fed = engine.collect((engine.place.data_rank, [_ids(first.microbatches), *(_ids(s.microbatches) for s in steps)]))
    if fed is not None:
        put_text(folder / FED, json.dumps(fed))
    result = trainer.fit()
    _keep(engine.weights(), folder / FINAL, engine)
    return result


def _keep(tensors: Iterator[tuple[str, torch.Tensor]], folder: Path, engine: Engine) -> None:
    """Every rank drains, the writer writes."""
    from spcore.tensors.files import save_safetensors

    if engine.place.is_writer:
        folder.mkdir()
        save_safetensors(tensors, folder)
    else:
        for _ in tensors:
            pass


def _ids(microbatches: Iterable[Batch]) -> list[int]:
    """Features that microbatches hold, each once a microbatch; filler is none."""
    return [int(i) for batch in microbatches for i in dict.fromkeys(batch.feature_ids.ravel().tolist()) if i >= 0]


def fed_to(folder: Path) -> list[Counter[int]]:
    """The features that a probed run's ranks were fed, step by step. Ranks that share a part of the data were fed the same, else both
    count."""
    parts: dict[int, list[list[list[int]]]] = {}
    for rank, steps in json.loads((folder / FED).read_text(encoding="utf-8")):
        if steps not in parts.setdefault(rank, []):
            parts[rank].append(steps)
    every = [steps for different in parts.values() for steps in different]
    return [Counter(i for ids in step for i in ids) for step in zip(*every, strict=True)]
