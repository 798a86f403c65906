"""Kind `bridge`: what a backend must know of a family of models that the model does not say itself.

A bridge is a value, found by name: "WHAT.FAMILY", with the backend's word for what it needs ("tensor-parallel.bert"). A plugin adds a
family by adding a component; `spcore.session.assemble` lends engines the registry's bridges as `Plan.bridges`. The core reads none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol


class Bridges(Protocol):
    """Finds bridges."""

    def find(self, name: str) -> Any | None:
        """The bridge of that name, imported now, None where no plugin has one."""

    def names(self, prefix: str) -> list[str]:
        """Names, aliases too, that begin so."""


class NoBridges(Bridges):
    """None at all: for plans that are made by hand."""

    def find(self, name: str) -> None:
        """None."""

    def names(self, prefix: str) -> list[str]:
        """None."""
        return []


@dataclass(frozen=True)
class Cut:
    """How tensor parallelism cuts one module of a layer.

    how: "column": outputs are cut, every rank feeds the whole input; "row": inputs are cut, the ranks' products are summed and the bias is
        added once; "table": an embedding whose outputs are cut (a bias for each head); "gathered": as "column", and the outputs are put
        together at once, for what follows works on all of them.
    unit: what may not be cut through: "head" (of queries), "group" (a head of keys and values), "element".
    parts: blocks that lie side by side in the cut axis and are each cut (3 for a fused query, key and value).
    transposed: the weight is [in, out] (GPT-2's Conv1D), not torch's [out, in].
    """

    how: Literal["column", "row", "table", "gathered"]
    unit: Literal["head", "group", "element"] = "element"
    parts: int = 1
    transposed: bool = False


@dataclass(frozen=True)
class TensorPlan:
    """Bridge "tensor-parallel.FAMILY": how the layers of a family are cut over the axis "tensor", for families whose configuration has
    no `base_model_tp_plan`.

    modules: path below the backbone, "*" for any name between dots, -> cut. divided: path of a module -> its attributes that count what
    is cut, and are divided by the number of ranks. vocabulary: tensors at the root with a vocabulary's entries in their last axis, beside
    embeddings and output layer, which an engine finds by the model's anatomy.
    """

    modules: Mapping[str, Cut]
    divided: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    vocabulary: tuple[str, ...] = ()
    positions: bool = True
