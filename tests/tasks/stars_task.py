"""A task as a stranger writes it: stars for a review, through a head of its own that attends over the text. Works in packs."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import nn

from spcore.errors import DataError
from spcore.interfaces.model import Head
from spcore.interfaces.task import LossTerm, Task
from spcore.text import LABEL, TEXT, TextTask, labelled, stacked


class Attend(nn.Module):
    def __init__(self, config, size):
        super().__init__()
        self.query = nn.Linear(config.hidden_size, 1)
        self.out = nn.Linear(config.hidden_size, size)

    def forward(self, hidden, mask, segments):
        if segments is not None:  # one row a segment, which sees its own tokens only
            sequence, start = segments.unbind(1)
            border = torch.zeros(mask.shape, dtype=torch.int64, device=mask.device)
            border[sequence, start] = 1
            number = border.flatten().cumsum(0).view(mask.shape)[sequence]
            mask = mask[sequence] & (number == torch.arange(1, len(segments) + 1, device=mask.device)[:, None])
            hidden = hidden[sequence]
        scores = self.query(hidden).squeeze(-1).float().masked_fill(~mask, -torch.inf)
        return {"stars": self.out((scores.softmax(-1).to(hidden.dtype)[..., None] * hidden).sum(1))}


class Stars(Task):
    roles = (TEXT, LABEL)

    def bind(self, processor, config, schema_or_state, limits):
        return BoundStars(processor, limits)


class BoundStars(TextTask):
    head = Head("custom", 1, {"stars": ("sequence", "label")}, build=partial(Attend, size=1))
    terms = ("stars",)

    def label(self, row):
        if "label" in row and not isinstance(row["label"], int | float):
            raise DataError(f"no stars: {row['label']!r}")
        return {"gold": np.float32(row["label"])} if "label" in row else {}

    def targets(self, features):
        return {"gold": stacked(features, "gold", 0.0), "known": labelled(features, "gold")}

    def loss(self, outputs, batch, ops):
        off = outputs["stars"].float().squeeze(-1) - batch.targets["gold"]
        return [LossTerm("stars", (off.abs() * batch.targets["known"]).sum())]
