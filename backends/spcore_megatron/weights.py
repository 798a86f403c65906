"""Weight maps as data: where the rows of Hugging Face tensors lie in Megatron's, on every rank, and back. One mechanism for all families.

A Megatron tensor that several make up (a fused query, key and value; gate and up) is a permutation of their rows: `places` says for each
row of a source where it lies in the whole tensor, that is in all ranks' pieces one after the other. Reading takes from a source the rows
that lie in this rank's piece, writing picks the source's rows out of the whole; so both ways are exact to the bit, and what no source
has (the rows that pad a vocabulary) is never written.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state as ps

from spcore.errors import ArtifactError
from spcore_megatron.rules import Rule, Sizes, matched, places


@dataclass(frozen=True)
class Part:
    """A source's share of one parameter. at: int64, where its entries lie on the axis of the whole; expert: which of the source's."""

    source: str
    name: str
    parameter: torch.nn.Parameter
    rule: Rule
    axis: int | None
    at: torch.Tensor
    expert: int | None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the source, of one expert's where it has them."""
        found = list(self.parameter.shape)
        if self.axis is not None:
            found[self.axis] = len(self.at)
        return tuple(reversed(found) if self.turned else found)

    @property
    def turned(self) -> bool:
        """Whether the source is the parameter's transpose."""
        return self.rule.transposed and self.parameter.dim() == 2

    def put(self, tensor: torch.Tensor, rank: int) -> None:
        """Take this rank's entries of the source. Raises ArtifactError for another shape."""
        tensor = tensor if self.expert is None else tensor[self.expert]
        if tuple(tensor.shape) != self.shape:
            raise ArtifactError(f"{self.source} is {tuple(tensor.shape)}, the configuration says {self.shape}")
        tensor = tensor.t() if self.turned else tensor
        if self.axis is None:
            self.parameter.data.copy_(tensor)
            return
        first = rank * self.parameter.shape[self.axis]
        mine = ((self.at >= first) & (self.at < first + self.parameter.shape[self.axis])).nonzero().squeeze(1)
        taken = tensor.index_select(self.axis, mine.to(tensor.device)).to(self.parameter)
        self.parameter.data.index_copy_(self.axis, (self.at[mine] - first).to(taken.device), taken)

    def of(self, whole: torch.Tensor) -> torch.Tensor:
        """The source from the whole tensor."""
        found = whole if self.axis is None else whole.index_select(self.axis, self.at.to(whole.device))
        return found.t().contiguous() if self.turned else found


