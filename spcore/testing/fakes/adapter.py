"""A low-rank adapter on the mixing layers of `FakeLanguageModel`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import nn

from spcore.interfaces.adapter import Adapter, LowRankSpec
from spcore.interfaces.model import Anatomy, LanguageModel
from spcore.testing.options import FakeAdapterOptions

_FILE = "adapter.safetensors"


class FakeAdapter(Adapter):
    """Kind `adapter`: x W + x A B on every module whose path ends in "mix". B starts at 0."""

    def __init__(self, options: FakeAdapterOptions | None = None) -> None:
        self.options = options or FakeAdapterOptions.model_validate({})

    def spec(self) -> LowRankSpec:
        """The adapter as data."""
        return LowRankSpec(("mix",), self.options.rank, alpha=float(self.options.rank))

    def inject(self, module: nn.Module, anatomy: Anatomy) -> None:
        """Wrap the linear layers and freeze everything else below the backbone."""
        module.get_submodule(anatomy.base).requires_grad_(False)
        for path, linear in list(module.named_modules()):
            if path.rpartition(".")[2] == "mix" and isinstance(linear, nn.Linear):
                parent, _, name = path.rpartition(".")
                setattr(module.get_submodule(parent), name, _LowRank(linear, self.options.rank))

    def save(self, weights: Iterable[tuple[str, torch.Tensor]], folder: Path) -> None:
        """One safetensors file."""
        from safetensors.torch import save_file

        save_file({name: tensor.contiguous() for name, tensor in weights}, folder / _FILE)

    def load(self, folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
        """What `save` wrote."""
        from spcore.tensors.files import load_safetensors

        yield from load_safetensors(folder / _FILE)

    def merge(self, model: LanguageModel, folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
        """W + B A for every adapted layer."""
        added = dict(self.load(folder))
        for name, tensor in model.weights():
            path = name.removesuffix(".weight")
            if f"{path}.down" in added:
                tensor = tensor + added[f"{path}.up"] @ added[f"{path}.down"]
            yield name, tensor


class _LowRank(nn.Module):  # type: ignore[misc]
    """base(x) + x down' up'."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base
        device = base.weight.device
        self.down = nn.Parameter(torch.full((rank, base.in_features), 0.01, device=device))
        self.up = nn.Parameter(torch.zeros(base.out_features, rank, device=device))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: [..., in]."""
        return self.base(x) + x @ self.down.T @ self.up.T  # type: ignore[no-any-return]
