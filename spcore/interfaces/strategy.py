"""Kind `strategy`: how a run is laid over processes, and the engine that does its arithmetic.

`layout` and `check` run in the caller's process before anything starts; `engine` once in every rank. The trainer owns the
order of things and calls the engine; the engine owns arithmetic and collectives and no policy.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from spcore.interfaces.bridge import Bridges, NoBridges
from spcore.interfaces.task import Batch, EvalPart

if TYPE_CHECKING:
    import torch

    from spcore.interfaces.adapter import Adapter
    from spcore.interfaces.model import Head, LanguageModel
    from spcore.interfaces.optimizer import Optimizer
    from spcore.interfaces.precision import PrecisionPolicy
    from spcore.interfaces.runtime import Decodes
    from spcore.interfaces.task import BoundTask


AXES = {
    "dp": "data parallel", "fsdp": "data parallel, sharded", "tp": "tensor parallel",
    "pp": "pipeline parallel", "cp": "context parallel", "ep": "expert parallel",
}  # fmt: skip
"""What a layout is written with, "tp=2,pp=2"."""


@dataclass(frozen=True)
class BatchRule:
    """What an engine asks of the microbatches of a step. equal_length "step": all of them, on all ranks, equally long
    and of equally many features.
    length_multiple: lengths are rounded up to it. count_multiple: microbatches a rank and step are a multiple of it."""

    equal_length: Literal["none", "step"] = "none"
    length_multiple: int = 1
    count_multiple: int = 1


@dataclass(frozen=True)
class Layout:
    """axes: ordered name -> size ("data", "pipeline", "tensor", ...); their product is the world size."""

    axes: Mapping[str, int] = field(default_factory=lambda: {"data": 1})

    @property
    def world_size(self) -> int:
        """Processes in all."""
        size = 1
        for n in self.axes.values():
            size *= n
        return size

    @property
    def data_size(self) -> int:
        """Ranks that see different microbatches."""
        return self.axes.get("data", 1)

    def place(self, rank: int, local_rank: int) -> Place:
        """Where a rank stands: ranks count through the last axis first. What runs on the rank says on which device."""
        inner = 1
        for name, size in reversed(list(self.axes.items())):
            if name == "data":
                break
            inner *= size
        data_rank = rank // inner % self.data_size
        return Place(rank, self.world_size, local_rank, data_rank, self.data_size, is_writer=rank == 0)


@dataclass(frozen=True)
class Place:
    """Where a process stands. device: "cpu", "cuda:0", ...; data_rank of data_size; is_writer: on exactly one rank."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    data_rank: int = 0
    data_size: int = 1
    is_writer: bool = True
    device: str = "cpu"


@dataclass(frozen=True)
class Plan:
    """Everything an engine needs, resolved and checked. micro_batch_size None: cut by `micro_batch_tokens`.
    max_length: tokens of the longest feature possible. deterministic: kernels that have no deterministic form are refused.
    nonfinite: what a step with a loss or gradient that is not finite does. options: the strategy's own. bridges: the registry's."""

    model: LanguageModel
    head: Head
    task: BoundTask
    precision: PrecisionPolicy
    optimizer: Optimizer | None
    adapter: Adapter | None
    global_batch_size: int
    micro_batch_size: int | None
    micro_batch_tokens: int
    max_length: int | None
    pack: int | None
    clip_norm: float | None
    seed: int
    deterministic: bool
    nonfinite: Literal["stop", "skip"]
    layout: Layout
    device: str = "auto"
    options: Any = None
    bridges: Bridges = field(default_factory=NoBridges)


@dataclass(frozen=True)
class Refusal:
    """A combination that is refused: `subject` names parts or settings, `reason` what is wrong, `hint` what would do."""

    subject: str
    reason: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.subject}: {self.reason}" + (f"; {self.hint}" if self.hint else "")


@dataclass(frozen=True)
class StepReport:
    """The same on every rank. loss: the sum of the weighted term means. terms, totals: by term. grad_norm: before clipping.
    applied: False where a step was left out (overflow under loss scaling, nonfinite "skip"). loss_scale: 1 without scaling.
    nonfinite: names of what was not finite. positions: fed in the step on all ranks, padding included; 0: those of the
    microbatches as they came."""

    loss: float
    terms: Mapping[str, float]
    totals: Mapping[str, float]
    grad_norm: float
    applied: bool = True
    loss_scale: float = 1.0
    nonfinite: tuple[str, ...] = ()
    positions: int = 0


class Pending(Protocol):
    """A save under way, of one rank."""

    def wait(self) -> None:
        """Return once everything is on disk; raises what the save raised."""

    def done(self) -> bool:
        """Whether `wait` would return, or raise, at once."""


