"""The module that engines train: a family's own backbone and head, under Hugging Face's names, that also takes packs."""

from __future__ import annotations

import contextvars
import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions

from spcore.interfaces.model import Anatomy, Head, Positions
from spcore_transformers import by_distance, segments, stages
from spcore_transformers.families import Family

_READ: contextvars.ContextVar[torch.Tensor | None] = contextvars.ContextVar("rows that the head reads", default=None)


def _prune(module: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
    """In the last layer, once attention is done, keep only the rows that the head reads: [S, L, H] -> [1, N, H]. What follows works
    row by row, so nothing else changes."""
    rows = _READ.get()
    return None if rows is None else tuple(x.reshape(-1, x.shape[-1]).index_select(0, rows)[None] for x in args)


class _Given(nn.Module):  # type: ignore[misc]
    """Stands for the backbone inside the family's own class with a head, and gives hidden states that were computed (and, in
    packs, gathered) before: so each family's head code runs as it is."""

    def __init__(self, owner: Assembled, pooler: str | None) -> None:
        super().__init__()
        self.owner, self.pooler = [owner], pooler

    def forward(
        self, *args: Any, inputs_embeds: torch.Tensor | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPoolingAndCrossAttentions:
        """Hidden states as `inputs_embeds`."""
        pooled = self.owner[0].get_submodule(self.pooler)(inputs_embeds) if self.pooler else None
        return BaseModelOutputWithPoolingAndCrossAttentions(last_hidden_state=inputs_embeds, pooler_output=pooled)


class Assembled(nn.Module):  # type: ignore[misc]
    """forward(**inputs) -> {name: tensor}; see `spcore.interfaces.model.LanguageModel.build`.

    whole: an instance of the family's class with this head, or of its bare backbone for a custom head. Its children become this
    module's, so parameters are named as Hugging Face names them; a custom head's lie under `head.`. family: None for one that is
    not known: its class is then run as it is. Positions of packs count from 0 in each segment.
    """

    def __init__(self, whole: Any, head: Head, base: str, family: Family | None, custom: nn.Module | None) -> None:
        super().__init__()
        self.config = whole.config
        self._kind, self._base, self._family, self._names = head.kind, base, family, tuple(head.outputs)
        self._whole, self._tail = [whole], [copy.copy(whole)]
        self._received: stages.Received | None = None
        self._ends = True
        self._positions: Positions | None = None
        self._prunes = bool(
            head.kind == "sequence" and family is not None and family.joins
            and getattr(whole.config, "classifier_pooling", "cls") != "mean"
        )  # fmt: skip
        if self._prunes:
            assert family is not None
            last = whole.get_submodule(f"{base}.{family.layers}")[-1]
            last.get_submodule(family.joins).register_forward_pre_hook(_prune)
        if custom is not None:
            self.add_module(base, whole)
            self.head = custom
            return
        # The same dicts: whatever replaces a module or a tensor of one has replaced it in the other.
        self._modules, self._parameters, self._buffers = whole._modules, whole._parameters, whole._buffers
        self._non_persistent_buffers_set = whole._non_persistent_buffers_set
        pooler = f"{base}.{family.pooler}" if family is not None and family.pooler and head.kind == "sequence" else None
        self._given = [_Given(self, pooler)]

    def train(self, mode: bool = True) -> Assembled:
        """As `nn.Module.train`; the classes that stand behind this module are told too."""
        super().train(mode)
        self._whole[0].training = self._tail[0].training = mode
        return self

    def as_family(self) -> Any:
        """A copy of the family's own class that holds this module's tensors: transformers initialises by class."""
        whole = copy.copy(self._whole[0])
        whole.__dict__ = {
            **whole.__dict__,
            "_parameters": self._parameters,
            "_buffers": self._buffers,
            "_modules": self._modules,
        }
        return whole

    def cut(self, anatomy: Anatomy, layers: range) -> None:
        """Become one stage of a pipeline, see `spcore.interfaces.model.Stages`."""
        self._received = stages.cut(self, anatomy, layers)
        assert anatomy.layers is not None, "a list of layers was cut"
        self._ends = layers.stop == len(self.get_submodule(self._base).get_submodule(anatomy.layers))
        self._prunes = self._prunes and self._ends and len(layers) > 0

    def share(self, positions: Positions) -> None:
        """Work on one rank's part of the positions, see `spcore.interfaces.model.SharesPositions`."""
        self._positions, self._prunes = positions, False
        if self._family is None:
            by_distance.share(self._whole[0], positions)

    def forward(
        self, states: Mapping[str, torch.Tensor] | None = None, **inputs: torch.Tensor
    ) -> Mapping[str, torch.Tensor]:
        """See the class. states: of a stage, what the one before gave."""
        if self._received is not None:
            self._received.hidden = states["hidden"] if states else None
        segment_ids = inputs.pop("segment_ids", None)
        assert segment_ids is None or (self._family is not None and self._family.packs), (
            "an engine's check refuses such packs"
        )
        if self._positions is not None and self._family is None:
            with self._positions.apart():
                return self._named(self._whole[0](**by_distance.shared(inputs, self._positions)))
        if self._positions is not None:
            return self._shared(inputs, segment_ids, self._positions)
        if self._family is None and self._kind != "custom":
            return self._named(self._whole[0](**inputs))
        if segment_ids is None:
            hidden = self.get_submodule(self._base)(**inputs).last_hidden_state
            return self._headed(hidden, inputs, inputs.get("attention_mask"), None)
        layout = segments.Layout(segment_ids)
        read = _READ.set(layout.first if self._prunes else None)
        try:
            hidden = self._packed(inputs, segment_ids, layout)
        finally:
            _READ.reset(read)
        return self._headed(hidden, inputs, segment_ids > 0, layout)

    def _packed(
        self, inputs: dict[str, torch.Tensor], segment_ids: torch.Tensor, layout: segments.Layout
    ) -> torch.Tensor:
        """Hidden states of packs: no attention and no positions across a border."""
        assert self._family is not None
        given: dict[str, Any] = {
            **inputs,
            "position_ids": inputs["position_ids"] + self._family.first_position(self.config),
        }
        if self.config._attn_implementation == segments.NAME:
            kinds = segments.layer_kinds(self.config)
            none = segments.NO_MASK
            given |= {"segment_layout": layout, "attention_mask": dict.fromkeys(kinds, none) if kinds else none}
        elif len(layout.runs) == 1 and layout.count:
            # Texts of one length and nothing else: as many rows, which need no mask of ours.
            given = {name: x.view(layout.count, -1) for name, x in given.items()}
        else:
            dtype = next(self.parameters()).dtype
            given["attention_mask"] = segments.dense_masks(segment_ids, self.config, dtype, self._family.causal)
        hidden: torch.Tensor = self.get_submodule(self._base)(**given).last_hidden_state
        return hidden if self._prunes else hidden.view(*segment_ids.shape, -1)

    def _shared(
        self, inputs: dict[str, torch.Tensor], segment_ids: torch.Tensor | None, shared: Positions
    ) -> Mapping[str, torch.Tensor]:
        """Each rank attends from its positions to all; a head that gives a value a position has them too, another sees all."""
        assert self._family is not None, "`shares` refuses others"
        ids, mask = inputs["input_ids"], inputs.get("attention_mask")
        parts = segment_ids if segment_ids is not None else mask if mask is not None else torch.ones_like(ids)
        places = inputs.get("position_ids", torch.arange(ids.shape[1], device=ids.device).expand_as(ids))
        dense = segments.dense_masks(parts, self.config, next(self.parameters()).dtype, self._family.causal)
        given: dict[str, Any] = {name: shared.own(x, 1) for name, x in inputs.items() if name != "attention_mask"}
        given["position_ids"] = shared.own(places, 1) + self._family.first_position(self.config)
        rows = (
            {kind: shared.own(m, 2) for kind, m in dense.items()} if isinstance(dense, dict) else shared.own(dense, 2)
        )
        with shared.apart():
            hidden = self.get_submodule(self._base)(
                **given, attention_mask=rows, shared_positions=shared
            ).last_hidden_state
        if not self._ends or self._kind in ("vocabulary", "token"):
            return self._headed(hidden, inputs, mask, None)
        layout = None if segment_ids is None else segments.Layout(segment_ids)
        return self._headed(shared.gather(hidden, 1), inputs, mask if segment_ids is None else segment_ids > 0, layout)

    def _headed(
        self,
        hidden: torch.Tensor,
        inputs: Mapping[str, torch.Tensor],
        mask: torch.Tensor | None,
        layout: segments.Layout | None,
    ) -> Mapping[str, torch.Tensor]:
        """The head on hidden states [S, L, H]; on a stage that has none, the states."""
        if not self._ends:
            return {"hidden": hidden}
        if self._kind == "custom":
            every = (
                torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device) if mask is None else mask.bool()
            )
            found: Mapping[str, torch.Tensor] = self.head(hidden, every, None if layout is None else layout.segments)
            return found
        tail = self._tail[0]
        tail._modules = {**self._modules, self._base: self._given[0]}
        if self._kind != "sequence":
            return self._named(tail(inputs_embeds=hidden, attention_mask=mask))
        if self._family is not None and self._family.causal:
            one = self._last(hidden, inputs["input_ids"], layout)
            # Ids tell such heads where texts end; here each is one token long.
            return self._named(tail(input_ids=one.new_zeros(one.shape[:2], dtype=torch.int64), inputs_embeds=one))
        return self._named(tail(inputs_embeds=self._pooled(hidden, mask, layout)))

    def _last(self, hidden: torch.Tensor, ids: torch.Tensor, layout: segments.Layout | None) -> torch.Tensor:
        """[N, 1, H]: each text's last token that is not the padding token, as transformers' heads on causal models choose it."""
        real = ids != self.config.pad_token_id
        if layout is None:
            place = torch.arange(ids.shape[1], device=ids.device)
            last = torch.where(real, place, 0).amax(1)
            return hidden.take_along_dim(last[:, None, None], 1)
        place = torch.arange(ids.numel(), device=ids.device)
        # One more than there are texts: padding's.
        first = torch.cat([layout.first, layout.first.new_zeros(1)])
        last = first.scatter_reduce(0, layout.owner, torch.where(real.reshape(-1), place, 0), "amax")[:-1]
        return hidden.reshape(-1, hidden.shape[-1]).index_select(0, last)[:, None]

    def _pooled(self, hidden: torch.Tensor, mask: torch.Tensor | None, layout: segments.Layout | None) -> torch.Tensor:
        """[N, 1, H]: what a sequence head reads of each text: its first token, or the mean where the configuration says so."""
        rows = hidden.reshape(-1, hidden.shape[-1])
        if getattr(self.config, "classifier_pooling", "cls") != "mean":
            if layout is None:
                return hidden[:, :1]
            return rows[:, None] if self._prunes else rows.index_select(0, layout.first)[:, None]
        if layout is None:
            kept = torch.ones(hidden.shape[:2], dtype=hidden.dtype, device=hidden.device) if mask is None else mask
            return ((hidden * kept.unsqueeze(-1)).sum(1) / kept.sum(1, keepdim=True))[:, None]
        sums = rows.new_zeros(layout.count + 1, rows.shape[1]).index_add(0, layout.owner, rows)
        counts = torch.bincount(layout.owner, minlength=layout.count + 1)
        return (sums[:-1] / counts[:-1, None])[:, None]

    def _named(self, found: Any) -> Mapping[str, torch.Tensor]:
        """A transformers output under the head's names; a span head's start and end are two."""
        if self._kind == "span":
            return dict(zip(self._names, (found.start_logits, found.end_logits), strict=True))
        return {self._names[0]: found.logits}
