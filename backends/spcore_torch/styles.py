"""Parallel styles for `torch.distributed.tensor.parallel.parallelize_module`, over parameters that are plain tensors: each rank's pieces.

torch's own styles make DTensors of parameters, know `nn.Linear` and `nn.Embedding` alone, and cut evenly; on a CPU they would also lose the
kernels of `spcore_torch.kernels`, which take plain tensors, and pay for a DTensor's dispatch at every operation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor.parallel import ParallelStyle, parallelize_module

from spcore.interfaces.model import Anatomy
from spcore.tensors.pieces import Cutting
from spcore_torch import kernels
from spcore_torch.cutting import Cuts
from spcore_torch.shards import Join, Leave, Region, Split


def parallelise(module: nn.Module, mesh: DeviceMesh, cuts: Cuts, region: Region) -> None:
    """Make the modules whose tensors are cut work together. mesh: the axis "tensor"."""
    styles: dict[str, ParallelStyle] = {}
    for path, (how, cut) in cuts.modules.items():
        cutting = cuts.tensors.get(f"{path}.weight")
        if how == "vocabulary":
            found = module.get_submodule(path)
            styles[path] = Vocabulary(region, cuts.vocabulary(found.num_embeddings, region.size))
        elif how in _STYLES:
            styles[path] = _STYLES[how](
                region, cutting or cuts.vocabulary(module.get_submodule(path).out_features, region.size)
            )
            if isinstance(styles[path], Column):
                styles[path].whole = cut.unit != "element"
    parallelize_module(module, mesh, styles, src_data_rank=None)


class _Style(ParallelStyle):
    """One cut module. cutting: of its weight."""

    def __init__(self, region: Region, cutting: Cutting | None) -> None:
        super().__init__()
        self.region, self.cutting = region, cutting

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        module.forward = self.around(module, module.forward)
        return module

    def around(self, module: nn.Module, inner: Any) -> Any:
        """What stands as the module's `forward`."""
        raise NotImplementedError


class Column(_Style):
    """Outputs are cut. whole: the input has all positions: attention has entered what has not, see `divide_positions`."""

    apart = True
    whole = False

    def around(self, module: nn.Module, inner: Any) -> Any:
        """See `_Style.around`."""
        if hasattr(module, "nf"):  # a Conv1D's number of outputs, which shapes them
            module.nf = module.weight.shape[1]
        region, apart, whole, viewed = self.region, self.apart, self.whole, hasattr(module, "nf")

        def forward(x: torch.Tensor) -> torch.Tensor:
            entered = region.enter(x, whole=whole)
            y: torch.Tensor = inner(entered.contiguous() if viewed else entered)  # a Conv1D looks at it by `view`
            if apart:
                region.apart()
            return y

        return forward


class Gathered(Column):
    """Outputs are cut, and put together at once: what follows is computed alike on all ranks."""

    apart = False

    def joins(self) -> bool:
        """Whether outputs are put together."""
        return True

    def around(self, module: nn.Module, inner: Any) -> Any:
        """See `_Style.around`."""
        assert self.cutting is not None, "a weight that is cut"
        cut, region, width = super().around(module, inner), self.region, self.cutting.shape[self.cutting.axis]

        def forward(x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = cut(x)
            return Join.apply(y, region.group, y.dim() - 1, width) if self.joins() else y

        return forward


class Logits(Gathered):
    """The output layer; `VocabularyOps` takes its outputs as they are."""

    def joins(self) -> bool:
        """See `Gathered.joins`."""
        return self.region.generates


class Row(_Style):
    """Inputs are cut; products are summed over the ranks, then the bias is added, once."""

    splits = False

    def around(self, module: nn.Module, inner: Any) -> Any:
        """See `_Style.around`."""
        region, splits, transposed = self.region, self.splits, hasattr(module, "nf")

        def forward(x: torch.Tensor) -> torch.Tensor:
            if splits:
                x = Split.apply(x, region.group, x.dim() - 1)
            if isinstance(inner, kernels.Forward):
                y = inner(x, biased=False)
            else:
                y = F.linear(x, module.weight.t() if transposed else module.weight)
            y = region.leave(y)
            return y if module.bias is None else y + module.bias.to(y.dtype)

        return forward


class SplitRow(Row):
    """A `Row` that is fed whole inputs."""

    splits = True


class Vocabulary(_Style):
    """An embedding whose rows are cut; cutting: of the rows."""

    def around(self, module: nn.Module, inner: Any) -> Any:
        """See `_Style.around`."""
        assert self.cutting is not None, "rows that are cut"
        group, (first, end) = self.region.group, self.cutting.span(self.region.rank)
        if module.padding_idx is not None:
            module.padding_idx = module.padding_idx - first if first <= module.padding_idx < end else None

        def forward(ids: torch.Tensor) -> torch.Tensor:
            elsewhere = (ids < first) | (ids >= end)
            rows = inner((ids - first).masked_fill(elsewhere, 0)).masked_fill(elsewhere[..., None], 0)
            whole: torch.Tensor = Leave.apply(rows, group)
            return whole

        return forward


_STYLES: dict[str, type[_Style]] = {
    "column": Column, "row": Row, "gathered": Gathered, "split": SplitRow, "logits": Logits,
}  # fmt: skip


def divide_positions(module: nn.Module, anatomy: Anatomy, cuts: Cuts, region: Region) -> None:
    """Sequence parallelism: a rank has its part of the positions from a list's first layer's input to its last one's output; attention
    is fed all of them."""
    base = f"{anatomy.base}." if anatomy.base else ""
    for path in filter(None, (anatomy.layers, anatomy.encoder_layers)):
        layers: Any = module.get_submodule(f"{base}{path}")
        layers = [layer for layer in layers if next(layer.parameters(), None) is not None]  # a stage has some of them
        layers[0].register_forward_pre_hook(_Replaces(region.divide), with_kwargs=True)
        layers[-1].register_forward_hook(_Unites(region))
    for path in cuts.attentions():
        module.get_submodule(path).register_forward_pre_hook(_Replaces(region.enter), with_kwargs=True)


class _Replaces:
    """A hook that replaces the hidden states among what a module is called with."""

    def __init__(self, of: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.of = of

    def __call__(self, layer: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, Any]:
        """As hooks are called."""
        if args:
            return (self.of(args[0]), *args[1:]), named
        return args, {**named, "hidden_states": self.of(named["hidden_states"])}


class _Unites:
    """A hook on the last layer."""

    def __init__(self, region: Region) -> None:
        self.region = region

    def __call__(self, layer: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """As hooks are called."""
        if isinstance(output, torch.Tensor):
            return self.region.unite(output)
        return (self.region.unite(output[0]), *output[1:])
