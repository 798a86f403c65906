"""Kind `task`: what is learnt. A task turns rows into features and batches, and outputs into losses, figures and answers.

`Task.bind` is called once in every process by `spcore.session.assemble`. Of the `BoundTask`, `featurize`, `augment` and
`collate` run in the loader (numpy, no torch), `loss` and `reduce` in the engine on the ranks that hold the outputs (the
engine's tensors), `metrics` on the writer, `decode` where predictions are made (numpy).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from spcore.interfaces.dataset import Row, Schema
from spcore.interfaces.model import Head, Processor

if TYPE_CHECKING:
    import numpy as np
    import torch

    from spcore.interfaces.runtime import GenerationRequest

IGNORE = -100
"""Label of a position that has none; any negative label counts as that."""


@dataclass(frozen=True)
class Feature:
    """One unit of training.

    id: unique in a source, from 0, in row order; -1 for filler. row_id: the row it came from. A row may give several.
    arrays: [length] or [sequences, length] (pairs, choices), or any shape for what is not one value a token.
    length: tokens of its longest sequence; `augment` keeps it.
    filler: fills a short batch: one real token, weight 0, invisible to `reduce` and `metrics`.
    truncated: tokens of the row that did not fit `data.max_length`; truncated_target: of its target, a limit of the task's own.
    """

    id: int
    row_id: int
    arrays: dict[str, np.ndarray]
    length: int
    filler: bool = False
    truncated: int = 0
    truncated_target: int = 0


@dataclass(frozen=True)
class Batch:
    """One microbatch. From `collate` as numpy; inside `loss` and `reduce`, `inputs` and `targets` hold the engine's tensors.

    inputs: [sequences, length], never 3-D. Reserved: "input_ids"; "attention_mask" (1 = token); in packs "segment_ids"
        (1, 2, ... by feature, 0 = padding) and "position_ids" (from 0 in each segment); for an encoder-decoder "decoder_input_ids" and
        "decoder_attention_mask", [sequences, decoder length]: then a "position" axis of the outputs is the decoder's.
    targets: aligned with the outputs: [sequences, length] for a "position" axis, else one entry a sequence (in packs one a
        segment, sequence by sequence). Labels below 0: none.
    row_of, feature_ids: [sequences, segments], -1 = none; segment k of a pack is where segment_ids == k + 1.
    weights: loss term -> its weight in this batch, from the data alone; 0 for filler.
    """

    inputs: dict[str, Any]
    targets: dict[str, Any]
    row_of: np.ndarray
    feature_ids: np.ndarray
    weights: dict[str, float]


@dataclass(frozen=True)
class LossTerm:
    """sum: scalar tensor, the plain sum over what counts (never a mean); the engine divides by the term's total weight."""

    name: str
    sum: torch.Tensor
    coefficient: float = 1.0


@dataclass(frozen=True)
class EvalPart:
    """Part of an evaluation. sums: added up over parts and ranks. rows: plain dicts that carry feature_id and row_id; the
    core drops id -1 and asserts that no feature id is there twice."""

    sums: dict[str, float]
    rows: list[dict[str, Any]]


@dataclass(frozen=True)
class Limits:
    """max_length: tokens of a feature at most, None = what the model allows. pack: tokens of a pack, None = no packs.
    stride: tokens by which windows of a long text overlap, None = none; only tasks with `Task.windows` are given one. evaluation: the
    features are for an evaluation or predictions: what a task varies from epoch to epoch to learn more is left out."""

    max_length: int | None = None
    pack: int | None = None
    stride: int | None = None
    evaluation: bool = False


@dataclass(frozen=True)
class Role:
    """A column that a task reads, under the task's own name for it.

    guesses: names of columns to take for it, best first, when the recipe maps none. required: for training and
    evaluation; prediction needs only roles with `target` False. kind: "text", "label", "number" or "any". tokens: a list of token ids is
    taken in a text's place. series: beginnings of names, best first: where no column has one of `guesses`, columns called by one and a
    number ("choice1", "choice2") are together a list.
    """

    name: str
    kind: str = "text"
    required: bool = True
    target: bool = False
    guesses: tuple[str, ...] = ()
    tokens: bool = False
    series: tuple[str, ...] = ()


