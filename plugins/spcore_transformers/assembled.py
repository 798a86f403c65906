"""The module that engines train: a family's own backbone and head, under Hugging Face's names, that also takes packs."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from spcore.interfaces.model import Head
from spcore_transformers.families import Family
from spcore_transformers.segments import Layout


class _Given(nn.Module):
    """Stands for the backbone inside the family's own class with a head: gives what it is given. So each family's head code runs
    as it is, on hidden states that were computed (and, in packs, gathered) before."""

    def __init__(self, pooler: nn.Module | None) -> None:
        super().__init__()
        self.pooler = [pooler]

    def forward(self, *args: Any, inputs_embeds: torch.Tensor | None = None, **kwargs: Any) -> BaseModelOutputWithPooling:
        """Hidden states as `inputs_embeds`."""
        pooler = self.pooler[0]
        pooled = pooler(inputs_embeds) if pooler is not None else None
        return BaseModelOutputWithPooling(last_hidden_state=inputs_embeds, pooler_output=pooled)


class Assembled(nn.Module):
    """forward(**inputs) -> {name: tensor}; see `spcore.interfaces.model.LanguageModel.build`.

    whole: an instance of the family's class with this head, or of its bare backbone for a custom head. Its children become this
    module's, so parameters are named as Hugging Face names them; a custom head's lie under `head.`.
    """

    def __init__(self, whole: Any, head: Head, base: str, family: Family | None, custom: nn.Module | None) -> None:
        super().__init__()
        self.config, self.kind, self.base, self.family = whole.config, head.kind, base, family
        self.names = tuple(head.outputs)
        if custom is not None:
            self.add_module(base, whole)
            self.head = custom
            self._tail: list[Any] = []
            return
        for name, child in whole.named_children():
            self.add_module(name, child)
        self._whole = [whole]
        self._tail = [self._make_tail(whole)] if family is not None else []

    def _make_tail(self, whole: Any) -> Any:
        """The class with a head, its backbone replaced by `_Given`; modules are shared, not copied."""
        assert self.family is not None
        backbone = whole.get_submodule(self.base)
        tail = copy.copy(whole)
        tail.__dict__ = dict(whole.__dict__)
        tail._modules = dict(whole._modules)
        pooler = backbone.get_submodule(self.family.pooler) if self.family.pooler and self.kind == "sequence" else None
        tail._modules[self.base] = _Given(pooler)
        return tail

    def forward(self, **inputs: torch.Tensor) -> Mapping[str, torch.Tensor]:
        """See the class."""
        if self.kind != "custom" and not self._tail:
            return self._named(self._whole[0](**inputs))
        segment_ids = inputs.pop("segment_ids", None)
        if segment_ids is None:
            hidden = self.get_submodule(self.base)(**inputs).last_hidden_state
            return self._headed(hidden, inputs.get("attention_mask"), None)
        assert self.family is not None and self.family.packs, "the engine's check refuses packs for families that cannot"
        layout = Layout(segment_ids)
        hidden = self._packed(inputs, segment_ids, layout)
        return self._headed(hidden, (segment_ids > 0), layout)

    def _packed(self, inputs: dict[str, torch.Tensor], segment_ids: torch.Tensor, layout: Layout) -> torch.Tensor:
        """Hidden states of packs: no attention and no positions across a border."""
        assert self.family is not None
        positions = inputs.pop("position_ids") + self.family.first_position(self.config)
        if self.family.positions:
            inputs["position_ids"] = positions
        hidden: torch.Tensor
        backbone = self.get_submodule(self.base)
        if segment_ids.device.type == "cpu":
            hidden = backbone(**inputs, segment_layout=layout).last_hidden_state
        else:
            mask = (segment_ids[:, None, :, None] == segment_ids[:, None, None, :])
            if getattr(self.config, "sliding_window", None) and "sliding_attention" in (getattr(self.config, "layer_types", None) or ()):
                place = torch.arange(segment_ids.shape[1], device=segment_ids.device)
                near = (place[:, None] - place[None, :]).abs() <= self.config.sliding_window
                hidden = backbone(**inputs, attention_mask={"full_attention": mask, "sliding_attention": mask & near}).last_hidden_state
            else:
                hidden = backbone(**inputs, attention_mask=mask).last_hidden_state
        return hidden

    def _headed(self, hidden: torch.Tensor, mask: torch.Tensor | None, layout: Layout | None) -> Mapping[str, torch.Tensor]:
        if self.kind == "custom":
            kept = mask.bool() if mask is not None else torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
            segments = None
            if layout is not None:
                segments = torch.stack([layout.sequence, layout.start], 1).to(hidden.device)
            found: Mapping[str, torch.Tensor] = self.head(hidden, kept, segments)
            return found
        if self.kind == "sequence":
            hidden = self._pooled(hidden, mask, layout)
            mask = None if mask is None else torch.ones(hidden.shape[:2], dtype=torch.long, device=hidden.device)
        return self._named(self._tail[0](inputs_embeds=hidden, attention_mask=mask))

    def _pooled(self, hidden: torch.Tensor, mask: torch.Tensor | None, layout: Layout | None) -> torch.Tensor:
        """[N, 1, H]: what a sequence head reads of each text: its first token, or the mean where the family says so."""
        if getattr(self.config, "classifier_pooling", "cls") != "mean":
            if layout is None:
                return hidden[:, :1]
            return hidden.reshape(-1, hidden.shape[-1]).index_select(0, layout.first.to(hidden.device))[:, None]
        if layout is None:
            kept = torch.ones(hidden.shape[:2], device=hidden.device) if mask is None else mask
            return ((hidden * kept.unsqueeze(-1)).sum(1) / kept.sum(1, keepdim=True))[:, None]
        owner = torch.from_numpy(layout.owners()).to(hidden.device)
        sums = hidden.new_zeros(len(layout.first) + 1, hidden.shape[-1]).index_add_(0, owner, hidden.reshape(-1, hidden.shape[-1]))
        counts = torch.bincount(owner, minlength=len(sums)).clamp(min=1)
        return (sums / counts[:, None])[:-1, None]

    def _named(self, found: Any) -> Mapping[str, torch.Tensor]:
        """A transformers output under the head's names; a span head's start and end are two."""
        if self.kind == "span":
            return dict(zip(self.names, (found.start_logits, found.end_logits), strict=True))
        return {self.names[0]: found.logits}
