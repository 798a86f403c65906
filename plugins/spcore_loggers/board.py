"""Logger `tensorboard`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spcore.interfaces.logger import Evaluated, Event, Logger, Step


class TensorBoard(Logger):
    """Scalars under `train/` and `eval/` into the run's folder; without one it does nothing."""

    def __init__(self) -> None:
        self._writer: Any = None

    def start(self, output: Path | None, recipe: Mapping[str, Any]) -> None:
        """See `Logger.start`."""
        if output is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(output / "tensorboard"))  # type: ignore[no-untyped-call]

    def event(self, event: Event) -> None:
        """See `Logger.event`."""
        if self._writer is None:
            return
        if isinstance(event, Step):
            figures = {
                "loss": event.loss, "lr": event.lr, "grad_norm": event.grad_norm, "rows_per_second": event.rows_per_second,
                "tokens_per_second": event.tokens_per_second, "padding": event.padding, "memory": event.memory,
                "loss_scale": event.loss_scale, **{f"term/{name}": value for name, value in event.terms.items()},
            }  # fmt: skip
            self._add("train", figures, event.step)
        elif isinstance(event, Evaluated):
            self._add("eval", event.metrics, event.step)

    def _add(self, group: str, figures: Mapping[str, float], step: int) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(f"{group}/{name}", value, step)

    def close(self) -> None:
        """See `Logger.close`."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
