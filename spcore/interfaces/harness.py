"""Kind `harness`: a library of benchmark tasks that asks a model for texts and for how likely texts are.

`LanguageModelHandle.evaluate_tasks` (`slimpajama evaluate MODEL --tasks NAME`) makes one with the component's options and calls `evaluate`
once, in the caller's process. What its tasks hold, how prompts are made of them and how answers are judged is the library's; the model's
side, batches and the cache among it, is the core's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from spcore.interfaces.model import Processor
    from spcore.interfaces.runtime import Likelihood

Text = str | Sequence[int]
"""A text, or the ids of one."""


class Subject(Protocol):
    """The model that is asked, as the core lends it. Its weights are read when it is first asked. Whoever makes ids himself frames them as
    the model begins texts (`spcore.fitting.prompt_ids`)."""

    source: str

    @property
    def processor(self) -> Processor:
        """Text to ids and back, and with `Chats` conversations to texts; `max_length`: the model's positions."""

    def score(self, asked: Sequence[tuple[Text, Text]]) -> Sequence[Likelihood]:
        """How likely continuations are, of each (prompt, continuation), both texts or both ids; see `LanguageModelHandle.score`."""

    def generate(self, prompts: Sequence[Text], **settings: Any) -> Sequence[Mapping[str, Any]]:
        """One {"text": ..., ...} for each prompt; settings: fields of `GenerationSettings`; see `LanguageModelHandle.generate`."""


@dataclass(frozen=True)
class TaskFigures:
    """Of one task, or of a group of them. metrics: by name, best known first; stderr: standard errors of those that have one. rows: that
    were scored, of so many (`of`); shots: examples in each prompt; version: of the task. None where a group has no such thing."""

    metrics: Mapping[str, float]
    stderr: Mapping[str, float] = field(default_factory=dict)
    rows: int | None = None
    of: int | None = None
    shots: int | None = None
    version: str | None = None


@dataclass(frozen=True)
class HarnessReport:
    """harness: its name and version. tasks: figures by the task's name, groups too. samples: by task, a JSON object a row: what was asked and
    answered, and how it was judged. remarks: lines for the user; what was cut or left out is counted there."""

    harness: str
    tasks: Mapping[str, TaskFigures]
    samples: Mapping[str, Sequence[Mapping[str, Any]]]
    remarks: tuple[str, ...] = ()


class Harness(ABC):
    """Kind `harness`, made with the component's options."""

    @abstractmethod
    def evaluate(self, subject: Subject, tasks: Sequence[str]) -> HarnessReport:
        """Figures on tasks, by name. Raises UserError for a name that is not known, SourceError for data that cannot be had, RefusalError for
        what the model or the options do not allow; all that can be told is told before the subject is first asked."""
