"""Weight maps as data: how an engine's own parameters correspond to Hugging Face names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class WeightRule:
    """One local parameter. sources: the Hugging Face names it is made of. join: axis on which several are joined (fused QKV, gate
    and up), None for one. axis: the axis on which tensor parallelism shards it, None: it is whole on every rank."""

    sources: tuple[str, ...]
    join: int | None = None
    axis: int | None = None

    def __post_init__(self) -> None:
        assert len(self.sources) == 1 or self.join is not None, (
            f"{self.sources}: several sources need an axis to be joined on"
        )


@dataclass(frozen=True)
class WeightMap:
    """local name -> rule. Serves loading, saving, gradients and tensor-parallel attributes alike."""

    rules: Mapping[str, WeightRule]

    def to_local(self, name: str, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The whole local tensor from Hugging Face tensors."""
        rule = self.rules[name]
        parts = [tensors[source] for source in rule.sources]
        return parts[0] if rule.join is None else torch.cat(parts, rule.join)

    def to_hub(self, name: str, tensor: torch.Tensor, sizes: Sequence[int] | None = None) -> dict[str, torch.Tensor]:
        """Hugging Face tensors of a whole local one. sizes: of the joined parts; equal ones if not given."""
        rule = self.rules[name]
        if rule.join is None:
            return {rule.sources[0]: tensor}
        cut = list(sizes) if sizes is not None else [tensor.shape[rule.join] // len(rule.sources)] * len(rule.sources)
        return dict(zip(rule.sources, tensor.split(cut, rule.join), strict=True))