class Weights:
    """The tensors of this rank under Hugging Face names: for loading, saving, gradients and an optimizer's groups.

    chunks: the rank's modules (several under a virtual pipeline). rules: the family's, for what they have. base: path of the backbone in
    Hugging Face's module. tied: alias -> owner. beside: tensors that are whole on the last stage and have Hugging Face names already: a
    task's head. Building it sets the attributes by which Megatron's optimizer tells a piece from a copy.
    """

    def __init__(
        self,
        chunks: Sequence[torch.nn.Module],
        rules: Mapping[str, Rule],
        config: Any,
        vocabulary_size: int,
        *,
        base: str,
        tied: Mapping[str, str],
        beside: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        self.beside = dict(beside or {})
        self._base, self._tied = f"{base}." if base else "", tied
        heads = (config.num_attention_heads, config.num_query_groups, config.kv_channels, vocabulary_size)
        # Of experts or not: who shares a tensor.
        self._groups = {
            True: ps.get_expert_tensor_parallel_group(), False: ps.get_tensor_model_parallel_group()
        }  # fmt: skip
        self._sizes = {experts: Sizes(*heads, group.size()) for experts, group in self._groups.items()}
        self.parts: dict[str, list[Part]] = {}
        for chunk in chunks:
            for name, parameter in _global(chunk):
                for part in self._parts(name, parameter, rules):
                    self.parts.setdefault(part.source, []).append(part)

    def _parts(self, name: str, parameter: torch.nn.Parameter, rules: Mapping[str, Rule]) -> Iterator[Part]:
        rule, leaf, numbers = matched(name, rules)
        sizes = self._sizes[rule.experts]
        axis = None if rule.axis is None or (rule.axis == 1 and parameter.dim() == 1) else rule.axis
        if axis is not None:
            parameter.tensor_model_parallel, parameter.partition_dim, parameter.partition_stride = True, axis, 1
            found = places(rule.how, sizes, parameter.shape[axis] * sizes.ranks)
        else:
            found = [torch.empty(0, dtype=torch.int64)]
        if len(rule.sources) == 1:
            found = [torch.cat(found)]
        for source, at in zip(rule.sources, found, strict=True):
            yield Part(
                self._named(source, "" if rule.experts else leaf, numbers), name, parameter, rule, axis, at,
                int(numbers[-1]) if rule.experts else None,
            )  # fmt: skip

    def _named(self, source: str, leaf: str, numbers: Sequence[str]) -> str:
        words = source.removeprefix("^").split("*")
        path = "".join(
            itertools.chain.from_iterable(itertools.zip_longest(words, numbers[: len(words) - 1], fillvalue=""))
        )
        name = f"{'' if source.startswith('^') else self._base}{path}{'.' if leaf else ''}{leaf}"
        return self._tied.get(name, name)

    @property
    def names(self) -> set[str]:
        """Hugging Face tensors of which this rank needs a part."""
        return {*self.parts, *self.beside}

    def put(self, name: str, tensor: torch.Tensor) -> bool:
        """Take this rank's part of a whole tensor; False where it has none. Raises ArtifactError for another shape."""
        for part in self.parts.get(name, ()):
            part.put(tensor, self.rank_of(part))
        if name in self.beside:
            if self.beside[name].shape != tensor.shape:
                raise ArtifactError(
                    f"{name} is {tuple(tensor.shape)}, the configuration says {tuple(self.beside[name].shape)}"
                )
            self.beside[name].data.copy_(tensor)
        return name in self.names

    def rank_of(self, part: Part) -> int:
        """This rank's number among those that share the parameter."""
        return int(self._groups[part.rule.experts].rank())

    def export(
        self, of: Callable[[torch.Tensor], torch.Tensor] = torch.Tensor.detach
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """(Hugging Face name, whole tensor), one at a time, each name once; collective: every rank drains it, the first rank of all is
        the one that is given them. of: from a parameter what is wanted of it: itself, its gradient."""
        mine = self._of_stage(of)
        if ps.get_pipeline_model_parallel_world_size() == 1:
            yield from mine if self._speaks() else _drained(mine)
            return
        yield from self._of_all_stages(mine)

    def _speaks(self) -> bool:
        """Whether this rank passes on what its equals have too."""
        return bool(
            ps.get_tensor_model_parallel_rank() == 0 and ps.get_data_parallel_rank(with_context_parallel=True) == 0
        )

    def _of_stage(self, of: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
        """Of the tensors that this stage has; collective over those who share its tensors."""
        last: tuple[torch.nn.Parameter, torch.Tensor] | None = None
        for name, parts in self.parts.items():
            part = parts[0]
            if part.rule.experts:
                yield name, self._of_experts(parts, of)
                continue
            if last is None or last[0] is not part.parameter:  # the sources of one parameter follow each other
                last = part.parameter, self._whole(part, of(part.parameter))
            yield name, part.of(last[1])
        for name, tensor in self.beside.items():
            yield name, of(tensor)

    def _of_experts(self, parts: Sequence[Part], of: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """A source that holds all experts: this rank's, in their order, and then those of the next."""
        mine = torch.stack([part.of(self._whole(part, of(part.parameter))) for part in parts])
        return torch.cat(_gathered(mine, ps.get_expert_model_parallel_group()))

    def _whole(self, part: Part, mine: torch.Tensor) -> torch.Tensor:
        group = self._groups[part.rule.experts]
        if part.axis is None or group.size() == 1:
            return mine
        return torch.cat(_gathered(mine, group), part.axis)

    def _of_all_stages(self, mine: Iterator[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
        """One stage after the other sends to the first what no earlier one has."""
        group, speaks = ps.get_pipeline_model_parallel_group(), self._speaks()
        stage, stages = ps.get_pipeline_model_parallel_rank(), ps.get_pipeline_model_parallel_world_size()
        held: list[Any] = [None] * stages
        dist.all_gather_object(held, [*self.parts, *self.beside], group=group)
        seen: set[str] = set()
        for sender, names in enumerate(held):
            fresh = [name for name in names if name not in seen]
            seen.update(fresh)
            if stage == sender:
                for name, tensor in mine:
                    if not speaks or name not in fresh:
                        continue
                    if stage == 0:
                        yield name, tensor
                    else:
                        _send(tensor, group)
            elif stage == 0 and speaks:
                for name in fresh:
                    yield name, _received(dist.get_global_rank(group, sender), group)


def _drained(items: Iterator[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
    for _ in items:
        pass
    yield from ()


def _global(chunk: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """(name with the numbers that layers, and experts, have in the whole model, parameter)."""
    numbers = {
        f"{path}.": f"{path.rpartition('.')[0]}.{layer.layer_number - 1}."
        for path, layer in chunk.named_modules()
        if path.rpartition(".")[0].endswith("layers") and hasattr(layer, "layer_number")
    }
    lists = (module for module in chunk.modules() if hasattr(module, "local_experts"))
    first = ps.get_expert_model_parallel_rank() * next((len(m.local_experts) for m in lists), 0)
    for name, parameter in chunk.named_parameters():
        local = next((path for path in numbers if name.startswith(path)), "")
        found = numbers.get(local, "") + name.removeprefix(local)
        before, experts, after = found.partition(".local_experts.")
        if experts:
            number, _, rest = after.partition(".")
            found = f"{before}{experts}{first + int(number)}.{rest}"
        yield found, parameter


def _gathered(mine: torch.Tensor, group: Any) -> list[torch.Tensor]:
    mine = mine.contiguous()
    found = [torch.empty_like(mine) for _ in range(dist.get_world_size(group))]
    dist.all_gather(found, mine, group=group)
    return found


def _send(tensor: torch.Tensor, group: Any) -> None:
    first = dist.get_global_rank(group, 0)
    dist.send_object_list([(tuple(tensor.shape), tensor.dtype)], first, group=group)
    dist.send(tensor.contiguous(), first, group=group)


def _received(sender: int, group: Any) -> torch.Tensor:
    told: list[Any] = [None]
    dist.recv_object_list(told, sender, group=group)
    shape, dtype = told[0]
    tensor = torch.empty(shape, dtype=dtype, device="cuda" if dist.get_backend(group) == "nccl" else "cpu")
    dist.recv(tensor, sender, group=group)
    return tensor
