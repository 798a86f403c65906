"""A strategy under test, with plans and steps of the fake model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from spcore.interfaces.precision import PrecisionPolicy
from spcore.interfaces.strategy import BatchRule, Engine, Layout, ParallelStrategy, Place, Plan
from spcore.interfaces.task import Batch, BoundTask, Feature, Limits, Task
from spcore.loading import filler
from spcore.testing.fakes.data import fake_rows
from spcore.testing.synthetic import ROWS


class EngineCase:
    """runnable: set by `strategy.inline`."""

    runnable = False

    def __init__(self, strategy: ParallelStrategy) -> None:
        self.strategy = strategy

    def task(self, name: str = "fake-classification") -> BoundTask:
        """A fake task, bound."""
        from spcore.components import Registry
        from spcore.testing import plugin
        from spcore.testing.fakes.data import FakeSource
        from spcore.testing.fakes.language import FakeLanguageModel

        registry = Registry(entry_points=False)
        registry.register(plugin)
        task: Task = registry.create("task", name)
        model = FakeLanguageModel()
        return task.bind(model.processor, model.config, FakeSource(fake_rows(ROWS)).schema, Limits(max_length=32))

    def plan(self, name: str = "fake-classification") -> Plan:
        """float32, on the CPU, one process."""
        from spcore.testing.fakes.language import FakeLanguageModel
        from spcore.testing.fakes.training import FakeOptimizer

        task = self.task(name)
        return Plan(
            model=FakeLanguageModel(), head=task.head, task=task, precision=PrecisionPolicy("fp32"), optimizer=FakeOptimizer(),
            adapter=None, global_batch_size=ROWS, micro_batch_size=None, micro_batch_tokens=256, max_length=32, pack=None,
            clip_norm=1.0, seed=0, deterministic=False, nonfinite="stop", layout=Layout(), device="cpu",
            options=getattr(self.strategy, "options", None),
        )  # fmt: skip

    @contextlib.contextmanager
    def engine(self, plan: Plan | None = None) -> Iterator[Engine]:
        """An engine, closed afterwards."""
        made = self.strategy.engine(plan or self.plan(), Place())
        try:
            yield made
        finally:
            made.close()

    def features(self, task: BoundTask) -> list[Feature]:
        """Features of made-up rows, augmented."""
        made = [(n, f) for n, row in enumerate(fake_rows(ROWS)) for f in task.featurize(row)]
        numbered = [replace(f, id=i, row_id=n) for i, (n, f) in enumerate(made)]
        return [task.augment(f, np.random.default_rng(f.id)) for f in numbered]

    def step(self, plan: Plan, sizes: Sequence[int], *, fill: int = 0) -> list[Batch]:
        """All features in microbatches of these sizes, by the strategy's rule; the last is filled up."""
        rule = self.strategy.batch_rule(plan)
        features, batches, at = self.features(plan.task), list[list[Feature]](), 0
        for size in sizes:
            batches.append(features[at : at + size])
            at += size
        assert at == len(features), f"microbatches of {sizes} for {len(features)} features"
        batches[-1] += [filler(features[0])] * fill
        while len(batches) % rule.count_multiple:
            batches.append([filler(features[0])])
        longest = max(f.length for f in features)
        return [self._collate(plan.task, batch, longest, rule) for batch in batches]

    @staticmethod
    def _collate(task: BoundTask, features: list[Feature], longest: int, rule: BatchRule) -> Batch:
        length = longest if rule.equal_length == "step" else max(f.length for f in features)
        return task.collate([[f] for f in features], -(-length // rule.length_multiple) * rule.length_multiple)
