"""Logger `tensorboard`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spcore.files import disk_errors
from spcore.interfaces.logger import Evaluated, Event, Logger, RunStarted, Step

_FIGURES = ("loss", "lr", "grad_norm", "loss_scale", "rows_per_second", "tokens_per_second", "padding", "memory")


class TensorBoard(Logger):
    """Scalars into the folder `tensorboard` of the run's; without one it has nowhere to write and does nothing.

    train/: loss, lr, grad_norm, loss_scale, rows_per_second, tokens_per_second, padding (share), memory (bytes), and a
    term_NAME for each loss term; eval/: a run's metrics. A resumed run hides what an earlier one wrote after the checkpoint.
    """

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._writer: Any = None

    def start(self, output: Path | None, recipe: Mapping[str, Any]) -> None:
        """See `Logger.start`."""
        self.close()
        self._folder = None if output is None else output / "tensorboard"

    def event(self, event: Event) -> None:
        """See `Logger.event`."""
        if self._folder is None:
            return
        with disk_errors(self._folder):
            if isinstance(event, RunStarted):
                self._open(event.start_step)
            elif isinstance(event, Step):
                self._add("train", {name: getattr(event, name) for name in _FIGURES}, event)
                self._add("train", {f"term_{name}": value for name, value in event.terms.items()}, event)
            elif isinstance(event, Evaluated):
                self._add("eval", event.metrics, event)

    def _open(self, start_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.close()
        purge = start_step + 1 if start_step else None
        self._writer = SummaryWriter(str(self._folder), purge_step=purge, flush_secs=10)  # type: ignore[no-untyped-call]

    def _add(self, group: str, figures: Mapping[str, float], event: Step | Evaluated) -> None:
        if self._writer is None:
            self._open(0)
        for name, value in figures.items():
            self._writer.add_scalar(f"{group}/{name}", value, event.step, walltime=event.time)

    def close(self) -> None:
        """See `Logger.close`."""
        if self._writer is not None:
            writer, self._writer = self._writer, None
            with disk_errors(self._folder or Path("tensorboard")):
                writer.close()
