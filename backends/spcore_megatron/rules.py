"""Weight maps as data: what a family's file says, without Megatron. See `spcore_megatron.weights` for how it is carried out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch

How = Literal["plain", "heads", "pairs", "gated", "vocabulary"]


@dataclass(frozen=True)
class Rule:
    """One Megatron module's weight, and bias where it has one, from Hugging Face modules.

    sources: paths below the backbone ("^" first: at the root), "*" for the number of the layer. how: "plain": one source, or several one
        after the other; "heads": query, key and value, laid together for each group of queries; "pairs": key and value, for each head; "gated": gate and up, each cut; "vocabulary":
        padded to a multiple of the ranks. axis: of the weight, which tensor parallelism cuts; 0 cuts the bias too; None: whole on every rank.
    transposed: the source's weight is [in, out] (GPT-2's Conv1D). experts: the source is one tensor [experts, ...] without a leaf's name,
        and a second "*" stands for the expert.

    A single source of "heads" or "gated" is those tensors one after the other.
    """

    sources: tuple[str, ...]
    how: How = "plain"
    axis: int | None = None
    transposed: bool = False
    experts: bool = False


def whole(source: str) -> Rule:
    """The same on every rank: norms, tables of positions."""
    return Rule((source,))


def vocabulary(source: str) -> Rule:
    """Rows are entries of the vocabulary."""
    return Rule((source,), "vocabulary", 0)


def column(*sources: str, how: How = "plain", transposed: bool = False) -> Rule:
    """Outputs are cut."""
    return Rule(sources, how, 0, transposed)


def row(source: str, *, transposed: bool = False) -> Rule:
    """Inputs are cut, the bias is whole."""
    return Rule((source,), "plain", 1, transposed)


@dataclass(frozen=True)
class Sizes:
    """What lies where depends on: heads of queries, groups of them (heads of keys and values), a head's width, the vocabulary, and how
    many ranks share a tensor."""

    heads: int
    groups: int
    width: int
    vocabulary: int
    ranks: int


def places(how: How, sizes: Sizes, length: int) -> list[torch.Tensor]:
    """For each part that makes up an axis `length` long, in all ranks' pieces together: int64, where each of its entries lies."""
    if how == "heads":
        each = sizes.heads // sizes.groups * sizes.width
        rows = torch.arange(length).view(sizes.groups, each + 2 * sizes.width)
        return [part.reshape(-1) for part in rows.split([each, sizes.width, sizes.width], 1)]
    if how == "pairs":
        rows = torch.arange(length).view(sizes.groups, 2, sizes.width)
        return [rows[:, n].reshape(-1) for n in range(2)]
    if how == "gated":
        rows = torch.arange(length).view(sizes.ranks, 2, -1)
        return [rows[:, n].reshape(-1) for n in range(2)]
    return [torch.arange(sizes.vocabulary if how == "vocabulary" else length)]


_PLAIN = {
    ".self_attention.linear_qkv.layer_norm_": ".input_layernorm.",
    ".mlp.linear_fc1.layer_norm_": ".pre_mlp_layernorm.",
    ".shared_experts.gate_weight": ".shared_experts.gate.weight",
}
"""Transformer Engine keeps a norm in the layer that follows it; one tensor has no module of its own."""


def plain_name(name: str) -> str:
    """A parameter's name as the local layer spec has it, whichever spec it is from."""
    for other, plain in _PLAIN.items():
        name = name.replace(other, plain)
    return name


def matched(name: str, rules: Mapping[str, Rule]) -> tuple[Rule, str, list[str]]:
    """A parameter's rule, its leaf ("weight") and the numbers in its path."""
    path, _, leaf = plain_name(name).rpartition(".")
    numbers = [word for word in path.split(".") if word.isdigit()]
    key = ".".join("*" if word.isdigit() else word for word in path.split("."))
    assert key in rules, f"no rule for {name}: the family's map lacks {key!r}"
    return rules[key], leaf, numbers
