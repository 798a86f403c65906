"""Kind `logger`: observers. Named in the recipe; told every event on the writer's side, in the caller's process; they
answer nothing. `metrics.jsonl` holds the same events, one JSON object a line.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar


@dataclass(frozen=True, kw_only=True)
class Event:
    """Base. time: seconds since the epoch."""

    name: ClassVar[str] = "event"
    time: float

    def to_json(self) -> dict[str, Any]:
        """A flat JSON object with "event": its name."""
        return {"event": self.name, **dataclasses.asdict(self)}

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> Event:
        """What `to_json` made, an event again."""
        kinds = {kind.name: kind for kind in Event.__subclasses__()}
        return kinds[content["event"]](**{name: value for name, value in content.items() if name != "event"})


@dataclass(frozen=True, kw_only=True)
class RunStarted(Event):
    """Once. steps: in all. start_step: done before (a resumed run). parameters, trainable: counts. facts: what was chosen."""

    name: ClassVar[str] = "run_started"
    output: str
    steps: int
    start_step: int
    rows: int | None
    features: int | None
    parameters: int
    trainable: int
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Step(Event):
    """After every optimizer step. step: from 1. lr: of this step. rates: per second, since the last step. padding: share of
    the positions fed that hold no token. memory: peak, bytes. eta: seconds left, by the mean of the steps so far."""

    name: ClassVar[str] = "step"
    step: int
    epoch: float
    loss: float
    terms: Mapping[str, float]
    grad_norm: float
    lr: float
    loss_scale: float
    applied: bool
    rows: int
    tokens: int
    seconds: float
    rows_per_second: float
    tokens_per_second: float
    padding: float
    memory: int
    eta: float


@dataclass(frozen=True, kw_only=True)
class Evaluated(Event):
    """After an evaluation. best: whether it is the best so far by `eval.metric`."""

    name: ClassVar[str] = "evaluated"
    step: int
    metrics: Mapping[str, float]
    rows: int
    seconds: float
    best: bool = False


@dataclass(frozen=True, kw_only=True)
class Checkpointed(Event):
    """A checkpoint or, `kind` "model", the saved model is whole on disk. seconds: that training stood still for it; the rest of a
    checkpoint goes beside the steps that follow."""

    name: ClassVar[str] = "checkpointed"
    step: int
    path: str
    kind: str = "checkpoint"
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Warned(Event):
    """Something a person should know: rows dropped, texts truncated, a step left out."""

    name: ClassVar[str] = "warned"
    message: str
    step: int | None = None


@dataclass(frozen=True, kw_only=True)
class RunEnded(Event):
    """Once, last. status: "finished", "cancelled" or "failed" (`error` says why)."""

    name: ClassVar[str] = "run_ended"
    step: int
    status: str
    seconds: float
    rows_per_second: float = 0.0
    error: str | None = None


class Logger(ABC):
    """Kind `logger`, made with the component's options. terminal: whether it shows the run on the terminal, where bars of libraries
    then have their place too."""

    terminal: ClassVar[bool] = False

    @abstractmethod
    def start(self, output: Path | None, recipe: Mapping[str, Any]) -> None:
        """Before the first event. output: the run's folder, None where the run keeps none."""

    @abstractmethod
    def event(self, event: Event) -> None:
        """An event, in order. An error here ends the run: a logger handles what it can."""

    @abstractmethod
    def close(self) -> None:
        """After the last event, also when the run failed."""
