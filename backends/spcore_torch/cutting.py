"""Which tensors of a module tensor parallelism cuts, and how: from the family's own plan or its bridge, on modules without storage."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from spcore.errors import RefusalError, unknown
from spcore.interfaces.bridge import Cut, TensorPlan
from spcore.interfaces.model import Anatomy
from spcore.interfaces.strategy import Plan
from spcore.tensors.pieces import Cutting

BRIDGE = "tensor-parallel"
_DECLARED = {
    "colwise": "column", "rowwise": "row", "colwise_gather_output": "gathered", "rowwise_split_input": "split",
    "replicated_with_grad_allreduce": "partial", "embedding_rowwise": "vocabulary",
}  # fmt: skip
"""What families declare, and what it is called here."""
_ATTENTION = ("attn", "attention", "SelfAttention", "EncDecAttention")


@dataclass
class Cuts:
    """modules: path -> (what is done round it, cut). tensors: Hugging Face name -> cutting, tied ones under their owner's. partial: names
    of whole parameters whose gradients are parts on each rank. divided: path -> attributes and the value that they get. positions: whether
    ranks can hold parts of the positions between layers."""

    modules: dict[str, tuple[str, Cut]] = field(default_factory=dict)
    tensors: dict[str, Cutting] = field(default_factory=dict)
    partial: set[str] = field(default_factory=set)
    divided: dict[str, dict[str, int]] = field(default_factory=dict)
    positions: bool = True

    @staticmethod
    def vocabulary(size: int, ranks: int) -> Cutting:
        """How the entries of a vocabulary are dealt."""
        return Cutting((size,), 0, ranks)

    @classmethod
    def joined(cls, parts: Iterable[Cuts]) -> Cuts:
        """Of several modules that hold different layers of one model."""
        every = cls()
        for part in parts:
            every.modules.update(part.modules)
            every.tensors.update(part.tensors)
            every.partial.update(part.partial)
            every.divided.update(part.divided)
        return every

    def attentions(self) -> list[str]:
        """Paths of the modules that hold the cut layers which whole heads come out of."""
        holders = [
            path.rpartition(".")[0]
            for path, (how, cut) in self.modules.items()
            if how == "column" and cut.unit != "element"
        ]
        return list(dict.fromkeys(holders))


@dataclass(frozen=True)
class Heads:
    """Of queries, and of keys and values (groups), as the configuration says."""

    heads: int
    groups: int

    @classmethod
    def of(cls, config: Any) -> Heads | None:
        """None where it does not say."""
        heads = getattr(config, "num_attention_heads", None)
        if not isinstance(heads, int) or heads < 1:
            return None
        return cls(heads, getattr(config, "num_key_value_heads", None) or heads)


def declared(plan: Plan) -> TensorPlan | Mapping[str, str]:
    """The family's bridge, else what its configuration declares. Raises RefusalError where there is neither."""
    family = plan.model.family
    bridge = plan.bridges.find(f"{BRIDGE}.{family}")
    if bridge is not None:
        assert isinstance(bridge, TensorPlan), (
            f"bridge {BRIDGE}.{family}: a TensorPlan is wanted, it is a {type(bridge).__name__}"
        )
        return bridge
    own: Mapping[str, str] | None = getattr(plan.model.config, "base_model_tp_plan", None)
    if own:
        return own
    known = [name.partition(".")[2] for name in plan.bridges.names(f"{BRIDGE}.")]
    raise RefusalError(
        f"{unknown('family with a tensor-parallel plan', family, known)}, and those whose configuration has a base_model_tp_plan; "
        f"a plugin adds one as bridge '{BRIDGE}.{family}'"
    )


def cut(plan: Plan, module: nn.Module, ranks: int, *, sequence: bool) -> Cuts:
    """The cuts of a module that `plan.model.build` made, over so many ranks. sequence: ranks hold parts of the positions between layers.
    Raises RefusalError for what cannot be cut."""
    return _Cutter(plan, module, ranks, sequence).cuts


