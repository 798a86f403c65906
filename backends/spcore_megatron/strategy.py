"""Strategy `megatron`: megatron-core's tensor, sequence, pipeline, context, expert and data parallelism.

Ranks count through the axis "tensor" first, then "context", "data" and "pipeline", as Megatron's own launchers place them: what talks most
lies nearest. Experts are shared among processes of "data" and "context", so "expert" is no axis of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from spcore.errors import RefusalError
from spcore.interfaces.strategy import BatchRule, Engine, Layout, ParallelStrategy, Place, Plan, Refusal
from spcore_megatron.options import MegatronOptions

_AXES = {"tp": "tensor_parallel", "cp": "context_parallel", "pp": "pipeline_parallel"}


class Megatron(ParallelStrategy):
    """Any number of processes that the axes' sizes divide, each of its own: Megatron keeps its state for a whole process."""

    inline = False
    decodes = True

    def __init__(self, options: MegatronOptions) -> None:
        self.options = options

    def layout(self, world_size: int) -> Layout:
        """What the options say; "data" takes the processes that are left. Raises RefusalError where the sizes do not give their number."""
        options = self.options
        each = options.tensor_parallel * options.context_parallel * options.pipeline_parallel
        data = options.data_parallel or max(1, world_size // each)
        if data * each != world_size:
            sizes = [(name, getattr(options, name)) for name in _AXES.values()]
            said = " * ".join(f"strategy.{name} {size}" for name, size in sizes if size > 1) or "no axis"
            given = f"strategy.data_parallel {data} * " if options.data_parallel else ""
            raise RefusalError(
                f"{given}{said} does not give {world_size} processes; start {data * each} (launch.processes), or change the sizes"
            )
        return Layout(
            {
                "pipeline": options.pipeline_parallel,
                "data": data,
                "context": options.context_parallel,
                "tensor": options.tensor_parallel,
            }
        )

    def options_for(self, axes: Mapping[str, int]) -> Mapping[str, Any] | None:
        """See `ParallelStrategy.options_for`. Experts are shared by processes with rows of their own: "ep=2" is two of them. One process is left
        to another strategy, with which the layouts are compared."""
        if not axes or not axes.keys() <= {*_AXES, "dp", "ep"}:
            return None
        sizes: dict[str, Any] = {name: axes.get(axis, 1) for axis, name in _AXES.items()}
        experts = axes.get("ep", 1)
        return {**sizes, "data_parallel": axes.get("dp", 1) * experts, "expert_parallel": experts}

    def check(self, plan: Plan) -> list[Refusal]:
        """See `ParallelStrategy.check`."""
        from spcore_megatron.checks import refusals

        return refusals(plan, self.options)

    def batch_rule(self, plan: Plan) -> BatchRule:
        """Positions divide by what shares them: two pieces a process of the context axis, the first ones being the cheaper half of causal
        attention. Through a pipeline go microbatches of one shape; interleaved, as many at a time as it has processes."""
        options = self.options
        pieces = 2 * options.context_parallel if options.context_parallel > 1 else 1
        rows = options.tensor_parallel if options.sequence_parallel else 1
        staged = options.pipeline_parallel > 1
        together = options.expert_parallel > 1  # whose processes meet in every layer
        return BatchRule(
            "step" if staged or together else "none",
            math.lcm(pieces, rows * options.context_parallel),
            options.pipeline_parallel if options.virtual_pipeline > 1 else 1,
        )

    def engine(self, plan: Plan, place: Place) -> Engine:
        """See `ParallelStrategy.engine`."""
        from spcore_megatron.launching import engine

        return engine(plan, place, self.options)