class Ops(Protocol):
    """What an engine lends to `loss` and `reduce`: right under any sharding of the outputs. Differentiable."""

    def token_logprobs(
        self, outputs: Mapping[str, torch.Tensor], labels: torch.Tensor, name: str = "logits"
    ) -> torch.Tensor:
        """log p(label) in float32, of labels' shape; 0 where a label is below 0. outputs[name]: [..., classes]."""

    def logprob_mean(self, outputs: Mapping[str, torch.Tensor], name: str = "logits") -> torch.Tensor:
        """Mean over classes of log p, float32, [...]: what label smoothing adds."""

    def argmax(self, outputs: Mapping[str, torch.Tensor], name: str = "logits") -> torch.Tensor:
        """Index of the largest class, int64, [...]."""

    def full(self, outputs: Mapping[str, torch.Tensor], name: str) -> torch.Tensor:
        """The output whole on this rank."""

    def mean_over_data(self, x: torch.Tensor) -> torch.Tensor:
        """Mean of `x` over the data-parallel ranks."""


class BoundTask(ABC):
    """A task bound to a processor, a model's configuration and the data's labels.

    head: what it needs on the hidden states. terms: names of its loss terms, fixed: ranks reduce one vector in this order.
    metric_names: of the figures that `metrics` gives, the one that counts first; so a recipe's `eval.metric` is checked before a run.
    Empty where they are not known before: then it is checked at the first evaluation. NAME/GROUP, of the rows of a group that only an
    evaluation's data show, need not be there where NAME is.
    """

    head: Head
    terms: tuple[str, ...]
    metric_names: tuple[str, ...] = ()

    @abstractmethod
    def featurize(self, row: Row) -> list[Feature]:
        """Features of a row, with id and row_id 0 (the core numbers them). Raises DataError for a row it cannot use."""

    def augment(self, feature: Feature, rng: np.random.Generator) -> Feature:
        """An epoch's version of the feature (masking, spans); keeps the length. `rng` is a function of (seed, epoch,
        feature id) alone; an evaluation has an epoch of its own, the same each time. Not called for predictions."""
        return feature

    @abstractmethod
    def collate(self, groups: Sequence[Sequence[Feature]], length: int) -> Batch:
        """One microbatch. A group is one feature, or a pack of several. length: tokens that sequences are padded to; given
        by the core, which alone knows the step. Shifts labels where the task predicts the next token."""

    @abstractmethod
    def loss(self, outputs: Mapping[str, torch.Tensor], batch: Batch, ops: Ops) -> list[LossTerm]:
        """Loss terms as sums. Called with gradients on."""

    @abstractmethod
    def reduce(self, outputs: Mapping[str, torch.Tensor], batch: Batch, ops: Ops) -> EvalPart:
        """What evaluation needs of a microbatch. Never gathers [batch, length, vocabulary]."""

    @abstractmethod
    def metrics(self, part: EvalPart) -> dict[str, float]:
        """Figures over a whole evaluation; `part.rows` in feature order, each feature once."""

    def sums(self, rows: Sequence[dict[str, Any]]) -> dict[str, float] | None:
        """`EvalPart.sums` of some of an evaluation's rows alone, so that a figure which needs them has an interval and is known of groups of
        rows; None where rows do not tell them."""
        return None

    @abstractmethod
    def decode(self, outputs: Mapping[str, np.ndarray], batch: Batch) -> list[dict[str, Any]]:
        """Answers a person reads, one a feature, filler left out; each carries "row_id"."""

    def combine(self, answers: Sequence[dict[str, Any]], row: Row) -> dict[str, Any]:
        """One answer of a row's features' answers, in feature order. row: what `featurize` took, to quote from. A task that gives a row
        several features says how."""
        assert len(answers) == 1, "this task gives a row several features and does not say how to combine their answers"
        return answers[0]

    def prediction(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """What is told of a row of the data after an evaluation of a saved model: what was predicted, and what is right. rows: its features'
        evaluation rows, in feature order. A task that gives a row several features says how they are put together; here they are listed."""
        return rows[0] if len(rows) == 1 else {"row_id": rows[0]["row_id"], "features": list(rows)}

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """JSON that `Task.bind` takes in place of a schema: goes into the saved model."""


class Task(ABC):
    """Kind `task`. roles: the columns it reads. lower_is_better: metrics for which less is better, read for `keep_best`.
    windows: whether it cuts long texts into windows, which overlap by `Limits.stride`; elsewhere a stride is refused.

    portable: whether `bind` to a saved state reads nothing of `config` and, as `featurize`, `collate` and `decode`, imports no torch.
    Then a saved model's task is bound without its model; `config` is None.
    """

    roles: tuple[Role, ...] = ()
    portable: bool = False
    windows: bool = False
    lower_is_better: frozenset[str] = frozenset({"loss", "perplexity"})

    @abstractmethod
    def bind(
        self, processor: Processor, config: Any, schema_or_state: Schema | dict[str, Any], limits: Limits
    ) -> BoundTask:
        """Bind to a data schema (training) or to a saved `BoundTask.state()`. config: the model's; None also where a schema's rows are only
        looked at (`data inspect` without a model): then the head is never built. Raises RefusalError or DataError."""

    def suits(self, schema: Schema, columns: Mapping[str, str]) -> float:
        """How sure it is that a data set is for this task: from 0, not at all, to 1. `data inspect` takes the task that is surest. schema: of
        the columns that serve the roles, under the roles' names; columns: role -> the column's own name, or the role's where somebody
        said that it serves it. Default: 0.5 where all targets go by a name that is expected of them, 0.1 of a task without targets."""
        targets = [role for role in self.roles if role.required and role.target]
        for role in targets or self.roles:
            known = {name.lower() for name in (role.name, *role.guesses)}
            if role.name in columns and columns[role.name].lower() not in known:
                return 0.0
        return 0.5 if targets else 0.1

    def state_of(self, config: Any) -> dict[str, Any] | None:
        """What `bind` takes in place of a saved state, for a model that was trained for this task elsewhere and says so in its
        configuration (Hugging Face's architectures, id2label); None: this one was not, or does not say. Asked, of a task without
        settings, when a model that is none of ours shall predict or be evaluated."""
        return None


@runtime_checkable
class WholeBatchLoss(Protocol):
    """Ability of a BoundTask whose loss couples the features of a global batch (contrastive losses, KTO's KL term)."""

    def representation(self, outputs: Mapping[str, torch.Tensor], batch: Batch, ops: Ops) -> torch.Tensor:
        """[sequences, ...], what the loss needs of each sequence."""

    def whole_loss(self, representations: torch.Tensor, feature_ids: np.ndarray) -> list[LossTerm]:
        """Loss of the global batch; filler gone, sorted by feature id: the same at any layout."""


@runtime_checkable
class Annotates(Protocol):
    """Ability of a BoundTask that needs figures of the untrained model (DPO's reference): one evaluation pass before step
    0, cached; they reach `collate` as arrays of the features."""

    def annotate(self, outputs: Mapping[str, torch.Tensor], batch: Batch, ops: Ops) -> dict[str, np.ndarray]:
        """name -> [features of the batch, ...], in the order of `batch.feature_ids` where they are not below 0."""


@runtime_checkable
class Prompts(Protocol):
    """Ability of a BoundTask that is evaluated, and predicts, by generating.

    processor: that it is bound to, which makes texts of ids. answer_metrics: of `metric_names`, those made of answers: without any
    (`eval.generate` 0), `metrics` gives the others alone.
    """

    processor: Processor
    answer_metrics: tuple[str, ...]

    def request(self, row: Row) -> GenerationRequest:
        """What to generate for a row that `featurize` takes, one sample; the roles that are targets may be missing. The core numbers equal
        prompts by `variant`."""

    def answer(self, row: Row, text: str) -> dict[str, Any]:
        """What a person reads of what was generated for a row; of a row with its targets also what `metrics` needs, as JSON. The core
        adds "finish" ("stop" or "length") and puts the entries into the row that `reduce` gave for the row's first feature."""