class _Cutter:
    def __init__(self, plan: Plan, module: nn.Module, ranks: int, sequence: bool) -> None:
        self.plan, self.module, self.ranks = plan, module, ranks
        self.anatomy: Anatomy = plan.model.anatomy(plan.head)
        self.heads = Heads.of(plan.model.config)
        if self.heads is not None:
            self._check_heads(self.heads)
        self.cuts = Cuts()
        known = declared(plan)
        if isinstance(known, TensorPlan):
            self._by_bridge(known)
        else:
            self._by_declaration(known)
        self._vocabulary()
        if sequence:
            self._inside_layers()
        self._groups()

    def _check_heads(self, own: Heads) -> None:
        heads, groups, ranks = own.heads, own.groups, self.ranks
        if heads % ranks:
            raise RefusalError(f"the model's {heads} attention heads do not divide by it")
        if groups % ranks and ranks % groups:
            raise RefusalError(
                f"the model has {groups} heads of keys and values; of the two numbers one must divide the other"
            )

    # -- the layers ------------------------------------------------------------------------------------------------

    def _matching(self, pattern: str) -> Iterator[tuple[str, nn.Module]]:
        """Modules whose path below the backbone matches, "*" standing for one name."""
        base = f"{self.anatomy.base}." if self.anatomy.base else ""
        depth = pattern.count(".")
        for path, found in self.module.named_modules():
            below = path.removeprefix(base)
            if path.startswith(base) and below.count(".") == depth and fnmatchcase(below, pattern):
                yield path, found

    def _by_bridge(self, known: TensorPlan) -> None:
        self.cuts.positions = known.positions and all(how.how != "gathered" for how in known.modules.values())
        for pattern, how in known.modules.items():
            for path, found in self._matching(pattern):
                self._cut_module(path, found, how.how, how)
        for pattern, names in known.divided.items():
            for path, found in self._matching(pattern):
                self.cuts.divided[path] = {name: getattr(found, name) // self.ranks for name in names}
        for name in known.vocabulary:
            tensor = dict(self.module.named_buffers()).get(name)
            if tensor is not None and self.plan.head.kind == "vocabulary":
                self.cuts.tensors[name] = self._cutting(name, tuple(tensor.shape), tensor.dim() - 1, Cut("column"))

    def _by_declaration(self, known: Mapping[str, str]) -> None:
        self.cuts.positions = not {"colwise_gather_output", "rowwise_split_input"} & set(known.values())
        for pattern, word in known.items():
            how = _DECLARED.get(word)
            for path, found in self._matching(pattern):
                if how is None:
                    raise RefusalError(
                        f"family {self.plan.model.family!r} wants {word!r} of {path}; here are: {', '.join(sorted(_DECLARED))}"
                    )
                if how == "partial":
                    self.cuts.partial.update(f"{path}.{name}" for name, _ in found.named_parameters())
                elif how != "vocabulary":  # which is found by its size
                    self._cut_module(
                        path,
                        found,
                        how,
                        Cut("row" if how in ("row", "split") else "column", self._unit(path, found, how)),
                    )

    def _unit(self, path: str, found: nn.Module, how: str) -> Any:
        """What a family's own plan leaves out: in attention whole heads are dealt."""
        if how in ("gathered", "split") or not any(
            part in name for name in path.split(".")[:-1] for part in _ATTENTION
        ):
            return "element"
        if how == "column" and path.rpartition(".")[2].startswith(("k_", "v_", "key", "value")):
            return "group"
        return "head"

    def _cut_module(self, path: str, found: nn.Module, how: str, cut: Cut) -> None:
        weight = getattr(found, "weight", None)
        if not isinstance(weight, nn.Parameter) or weight.dim() != 2:
            raise RefusalError(f"{path} is a {type(found).__name__}, which cannot be cut as {cut.how!r}")
        axis = {"column": 1 if cut.transposed else 0, "row": 0 if cut.transposed else 1, "table": 1}[
            "column" if cut.how == "gathered" else cut.how
        ]
        self.cuts.modules[path] = (how, cut)
        self.cuts.tensors[f"{path}.weight"] = self._cutting(path, tuple(weight.shape), axis, cut)
        bias = getattr(found, "bias", None)
        if bias is not None and cut.how in ("column", "gathered"):
            self.cuts.tensors[f"{path}.bias"] = self._cutting(path, tuple(bias.shape), 0, cut)

    def _cutting(self, path: str, shape: tuple[int, ...], axis: int, cut: Cut) -> Cutting:
        if cut.unit != "element" and self.heads is None:
            raise RefusalError(f"family {self.plan.model.family!r} does not say how many attention heads it has")
        heads = self.heads or Heads(1, 1)
        count = {"head": heads.heads, "group": heads.groups, "element": shape[axis] // cut.parts}[cut.unit]
        if shape[axis] % (count * cut.parts):
            raise RefusalError(f"{path} has {shape[axis]} entries, which are no {cut.parts} times {count} {cut.unit}s")
        made = Cutting(shape, axis, self.ranks, shape[axis] // cut.parts // count, cut.parts)
        if cut.unit != "group" and made.local(self.ranks - 1)[axis] < 1:
            raise RefusalError(f"{path} has {shape[axis]} entries, too few for a piece on every rank")
        return made

    # -- the vocabulary, and what depends on it --------------------------------------------------------------------

    def _vocabulary(self) -> None:
        """Embedding and output layer: what has as many rows as the vocabulary has entries."""
        size = getattr(self.plan.model.config, "vocab_size", None)
        base = f"{self.anatomy.base}." if self.anatomy.base else ""
        logits = self.plan.head.kind == "vocabulary"
        for path, found in self.module.named_modules():
            inside = self.anatomy.base and path.startswith(base)
            if isinstance(found, nn.Embedding) and found.num_embeddings == size and "position" not in path:
                self._cut_module(path, found, "vocabulary", Cut("column"))
            elif (
                logits
                and not inside
                and path.startswith(self.anatomy.head)
                and getattr(found, "out_features", 0) == size
            ):
                self._cut_module(path, found, "logits", Cut("column"))
        for alias, owner in self.anatomy.tied.items():
            cutting = self.cuts.tensors.pop(alias, None)
            if cutting is not None:
                self.cuts.tensors.setdefault(owner, cutting)
        self._both_cut()

    def _both_cut(self) -> None:
        """A weight that two modules share is cut in both; a stage of a pipeline may have one of them."""
        every = dict(self.module.named_modules(remove_duplicate=False))
        there = {path: found for path, found in every.items() if getattr(found, "weight", None) is not None}
        cut = {id(every[path]) for path in self.cuts.modules}
        for alias, owner in self.anatomy.tied.items():
            for name in (alias, owner) if owner in self.cuts.tensors and owner.endswith(".weight") else ():
                path = name.rpartition(".")[0]
                if path in there and id(there[path]) not in cut:
                    raise RefusalError(f"{path} shares a weight with what is cut, and is not known to be cut itself")

    def _inside_layers(self) -> None:
        """Norms and biases see a part of the positions each, so their gradients are parts. A matrix that is not cut may belong to what looks
        along positions, as a state-space mixer does, of which no rank has all."""
        base = f"{self.anatomy.base}." if self.anatomy.base else ""
        lists = [f"{base}{path}." for path in (self.anatomy.layers, self.anatomy.encoder_layers) if path]
        for name, parameter in self.module.named_parameters():
            if name.startswith(tuple(lists)) and name not in self.cuts.tensors:
                self.cuts.partial.add(name)
                self.cuts.positions &= parameter.dim() < 2

    def _groups(self) -> None:
        """Attention that is cut, and repeats keys and values by a number it keeps: the number on a rank."""
        columns = [path for path, (how, _) in self.cuts.modules.items() if how == "column"]
        holders = tuple(f"{path.rpartition('.')[0]}." for path in columns)
        for path, found in self.module.named_modules():
            inside = f"{path}.".startswith(holders)
            if self.heads is not None and inside and isinstance(getattr(found, "num_key_value_groups", None), int):
                local = self.heads.heads // self.ranks // max(1, self.heads.groups // self.ranks)
                self.cuts.divided.setdefault(path, {})["num_key_value_groups"] = local


def shrink(module: nn.Module, cuts: Cuts, rank: int) -> None:
    """Give a module without storage the shapes of a rank's pieces, and the numbers that go with them."""
    for name, cutting in cuts.tensors.items():
        path, _, leaf = name.rpartition(".")
        holder = module.get_submodule(path)
        old = getattr(holder, leaf)
        new = torch.empty(cutting.local(rank), dtype=old.dtype, device=old.device)
        if isinstance(old, nn.Parameter):
            setattr(holder, leaf, nn.Parameter(new, old.requires_grad))
        else:
            holder._buffers[leaf] = new
    for path, values in cuts.divided.items():
        for name, value in values.items():
            setattr(module.get_submodule(path), name, value)
