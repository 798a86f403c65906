"""A task whose head attends over the hidden states with one learnt query."""

import torch

from spcore.errors import DataError, RefusalError, unknown
from spcore.interfaces.model import Head
from spcore.interfaces.task import IGNORE, LossTerm, Task
from spcore.tensors.heads import as_rows
from spcore.text import LABEL, TEXT, TextTask, places, stacked


class AttentiveHead(torch.nn.Module):
    """hidden [S, L, H] -> {"logits": [S, labels]}; in packs one row a segment."""

    def __init__(self, config, labels):
        super().__init__()
        self.query, self.out = torch.nn.Linear(config.hidden_size, 1), torch.nn.Linear(config.hidden_size, labels)

    def forward(self, hidden, mask, segments):
        """A softmax over each text's tokens weighs them."""
        hidden, mask = as_rows(hidden, mask, segments)
        scores = self.query(hidden).squeeze(-1).float().masked_fill(~mask, float("-inf"))
        return {"logits": self.out((scores.softmax(-1)[..., None] * hidden).sum(1))}


class BoundWeather(TextTask):
    """Cross-entropy over the labels."""

    terms, outputs = ("weather",), {"logits": ("sequence", "label")}

    def __init__(self, processor, limits, labels):
        super().__init__(processor, limits)
        self.labels, self.ids = labels, {v: n for n, name in enumerate(labels) for v in (n, name)}  # an id or a name
        self.head = Head("custom", len(labels), self.outputs, labels, lambda config: AttentiveHead(config, len(labels)))

    def label(self, row):
        """The label's id. A row with another one is dropped, counted and reported."""
        if "label" in row and row["label"] not in self.ids:
            raise DataError(unknown("label", str(row["label"]), self.labels))
        return {"label": self.ids[row["label"]]} if "label" in row else {}

    def targets(self, features):
        """[features], -100 for none."""
        return {"label": stacked(features, "label", IGNORE)}

    def loss(self, outputs, batch, ops):
        """A sum, never a mean: the engine divides by the weight of the whole step."""
        return [LossTerm("weather", -ops.token_logprobs(outputs, batch.targets["label"]).sum())]

    def decode(self, outputs, batch):
        """The best label."""
        logits = outputs["logits"]
        return [{"row_id": row, "label": self.labels[logits[at[0]].argmax()]} for row, at in places(batch).values()]

    def state(self):
        """What a saved model needs."""
        return {"labels": list(self.labels)}


class Weather(Task):
    """Binds to the labels that the data names, or to a saved state."""

    roles = (TEXT, LABEL)

    def bind(self, processor, config, schema_or_state, limits):
        """See `spcore.interfaces.task.Task`."""
        known = schema_or_state if isinstance(schema_or_state, dict) else vars(schema_or_state.columns["label"])
        if not known["labels"]:
            raise RefusalError("task 'weather': the data names no labels; use data 'weather'")
        return BoundWeather(processor, limits, tuple(known["labels"]))
