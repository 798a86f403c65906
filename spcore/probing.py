"""One rank of a run that `spcore.parity` compares: trains as any run does, and puts what it computed into a folder.

The folder, written by the writer alone: `initial/`, `gradients/` and `final/`, safetensors by Hugging Face name of the weights before the
first step, the first step's gradients and the weights after the last; `fed.json`, the features that each rank was fed. Losses, norms and
figures are in the events.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from spcore.files import put_text
from spcore.interfaces.launcher import Probe, RunResult
from spcore.interfaces.strategy import Engine, Gradients
from spcore.interfaces.task import Batch
from spcore.loading import FILLER, Group, TrainLoader, cut

if TYPE_CHECKING:
    import torch

    from spcore.trainer import Trainer

INITIAL, GRADIENTS, FINAL, FED = "initial", "gradients", "final", "fed.json"
MASKS, AGAIN = "masks", "again"


def probed(trainer: Trainer, probe: Probe) -> RunResult:
    """Carry out a run, called by `spcore.session.run_rank` on every rank. The probe's folder is there."""
    engine, folder = trainer.engine, Path(probe.folder)
    assert isinstance(engine, Gradients), f"{type(engine).__name__} gives no gradients: one with `options_for` does"
    trainer.annotate()
    if probe.what == "masks":
        _masks(trainer, engine, folder)
        return RunResult(0, {}, "")
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


def _masks(trainer: Trainer, engine: Engine, folder: Path) -> None:
    """Gradients of the same microbatches with dropout on, each time fed to one data rank and filler to the others, from the same state
    of all generators: `masks/0`, `masks/1`, ...; and to the first once more, from where its generator stands then: `masks/again`."""
    assert isinstance(engine, Gradients), "the caller looked"
    state, found = folder / "state", folder / MASKS
    if engine.place.is_writer:
        state.mkdir()
        found.mkdir()
    engine.agree(0)  # the folders are there before any rank writes
    engine.save(state).wait()
    engine.agree(0)
    for rank in reversed(range(engine.place.data_size)):
        engine.load(state)
        _keep(engine.gradients(_fed_to(trainer, rank)), found / str(rank), engine)
    _keep(engine.gradients(_fed_to(trainer, 0)), found / AGAIN, engine)


def _fed_to(trainer: Trainer, rank: int) -> list[Batch]:
    """This rank's microbatches of a step that one data rank has to itself."""
    loader, place = trainer.loader, trainer.engine.place
    assert isinstance(loader, TrainLoader), "`parity` refuses streams"
    groups = loader.groups(0)[: loader.how.micro_batch_size or 4]
    sizes = [loader.collator.size(group) for group in groups]
    (own,) = cut(groups, sizes, replace(loader.how, data_size=1))
    filler: list[list[Group]] = [[(FILLER,)] * len(piece) for piece in own]
    step = [own if n == rank else filler for n in range(place.data_size)]
    spans = loader.collator.spans(step)[place.data_rank]
    return [loader.collator.batch(piece, span, 0) for piece, span in zip(step[place.data_rank], spans, strict=True)]


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
    return [Counter(i for ids in step for i in ids) for step in itertools.zip_longest(*every, fillvalue=[])]
