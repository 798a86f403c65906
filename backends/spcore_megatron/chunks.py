"""What a process holds of a model: its chunks, one, or under a virtual pipeline several stages; the last one's ends in the task's head."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import torch
from megatron.core import parallel_state as ps
from torch import nn

from spcore.interfaces.model import Stages
from spcore.interfaces.strategy import Plan
from spcore_megatron import settings
from spcore_megatron.families import Family, family_of
from spcore_megatron.options import MegatronOptions
from spcore_megatron.zigzag import Zigzag


class Chunk(nn.Module):  # type: ignore[misc]
    """forward(inputs) -> hidden states [T, B, H] for the next stage; on the last {name: output} as the plan's head says.

    module: Megatron's, where its schedules look for what they need of a stage. head: Hugging Face's module cut down to what follows the
    layers, a final norm too, whole on every rank; None where Megatron's own vocabulary-parallel logits are the output. positions: of the
    context group, None for one process.
    """

    def __init__(self, module: nn.Module, head: nn.Module | None, name: str, positions: Zigzag | None) -> None:
        super().__init__()
        self.module, self.head, self._name, self._positions = module, head, name, positions

    @property
    def ends(self) -> bool:
        """Whether outputs come about here."""
        return bool(self.module.post_process)

    def forward(self, inputs: Mapping[str, torch.Tensor]) -> Any:
        """See the class. inputs: as in `Batch.inputs`, whole."""
        found = self.module(inputs)
        if not self.ends:
            return found
        if self.head is None:
            return {self._name: found}
        hidden = found if self._positions is None else self._positions.gather(found, 1)
        with _casting(hidden):
            outputs = self.head(states={"hidden": hidden}, **inputs)
        return {name: output.float() for name, output in outputs.items()}


def _casting(hidden: torch.Tensor) -> contextlib.AbstractContextManager[Any]:
    """As the engines on torch run a head in 16 bits: what it made float32 by itself meets its weights in their format."""
    if hidden.dtype == torch.float32:
        return contextlib.nullcontext()
    found: contextlib.AbstractContextManager[Any] = torch.autocast(
        hidden.device.type, hidden.dtype, cache_enabled=False
    )
    return found


def made(plan: Plan, options: MegatronOptions, device: torch.device) -> tuple[list[Chunk], Family, Any]:
    """This process's chunks on its device, without values, the family and Megatron's configuration."""
    family = family_of(plan.model.family, plan.bridges)
    config = family.config(plan.model.config, **settings.transformer(plan, options, device))
    vocabulary, tied = plan.head.kind == "vocabulary", family.ties(plan.model.anatomy(plan.head).tied)
    positions = Zigzag(ps.get_context_parallel_group()) if options.context_parallel > 1 else None
    chunks = []
    for number in range(options.virtual_pipeline):
        stage = number if options.virtual_pipeline > 1 else None
        first, last = (
            at(ignore_virtual=stage is None, vp_stage=stage)
            for at in (ps.is_pipeline_first_stage, ps.is_pipeline_last_stage)
        )
        module = family.build(
            config, plan.model.config, vocabulary=vocabulary, tied=tied, pre_process=first, post_process=last, vp_stage=stage,
            packs=plan.pack is not None,
        )  # fmt: skip
        head = _head(plan, device) if last and not vocabulary else None
        chunks.append(Chunk(module.to(device), head, next(iter(plan.head.outputs)), positions))
    return chunks, family, config


def _head(plan: Plan, device: torch.device) -> nn.Module:
    """Hugging Face's module with this head as a last stage without layers, see `Stages`."""
    assert isinstance(plan.model, Stages), "`check` refuses others"
    module, depth = plan.model.build(plan.head), plan.model.depth(plan.head)
    plan.model.stage(module, plan.head, range(depth, depth))
    return module.to_empty(device=device).to(settings.dtype_of(plan))
