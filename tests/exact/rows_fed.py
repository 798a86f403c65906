"""Which rows an engine is really fed, step by step, written down by each rank of a run."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import spcore.trainer
from spcore.probing import _ids


@contextlib.contextmanager
def recorded(rank: int) -> Iterator[None]:
    """While it is open, what is fed to `train_step` goes to `fed-RANK.json` in the run's output: [data rank, [[step, features], ...]]."""
    trainer = spcore.trainer.Trainer
    fit, steps = trainer.fit, list[tuple[int, list[int]]]()

    def watched(self: spcore.trainer.Trainer) -> Any:
        step = self.engine.train_step

        def fed(microbatches: Any, *more: Any, **named: Any) -> Any:
            report = step(microbatches, *more, **named)
            steps.append((self.progress.step + 1, _ids(microbatches)))
            return report

        self.engine.train_step = fed  # type: ignore[method-assign]
        try:
            return fit(self)
        finally:
            assert self.output is not None
            content = [self.engine.place.data_rank, steps]
            (self.output / f"fed-{rank}.json").write_text(json.dumps(content))

    trainer.fit = watched  # type: ignore[method-assign]
    try:
        yield
    finally:
        trainer.fit = fit  # type: ignore[method-assign]


def fed(output: Path, processes: int) -> dict[int, Counter[int]]:
    """The features of each step, over all ranks; those that share a part of the data are fed the same, and count once."""
    parts: dict[int, list[tuple[int, list[int]]]] = {}
    for rank in range(processes):
        data_rank, steps = json.loads((output / f"fed-{rank}.json").read_text())
        assert parts.setdefault(data_rank, steps) == steps, f"rank {rank} was fed other rows than its peers"
    found: dict[int, Counter[int]] = {}
    for steps in parts.values():
        for number, ids in steps:
            found.setdefault(number, Counter()).update(ids)
    return found
