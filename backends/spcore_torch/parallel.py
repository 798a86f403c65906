"""Strategy `parallel`: the model itself divided over processes, beside data parallelism."""

from __future__ import annotations

from spcore.errors import RefusalError
from spcore.interfaces.strategy import BatchRule, Engine, Layout, ParallelStrategy, Place, Plan, Refusal
from spcore_torch.options import ParallelOptions
from spcore_torch.pipeline import PipelineEngine, pipeline_refusals, pipeline_rule
from spcore_torch.single import refusals


class Parallel(ParallelStrategy):
    """Axes from the outside in: data, pipeline."""

    def __init__(self, options: ParallelOptions) -> None:
        self.options = options

    def layout(self, world_size: int) -> Layout:
        """See `ParallelStrategy.layout`."""
        size = self.options.pipeline_parallel
        if world_size % size:
            raise RefusalError(f"strategy.pipeline_parallel {size}: {world_size} processes are no multiple of it")
        return Layout({"data": world_size // size, "pipeline": size})

    def check(self, plan: Plan) -> list[Refusal]:
        """See `ParallelStrategy.check`."""
        return [*refusals(plan), *pipeline_refusals(plan, self.options)]

    def batch_rule(self, plan: Plan) -> BatchRule:
        """See `ParallelStrategy.batch_rule`."""
        return pipeline_rule(plan)

    def engine(self, plan: Plan, place: Place) -> Engine:
        """See `ParallelStrategy.engine`."""
        return PipelineEngine(plan, place, self.options)
