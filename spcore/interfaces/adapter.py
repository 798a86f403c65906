"""Kind `adapter`: a few new parameters on a frozen model (LoRA; Hu et al., 2021). Engines that run Hugging Face modules
let it `inject`; those that do not (fused projections) read its `spec` as data.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

    from spcore.interfaces.model import Anatomy, LanguageModel


@dataclass(frozen=True)
class LowRankSpec:
    """targets: module names under Hugging Face names, matched at a path's end. rank, alpha, dropout: the paper's.
    base_bits: 4 or 8 for a quantised base, None for its own format."""

    targets: tuple[str, ...]
    rank: int
    alpha: float
    dropout: float = 0.0
    base_bits: Literal[4, 8] | None = None


class Adapter(ABC):
    """Owns its layout on disk (peft's)."""

    def spec(self) -> LowRankSpec | None:
        """The adapter as data, or None if it is not a low-rank one."""
        return None

    @abstractmethod
    def inject(self, module: torch.nn.Module, anatomy: Anatomy) -> None:
        """Put the new parameters into a built module in place and freeze the rest; called on meta, before sharding."""

    @abstractmethod
    def save(self, weights: Iterable[tuple[str, torch.Tensor]], folder: Path) -> None:
        """Write the adapter's folder from (name, tensor)."""

    @abstractmethod
    def load(self, folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
        """Stream what `save` wrote."""

    @abstractmethod
    def merge(self, model: LanguageModel, folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
        """The model's weights with the adapter in `folder` added in."""