class Engine(ABC):
    """One per process. `train_step`, `eval_step`, `agree`, `collect`, `save`, `load` and `weights` are collective."""

    place: Place

    @abstractmethod
    def train_step(self, microbatches: Sequence[Batch], lr: float, step: int) -> StepReport:
        """Forward, backward, reduce, clip, update. microbatches: this rank's; lr: this step's; step: from 0.

        Raises OutOfMemory, on every rank and with nothing changed, where the microbatches of some rank do not fit; an engine that
        cannot undo what it has begun lets the device's own error through, which ends the run.
        """

    @abstractmethod
    def eval_step(
        self, microbatches: Sequence[Batch], method: Literal["reduce", "annotate"] = "reduce"
    ) -> EvalPart | None:
        """Without gradients and dropout. "annotate" returns rows {"feature_id", name: array}. None on ranks without outputs."""

    @abstractmethod
    def agree(self, code: int) -> int:
        """The largest code over all ranks: stop, skip, save and cancel are decided together."""

    @abstractmethod
    def collect(self, obj: Any, *, everywhere: bool = False) -> list[Any] | None:
        """Every rank's object, by rank, on the writer and None elsewhere; or on every rank. Of ranks that hold the same
        outputs all but one give None."""

    @abstractmethod
    def save(self, folder: Path) -> Pending:
        """Write this rank's share of model, optimizer, scaler and RNG state into an existing folder, as they are now, while training
        goes on. The save before is over."""

    @abstractmethod
    def load(self, folder: Path) -> None:
        """Read what `save` wrote, at any layout of any strategy that writes the same format; the engines on torch write one. Never
        unpickles. Raises CheckpointError where it is of another model, or of another format."""

    @abstractmethod
    def weights(self, which: Literal["model", "adapter"] = "model") -> Iterator[tuple[str, torch.Tensor]]:
        """(Hugging Face name, CPU tensor): every rank drains it, only the writer receives items. "adapter": the adapter's
        parameters and heads that are new."""

    @abstractmethod
    def parameters(self) -> tuple[int, int]:
        """Elements of the whole model's parameters, ties counted once: (all, trainable)."""

    @abstractmethod
    def facts(self) -> Mapping[str, str]:
        """What the engine chose by itself, for the log: kernel, device, attention ("fp32 kernel": "onednn")."""

    @abstractmethod
    def peak_memory(self) -> int:
        """Bytes at the highest since start, of the device, else of the process."""

    @abstractmethod
    def close(self) -> None:
        """Give back what it holds and process-wide state it changed; a second call does nothing."""


@runtime_checkable
class Gradients(Protocol):
    """Ability of an Engine: gradients of a step summed over all ranks, before clipping, without an update; drained like `weights`."""

    def gradients(self, microbatches: Sequence[Batch]) -> Iterator[tuple[str, torch.Tensor]]:
        """(Hugging Face name, CPU float32 tensor) of whole parameters, however they are sharded; of tied ones the owner's, all uses
        summed. One that no rank has a gradient of may be missing or zero."""


@runtime_checkable
class LendsDecoder(Protocol):
    """Ability of an Engine: text from the model as it stands in training, for an evaluation by generating. Collective.

    decodes_together: whether the decoder's `prefill` and `decode` are collective (weights are spread over data ranks): every rank then calls
    the same one equally often, with zero slots where it has nothing to feed, see `spcore.generating.Together`. False: each data rank
    decodes for itself. Ranks of one data rank (tensor or pipeline parallel) do the same in either case: they have the same logits.
    """

    decodes_together: bool

    def decoding(self, slots: int, length: int, encoder_length: int = 0) -> AbstractContextManager[Decodes]:
        """A decoder over the weights as they are now, in the run's precision, without dropout. Sizes as in `Steps.decoder`, the same on
        every rank. On leaving, its caches are freed, and mode, gradients and random generators are as they were. Raises RefusalError
        for more positions than the model has."""


@dataclass(frozen=True)
class Hardware:
    """gpus in all, of one kind, `per_node` a node; "cpu" for none."""

    kind: str
    gpus: int
    per_node: int


@dataclass(frozen=True)
class Cost:
    """memory: bytes on the fullest device. seconds: per step. parts: what they are made of, by name."""

    memory: int
    seconds: float
    parts: Mapping[str, float] = field(default_factory=dict)


@runtime_checkable
class Estimates(Protocol):
    """Ability of a ParallelStrategy: says which layouts are possible and what they cost, without running."""

    def candidates(self, world_size: int) -> Iterator[Layout]:
        """Layouts of that many processes."""

    def estimate(self, plan: Plan, hardware: Hardware) -> Cost:
        """Memory and time of a step under `plan.layout`."""


class ParallelStrategy(ABC):
    """Kind `strategy`, made with the component's options. inline: may run in the caller's process. decodes: its engines have the ability
    `LendsDecoder`; what is evaluated by generating is refused elsewhere, before a run starts."""

    inline: bool = False
    decodes: bool = False

    @abstractmethod
    def layout(self, world_size: int) -> Layout:
        """The layout over that many processes. Raises RefusalError where they cannot be laid out."""

    def options_for(self, axes: Mapping[str, int]) -> Mapping[str, Any] | None:
        """The options under which it lays processes out so, beside its defaults; None: never. Asked by `slimpajama parity` for each
        `--layout`, before anything starts. axes: name -> size above 1, by the names of AXES and a plugin's own; {}: one process.
        Whether sizes suit a model is for `check` to say. Engines of such a layout have the ability `Gradients`."""
        return None

    @abstractmethod
    def check(self, plan: Plan) -> list[Refusal]:
        """What it cannot honour of a plan; looks at configuration only: no process, no weights."""

    def batch_rule(self, plan: Plan) -> BatchRule:
        """What its engines ask of microbatches."""
        return BatchRule()

    @abstractmethod
    def engine(self, plan: Plan, place: Place) -> Engine:
        """Build on meta, adapter, parallelise, load own slices, initialise the rest, optimizer."""
