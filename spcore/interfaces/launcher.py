"""Kind `launcher`: starts the processes of a run. The caller's process builds a `RunSpec`, the launcher runs
`spcore.session.run_rank` in each process and passes events up and the wish to stop down.
"""

from __future__ import annotations

import shlex
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from spcore.interfaces.strategy import Layout, Refusal

if TYPE_CHECKING:
    from spcore.components import RegistrySpec
    from spcore.interfaces.logger import Event
    from spcore.session import Session

Emit = Callable[["Event"], None]


class Control(Protocol):
    """The parent's wish to stop; `threading.Event` is one."""

    def is_set(self) -> bool:
        """Whether the run should stop at the end of the present step."""


@dataclass(frozen=True)
class Probe:
    """That a run is compared with others, see `spcore.probing`. folder: on the writer's machine, takes what the run computes; every rank
    reaches it. what: "run": train; "masks": what dropout draws."""

    folder: str
    what: Literal["run", "masks"] = "run"


@dataclass(frozen=True)
class RunSpec:
    """A run as data, the same for every rank.

    recipe: resolved, JSON. registry: how a child builds the same registry. layout: of processes. inline: the strategy may
    run in the caller's process. probe: None: an ordinary run. live: the caller's own session, for launchers that stay in its process.
    """

    recipe: Mapping[str, Any]
    registry: RegistrySpec
    layout: Layout
    inline: bool
    options: Any = None
    probe: Probe | None = None
    live: Session | None = field(default=None, compare=False)


@dataclass(frozen=True)
class RunResult:
    """steps done; metrics of the last evaluation; output: the run's folder; cancelled: stopped on request. leads: whether it is told
    to the process that shows it: one of those that started together."""

    steps: int
    metrics: Mapping[str, float]
    output: str
    cancelled: bool = False
    leads: bool = True


class Launcher(ABC):
    """Kind `launcher`, made with the component's options."""

    processes: int = 1
    joins: bool = False
    """Whether it starts nothing, but takes the caller's process for one of several that were started together."""
    scripts_all: bool = False
    """Whether what `script` gives starts every process, each with a launcher that `joins`."""
    leads: bool = True
    """Whether the caller's process keeps the run's folder and its loggers; not where others like it are part of the same run."""

    @abstractmethod
    def check(self, spec: RunSpec) -> list[Refusal]:
        """What it cannot start."""

    @abstractmethod
    def launch(self, spec: RunSpec, events: Emit, control: Control) -> RunResult:
        """Run to the end. events: called in the caller's process, in order. Raises RankError for a rank that failed."""

    def script(self, run: Sequence[str]) -> str:
        """What a person types on each node, or hands to a scheduler, to start the run without this program watching it: `slimpajama launch
        --print` shows it. run: `slimpajama run` with its arguments, as words. Default: these alone. Raises RefusalError where the options
        say too little."""
        return shlex.join(run)
