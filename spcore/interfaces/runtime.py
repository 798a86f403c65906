"""Kind `runtime`: runs a saved model without training it (predict, evaluate, generate, serve)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np

    from spcore.artifact import Artifact
    from spcore.interfaces.model import LanguageModel, Processor
    from spcore.interfaces.task import Batch, BoundTask


ANY_ROOM = (2**31, 2**31, 2**31)
"""A capacity that refuses nothing."""


class Matcher(Protocol):
    """Where one sample stands in what its text may be; a `Grammar` makes it. Used by the decoding loop, never by two threads at once."""

    @property
    def finished(self) -> bool:
        """Whether the text may end here; an end token is allowed then, and where nothing else is allowed it must end."""

    def allowed(self) -> np.ndarray:
        """[vocabulary] bool: the tokens that may follow, end tokens left out."""

    def advance(self, token: int) -> None:
        """Take a token that was allowed."""

    def copy(self) -> Matcher:
        """One that goes its own way from here (beams, samples)."""


class Grammar(Protocol):
    """What a text may be, bound to a vocabulary; made by a component of kind `constraint`. May be shared between threads."""

    def start(self) -> Matcher:
        """A matcher at the beginning of a text."""


class Constraint(ABC):
    """Kind `constraint`, made with the component's options (a JSON schema, a regular expression, choices)."""

    @abstractmethod
    def bind(self, processor: Processor) -> Grammar:
        """Compile for a vocabulary. Raises RefusalError for what cannot be expressed, with the place in it."""


@dataclass(frozen=True)
class GenerationRequest:
    """One request to generate.

    ids: prompt [length]. n: samples of it. temperature 0: greedy. top_k 0, top_p 1, min_p 0: no limit; min_p is the share of the
    likeliest token's probability that a token must have (Nguyen et al. 2024, https://arxiv.org/abs/2407.01082).
    repetition_penalty (Keskar et al. 2019, https://arxiv.org/abs/1909.05858): divides positive and multiplies negative logits of tokens
    that the prompt (an encoder's input not) or the answer holds; 1: none. presence_penalty, frequency_penalty: taken from the logits of tokens
    in the answer, once or for each time; 0: none. beams: above 1 beam search, with temperature 0; n of its beams are given out, best
    first, once all is done. length_penalty: exponent of the length that a beam's score is divided by. early_stopping: whether beam
    search ends with the first `beams` finished ones.
    min_new_tokens: before so many no end token is taken. seed: decides every draw, together with ids, variant, sample and position;
    whatever runs beside it does not. variant: tells apart requests of the same ids and seed. stop: token ids that end it (not given out).
    grammar: what the text may be; None: anything. suppress: tokens that are never taken. no_repeat_ngram: so many tokens in a row, of the
    prompt (an encoder's input not) and the answer, occur no second time (Paulus et al. 2018, https://arxiv.org/abs/1705.04304); 0: no limit.
    forced_first: the first token; forced_last: the one at `max_new_tokens`; None: any. keep: for a turn of a conversation: what is fed stays
    where it is until the room is needed, and the next turn, which begins with it, goes on from there.
    """

    ids: tuple[int, ...]
    max_new_tokens: int = 128
    n: int = 1
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool = False
    min_new_tokens: int = 0
    seed: int = 0
    variant: int = 0
    stop: tuple[int, ...] = ()
    grammar: Grammar | None = None
    suppress: tuple[int, ...] = ()
    no_repeat_ngram: int = 0
    forced_first: int | None = None
    forced_last: int | None = None
    keep: bool = False


@dataclass(frozen=True)
class Token:
    """One generated token of sample `sample` of a request, with its log-probability. The last event of a sample has
    `finish` set ("stop", "length", "cancelled") and, when nothing is left to give, token -1."""

    request: int
    sample: int
    token: int
    logprob: float
    finish: Literal["stop", "length", "cancelled"] | None = None


@dataclass(frozen=True)
class PrepareReport:
    """files: what was written. figures: sizes in bytes, differences, accuracies, by name. remarks: lines for the user.

    details: the same and more as JSON, for programs and for slimpajama.json. refusal: the line for what was asked and not written,
    as it fell short of what was asked of it; None where all was. What `files` lists is good either way.
    """

    files: tuple[str, ...] = ()
    figures: Mapping[str, float] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    refusal: str | None = None


@dataclass(frozen=True)
class Score:
    """A runner's figures on labelled rows. metric: the task's first; better: "more" or "less". rows_per_second: tokenizing left out."""

    metric: str
    value: float
    better: Literal["more", "less"]
    rows_per_second: float

    def loss_from(self, before: Score) -> float:
        """How much worse this is than `before`, in the metric's unit; below 0: better."""
        return (before.value - self.value) * (1 if self.better == "more" else -1)


@dataclass(frozen=True)
class Likelihood:
    """Of one continuation. logprob: nats, the sum over its tokens; greedy: whether each of them is the likeliest where it stands;
    tokens: how many."""

    logprob: float
    greedy: bool
    tokens: int


class Samples(Protocol):
    """Labelled rows that a user names for `Runtime.prepare`, lent by the core. name: as the user wrote it."""

    name: str

    def batches(self, tokens: int) -> Iterator[Batch]:
        """Batches in the order of the rows, of at most so many padded tokens."""

    def score(self, runner: Runner) -> Score:
        """Evaluate a runner with the ability `Forwards` on all rows."""


