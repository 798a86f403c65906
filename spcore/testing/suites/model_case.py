"""A model under test, with modules of every head and inputs for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from spcore.errors import RefusalError
from spcore.interfaces.model import Head, LanguageModel, Model, Stages

if TYPE_CHECKING:
    import torch

HEADS = {
    "vocabulary": Head("vocabulary", 0, {"logits": ("sequence", "position", "vocabulary")}),
    "sequence": Head("sequence", 3, {"logits": ("sequence", "label")}, ("a", "b", "c")),
    "token": Head("token", 3, {"logits": ("sequence", "position", "label")}, ("a", "b", "c")),
    "span": Head("span", 2, {"start_logits": ("sequence", "position"), "end_logits": ("sequence", "position")}),
}


def _two_outputs(config: Any) -> torch.nn.Module:
    from spcore.testing.fakes.heads import TwoTermsHead

    return TwoTermsHead(config, 3)


class ModelCase:
    """model: what `model.opens` opened."""

    model: LanguageModel

    def __init__(self, part: Model, source: str) -> None:
        self.part, self.source = part, source
        self._heads: dict[str, Head] | None = None
        self._modules: dict[str, torch.nn.Module] = {}

    def heads(self) -> dict[str, Head]:
        """The kinds of head that the family has; "custom" always."""
        if self._heads is None:
            outputs = {"tags": ("sequence", "position", "label"), "logits": ("sequence", "label")}
            wanted = {**HEADS, "custom": Head("custom", 3, outputs, build=_two_outputs)}
            self._heads = {}
            for kind, head in wanted.items():
                try:
                    self.model.build(head)
                except RefusalError:
                    continue
                self._heads[kind] = head
        return self._heads

    def module(self, head: Head) -> torch.nn.Module:
        """The module with weights, on the CPU."""
        if head.kind not in self._modules:
            from spcore.tensors.materialise import materialise

            module = self.model.build(head)
            materialise(module, self.model, head, seed=0)
            self._modules[head.kind] = module.eval()
        return self._modules[head.kind]

    def ids(self, text: str) -> list[int]:
        """Token ids of a text."""
        found: list[int] = self.model.processor.encode(text, max_length=32).arrays["input_ids"].tolist()
        return found

    def padded(self, rows: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
        """Rows as a padded batch."""
        import torch

        length, fill = max(map(len, rows)), self.model.processor.fill.get("input_ids", 0)
        ids = [[*row, *[fill] * (length - len(row))] for row in rows]
        mask = [[1] * len(row) + [0] * (length - len(row)) for row in rows]
        return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}

    def packed(self, rows: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
        """Rows as one pack."""
        import torch

        inputs = {
            "input_ids": [i for row in rows for i in row],
            "segment_ids": [n + 1 for n, row in enumerate(rows) for _ in row],
            "position_ids": [n for row in rows for n in range(len(row))],
        }
        return {name: torch.tensor([values]) for name, values in inputs.items()}

    def outputs(self, head: Head, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What the module gives."""
        import torch

        with torch.no_grad():
            return dict(self.module(head)(**inputs))

    def staged(self, head: Head, layers: Sequence[range], inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What the stages with these layers give together."""
        import torch

        from spcore.tensors.materialise import materialise

        assert isinstance(self.model, Stages), "the caller looked"
        states: dict[str, torch.Tensor] | None = None
        for span in layers:
            module = self.model.build(head)
            self.model.stage(module, head, span)
            materialise(module, self.model, head, seed=0)
            with torch.no_grad():
                states = dict(module.eval()(states=states, **inputs))
        assert states is not None, "one stage at least"
        return states


def difference(a: torch.Tensor, b: torch.Tensor, most: float = 1e-4) -> float:
    """The largest difference where it is more than `most` (relative to values above 1), else 0."""
    if a.shape != b.shape:
        return float("inf")
    gap = float(((a - b).abs() / a.abs().clamp(min=1)).max())
    return gap if not gap <= most else 0.0
