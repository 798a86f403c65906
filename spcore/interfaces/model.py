"""Kind `model`: where a language model comes from and what it is made of.

`Model.open` is called by `spcore.session.assemble` in every process, before any weight is read; the `LanguageModel` it
returns is then asked by a strategy's engine to `build` a module on the meta device and to stream `weights`.
Everything a plugin author must supply is here; torch is imported only by implementations.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from spcore.errors import RefusalError

if TYPE_CHECKING:
    import numpy as np
    import torch

    from spcore.interfaces.runtime import Decodes

HeadKind = Literal["vocabulary", "sequence", "token", "span", "custom"]


@dataclass(frozen=True)
class Head:
    """What sits on the hidden states, as a task describes it.

    kind: "vocabulary" (logits over the vocabulary), "sequence" (one vector a sequence), "token" (one a token), "span"
        (start and end), all built by the model plugin with the family's own Hugging Face head; "custom": `build`.
    size: width of the output's last axis; 0 for "vocabulary" (the model's own size).
    labels: names of the outputs, in order; empty where they have none.
    outputs: name -> axes, each one of "sequence", "position", "label", "vocabulary", "hidden". The names are those of
        `forward`'s result, of an export and of a runtime. Only "position" and "vocabulary" may be sharded.
    build: for "custom": called with the model's configuration; returns a module whose
        forward(hidden [S, L, H], mask [S, L] bool, segments [N, 2] int64 or None) -> {name: tensor}.
        `segments` holds (sequence, start) of every feature when sequences are packs; then outputs whose first axis is
        "sequence" have N rows, one a segment, in that order.
    problem_type: Hugging Face's word for a "sequence" head's loss, kept in config.json.
    causal: what the task needs of the model: that a position attends to earlier ones only (True), or to all (False), else the answer
        would be seen, or half the text not; None: either. Checked against `Anatomy.causal` when a run is assembled.
    """

    kind: HeadKind
    size: int
    outputs: Mapping[str, tuple[str, ...]]
    labels: tuple[str, ...] = ()
    build: Callable[[Any], torch.nn.Module] | None = None
    problem_type: str | None = None
    causal: bool | None = None

    def __post_init__(self) -> None:
        if (self.build is None) == (self.kind == "custom"):
            raise ValueError(f"head of kind {self.kind!r}: `build` goes with kind 'custom' and with no other")


@dataclass(frozen=True)
class Anatomy:
    """Where the parts of a built module lie, by dotted path. Engines shard, wrap and cut by it.

    base: path of the backbone ("bert"), "" where the root holds its parts (T5). embed, layers, final: paths below `base`; `layers`
        is a ModuleList; None where a family has no such part or it is not known. head: paths of the head's modules, at the root.
    encoder_layers: ModuleList below `base` of an encoder-decoder's encoder; `layers`, `final`, `causal` are then of its decoder. What
        wraps or shards layer by layer takes both lists, what cuts between layers refuses such a model.
    tied: alias parameter -> owner parameter (biases too); the alias is not stored.
    causal: whether a position of the outputs attends to earlier positions only (and to all of an encoder's).
    carried: names of tensors that pass between layers beside the hidden states (T5's position bias).
    packs: whether forward honours `segment_ids`: no attention and no positions across a border.
    """

    base: str
    embed: str | None
    layers: str | None
    final: str | None
    head: tuple[str, ...]
    causal: bool
    tied: Mapping[str, str] = field(default_factory=dict)
    carried: tuple[str, ...] = ()
    packs: bool = False
    encoder_layers: str | None = None


@dataclass(frozen=True)
class Encoding:
    """One encoded text or pair.

    arrays: name -> int64 array [length]: "input_ids" always, "token_type_ids" where the family has them.
    offsets: [length, 2], (first, last + 1) characters of each token in its text; (0, 0) for special tokens; None where the
        tokenizer cannot tell. parts: [length], 0 or 1: the text a token is from, -1 for special tokens.
    words: [length], the number of the word that a token is of, -1 for special tokens; of `Processor.encode_words` alone.
    truncated: tokens left out because of `max_length`.
    """

    arrays: dict[str, np.ndarray]
    truncated: int = 0
    offsets: np.ndarray | None = None
    parts: np.ndarray | None = None
    words: np.ndarray | None = None


class Processor(ABC):
    """Text to ids and back; carried by a `LanguageModel`, used by tasks in every process.

    special: ids of "pad", "cls", "sep", "mask", "bos", "eos", "unk", as far as the vocabulary has them; `special_ids`: those, and
        those without such a name (T5's sentinels).
    fill: value that pads each array of an encoding, by its name. max_length: what the model's positions allow.
    fingerprint: hash of everything that decides an encoding; a part of the token cache's key.
    """

    special: Mapping[str, int]
    fill: Mapping[str, int]
    vocabulary_size: int
    max_length: int | None
    fingerprint: str

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids of all special tokens: none of them stands for a part of a text."""
        return frozenset(self.special.values())

    @abstractmethod
    def encode(
        self, text: str, pair: str | None = None, *, max_length: int | None = None, special: bool = True
    ) -> Encoding:
        """Encode a text, or a pair; `max_length` tokens at most (of a pair, the longer is cut first)."""

    def encode_target(self, text: str, *, max_length: int | None = None) -> Encoding:
        """Encode what a model is to answer, with special tokens; otherwise than `encode` where a family has a tokenizer for the language
        that it writes."""
        return self.encode(text, max_length=max_length)

    def encode_words(self, words: Sequence[str]) -> Encoding:
        """Encode a text that is cut into words, whole and with special tokens; `Encoding.words` tells the word of each token. A word may
        have no token. Offsets are within each word. Raises RefusalError where the tokenizer cannot tell, as here."""
        raise RefusalError(f"the tokenizer ({type(self).__name__}) does not tell which word a token is of")

    @abstractmethod
    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """The text of `ids`."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the tokenizer's files in Hugging Face's layout."""

    def portable(self) -> Mapping[str, Any] | None:
        """JSON that makes the same processor of the tokenizer.json that `save` writes, through `spcore.tokenizing`, and so without the
        plugin that made this one; None where there is no such file."""
        return None


@runtime_checkable
class Chats(Protocol):
    """Ability of a Processor that knows how a conversation is written for its model. The one way from messages to ids: library, command
    line, servers and training all go through it.

    chat_template: the Jinja template, which `save` writes with the tokenizer; None where there is none.
    turn_stop: ids that end the assistant's turn, as the template writes it; turn_stop_strings: the same as texts, where the vocabulary has
        no such token. Either may be empty.
    """

    chat_template: str | None
    turn_stop: tuple[int, ...]
    turn_stop_strings: tuple[str, ...]

    def chat(self, messages: Sequence[Mapping[str, Any]], *, answer: bool = True) -> tuple[int, ...]:
        """Ids of a conversation [{"role": "system" | "user" | "assistant", "content": text}], with exactly one "bos" in front where the
        model begins texts with one. answer: end with what begins the assistant's answer. Raises RefusalError for a template that refuses
        the messages, in its words, or that is not there."""

    def chat_text(self, messages: Sequence[Mapping[str, Any]], *, answer: bool = True) -> str:
        """The same as the template writes it, for programs that keep prompts as texts (`spcore.interfaces.harness`): what reads like a
        control token in a message is one then. Raises as `chat`."""


@runtime_checkable
class Steps(Protocol):
    """Ability of a LanguageModel whose modules give a text token by token, from a cache of what was fed."""

    def decoder(self, module: torch.nn.Module, slots: int, length: int, encoder_length: int = 0) -> Decodes:
        """The primitives over a module that `build` made with a "vocabulary" head, on the module's device, in its dtype; it is changed
        in nothing. encoder_length: 0 for a model without an encoder. Raises RefusalError for more positions than the model has."""

    def generation(self) -> Mapping[str, Any]:
        """What the model's own files say of generating, as fields of `GenerationRequest` ("stop", "temperature", ...), and
        "decoder_start", the token that an encoder-decoder's answer begins with."""


@runtime_checkable
class Stages(Protocol):
    """Ability of a LanguageModel whose modules can be cut between layers into the stages of a pipeline."""

    def depth(self, head: Head) -> int:
        """Layers that a module with this head has, between any two of which it can be cut: those of `Anatomy.layers`. Raises
        RefusalError that says why it cannot be cut. Called by `ParallelStrategy.check`: configuration only."""

    def stage(self, module: torch.nn.Module, head: Head, layers: range) -> None:
        """Leave of a module that `build(head)` made, still without values, what the stage with these layers needs; names stay. The first
        stage keeps the embeddings, the last one what follows the layers, the head too; a tied tensor stays under its owner's name on
        every stage that has an alias of it. No layers, `range(depth, depth)`: what follows them alone.

        Then forward(states=..., **inputs): every stage is given the microbatch's inputs; `states` holds what the stage before gave, None on
        the first. All but the last give {"hidden": [S, L, H], and by name what `Anatomy.carried` lists}, the last one the outputs.
        """

    def states(self, inputs: Mapping[str, torch.Tensor], parts: int = 1) -> Mapping[str, tuple[int, ...]]:
        """Name -> shape of what passes between stages for such inputs, in one order; in the parameters' dtype. parts: ranks that share the
        positions, see `SharesPositions`."""


class Positions(Protocol):
    """One rank's part of the positions of each text, which an engine lends to a module; ranks of one group have equal parts, in order."""

    def own(self, x: torch.Tensor, axis: int) -> torch.Tensor:
        """This rank's part of what has all positions on an axis."""

    def gather(self, x: torch.Tensor, axis: int) -> torch.Tensor:
        """All positions from every rank's part; differentiable: what follows may differ between ranks. Collective."""

    def apart(self) -> AbstractContextManager[None]:
        """Within, each rank draws for itself; outside all draw alike, as what they compute is alike."""


@runtime_checkable
class SharesPositions(Protocol):
    """Ability of a LanguageModel whose modules can work on a part of each text's positions and attend to all of them."""

    def shares(self, head: Head) -> None:
        """Raises RefusalError that says why a module with this head cannot. Called by `ParallelStrategy.check`: configuration only."""

    def share(self, module: torch.nn.Module, head: Head, positions: Positions) -> None:
        """Have a module that `build(head)` made do so. Inputs stay whole, a multiple of the group's size long. Outputs with an axis
        "position" of a head "vocabulary" or "token" are this rank's part of them; all others are whole, the same on every rank."""


class LanguageModel(ABC):
    """An opened model: configuration and processor are read, weights are not.

    config: the family's configuration object. family: its name ("bert"). processor: see `Processor`.
    source: where it was opened from, as the recipe says.
    """

    config: Any
    family: str
    processor: Processor
    source: str

    @abstractmethod
    def anatomy(self, head: Head) -> Anatomy:
        """Where the parts lie in what `build(head)` returns. No weights, no torch module is made."""

    @abstractmethod
    def build(self, head: Head, dtype: str = "float32", device: str = "meta") -> torch.nn.Module:
        """The module with this head; parameters named as Hugging Face does, a custom head's under `head.`.

        forward(**inputs) -> {name: tensor}, names = head.outputs; inputs as in `Batch.inputs`. On "meta", parameters and
        buffers have no storage: `spcore.tensors.materialise` fills them. Raises RefusalError for a head the family lacks.
        """

    @abstractmethod
    def initialise(self, module: torch.nn.Module, path: str) -> None:
        """Initialise one leaf module in place, on the CPU, from torch's global generator (seeded by the caller)."""

    @abstractmethod
    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Stream (Hugging Face name, CPU tensor); nothing where the model has no weights yet. Never unpickles."""

    @abstractmethod
    def save_config(self, folder: Path, head: Head) -> None:
        """Write config.json so that `transformers` opens the folder: the head's class where it has one, else the backbone."""


class Model(ABC):
    """Kind `model`: opens a source. Registered with the schemes it claims ("hf", "gguf"); the default takes the rest.

    source: without its scheme; "" where the recipe gives none: options alone then say what is made, with new weights, and
    `LanguageModel.source` is "" too.
    """

    @abstractmethod
    def open(self, source: str) -> LanguageModel:
        """Read configuration and processor. Raises SourceError that says what was looked for, where, and near names."""


@runtime_checkable
class LearnsTexts(Protocol):
    """Ability of a `Model` of which a part is made of the training data's texts before it is opened: its tokenizer.

    learns: whether its options ask for that. `spcore.session.assemble` then calls `learn` before `open`, in every process.
    """

    learns: bool

    def learn(self, texts: Iterable[str], rows: int | None, key: str) -> None:
        """texts: all of the training rows, in order, read anew each time they are iterated. rows: how many, None where that is not known.
        key: of the texts; where it is the same so are they, and nothing need be made twice. Raises RefusalError, DataError."""