class Runner(ABC):
    """A loaded model. capabilities: names of the abilities below that it has; provider: what it really runs on."""

    capabilities: frozenset[str]
    provider: str

    @abstractmethod
    def close(self) -> None:
        """Free what it holds; a second call does nothing."""


class Runtime(ABC):
    """Kind `runtime`, made with the component's options.

    portable: whether `load` does without `artifact.model`, whose making imports what a runtime may want to do without.
    generates: whether its runners have the ability `Generates` for models that write text.
    """

    portable: bool = False
    generates: bool = False

    @abstractmethod
    def prepare(
        self,
        artifact: Artifact,
        task: BoundTask,
        options: Mapping[str, Any],
        data: Mapping[str, Samples] = MappingProxyType({}),
    ) -> PrepareReport:
        """Export, optimise, quantise and check numbers, into the artifact's folder, whole or not at all. Does nothing where nothing
        is needed. options: the runtime's own, checked before anything starts. data: rows that the user named, under "evaluate" and
        "calibrate". Raises RefusalError for options and data that it cannot honour."""

    def variants(self, artifact: Artifact) -> Sequence[Mapping[str, Any]]:
        """Options of this runtime under which the saved model can be run as it lies there, for `bench`."""
        return ({},)

    def capacity(self, model: LanguageModel) -> tuple[int, int, int]:
        """What of the model's texts is made at a time, as in `Decodes.capacity`; asked before weights are read, so that what does not fit
        is refused then. Raises RefusalError for options that the model cannot have."""
        return ANY_ROOM

    def begin(self, artifact: Artifact, device: str) -> None:  # noqa: B027 (nothing is a good answer)
        """Called once a saved model is opened to be run: may begin in the background what `load` on the same artifact and device will
        need. What goes wrong is raised by `load`."""

    @abstractmethod
    def load(self, artifact: Artifact, task: BoundTask | None, device: str) -> Runner:
        """Load for running; `task` None: the backbone alone (`Embeds`). device: "auto", "cpu", "cuda", "cuda:1"."""


@runtime_checkable
class Forwards(Protocol):
    """Ability of a Runner: outputs of a batch. batch_tokens: padded tokens that a batch should hold at most."""

    batch_tokens: int

    def forward(self, batch: Batch) -> dict[str, np.ndarray]:
        """name -> array, names and axes as in `head.outputs`; float32."""


@runtime_checkable
class Scores(Protocol):
    """Ability of a Runner with `Forwards` and a decoder's head on the vocabulary: how likely given tokens are, without logits of the whole
    vocabulary leaving the device. Asked by `spcore.scoring`."""

    def score(self, batch: Batch, places: np.ndarray, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """places: [n, 2] int64, (sequence, position) in the batch's inputs, each as often as is asked for; tokens: [n] int64, what may follow
        there. Of each the log-probability (nats, float32 [n]), and whether no token is likelier (bool [n])."""


@runtime_checkable
class Embeds(Protocol):
    """Ability of a Runner: one vector a text."""

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """[rows, hidden], float32; mean over a text's tokens of the last hidden states."""


@runtime_checkable
class Generates(Protocol):
    """Ability of a Runner: text out. admission "continuous": a request may join while others run; "batch": it waits."""

    admission: Literal["continuous", "batch"]

    def submit(self, request: GenerationRequest) -> int:
        """Queue a request; its id."""

    def events(self) -> Iterator[Token]:
        """Tokens of all requests as they come, until none is left; each sample ends in exactly one final event."""

    def cancel(self, request: int, sample: int | None = None) -> None:
        """End a request, or one sample of it; what is ended still gets its final event. Nothing for what has ended."""


@runtime_checkable
class Decodes(Protocol):
    """Ability of a Runner, and what an engine lends (`spcore.interfaces.strategy.LendsDecoder`): the primitives under
    `spcore.generation`, over slots of a cache.

    capacity: (slots, length of a slot, length of an encoder's input).
    """

    capacity: tuple[int, int, int]

    def prefill(self, rows: Sequence[Mapping[str, np.ndarray]], slots: Sequence[int]) -> np.ndarray:
        """Feed rows (ragged, {"input_ids": [n]}) to slots, in one call or in chunks; logits [slots, vocabulary] float32
        after the last token given. Encoder-decoders take input_ids in the first chunk, decoder_input_ids in each."""

    def decode(self, ids: Sequence[int], slots: Sequence[int]) -> np.ndarray:
        """Feed one token to each slot; logits [slots, vocabulary] float32."""

    def copy(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Copy caches, simultaneously: all sources are read before any target is written (beams overlap)."""

    def free(self, slots: Sequence[int]) -> None:
        """Empty slots."""


@runtime_checkable
class Crops(Protocol):
    """Ability of what `Decodes`, beside it: prompts that begin alike then share a beginning that is computed once. Caches that forget
    (windows in a ring, states of recurrent models) lack it."""

    def crop(self, slots: Sequence[int], lengths: Sequence[int]) -> None:
        """Forget what each slot was fed after its first `length` tokens, 1 or more and no more than it holds."""
