"""A task under test: bound to a fake processor and made-up rows, with outputs for any batch of theirs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from spcore.errors import SlimPajamaError
from spcore.interfaces.dataset import Row, Schema
from spcore.interfaces.task import Annotates, Batch, BoundTask, EvalPart, Feature, Limits, LossTerm, Prompts, Task
from spcore.loading import filler
from spcore.testing.checks import CannotCheck, DoesNotApply, shown
from spcore.testing.fakes.collating import segments_of
from spcore.testing.fakes.outputs import fake_outputs, token_numbers
from spcore.testing.fakes.processor import FakeProcessor
from spcore.testing.synthetic import candidates

if TYPE_CHECKING:
    import torch

LIMITS = Limits(max_length=48)


class TaskCase:
    """A task and what it is tried on. rows, schema: given, else found by `prepare`. features: numbered, not
    augmented; with their annotations once `task.annotates` has run."""

    bound: BoundTask
    rows: list[Row]
    schema: Schema
    features: list[Feature]

    def __init__(self, task: Task, rows: Sequence[Row] | None = None, schema: Schema | None = None) -> None:
        assert (rows is None) == (schema is None), "rows and schema are given together"
        self.task, self.limits = task, LIMITS
        self.processor = FakeProcessor()
        self._given = None if rows is None or schema is None else (schema, list(rows))

    @cached_property
    def config(self) -> Any:
        """A configuration."""
        from spcore.testing.fakes.language import FakeConfig

        return FakeConfig()

    @cached_property
    def ops(self) -> Any:
        """Ops for whole outputs."""
        from spcore.tensors.ops import WholeOps

        return WholeOps()

    def prepare(self) -> None:
        """Bind to the rows given, or to the first made-up ones that bind and are all used."""
        if self._given is not None:
            self._use(*self._given)
            return
        reasons: list[str] = []
        for schema, rows in candidates(self.task.roles):
            try:
                self._use(schema, rows)
                return
            except (
                Exception
            ) as error:  # made-up rows are guesses: whatever a task says to a wrong one, the next is tried
                reasons.append(f"{type(error).__name__}: {error}")
        kinds = ", ".join(f"{role.name} ({role.kind})" for role in self.task.roles)
        text = max(set(reasons), key=reasons.count) if reasons else "its roles give none"
        raise ValueError(f"no made-up rows for {kinds} do: {text}; give rows= and schema=")

    def _use(self, schema: Schema, rows: list[Row]) -> None:
        self.schema = schema
        bound = self.bind(self.limits)
        self.bound, self.rows = bound, rows
        self.features = self.featurized(rows)
        if len({feature.row_id for feature in self.features}) < len(rows):
            raise ValueError("rows without features")

    def bind(self, limits: Limits) -> BoundTask:
        """A bound task of other limits."""
        return self.task.bind(self.processor, self.config, self.schema, limits)

    def featurized(self, rows: Sequence[Row]) -> list[Feature]:
        """Features of rows, numbered as the core does."""
        made = [(n, feature) for n, row in enumerate(rows) for feature in self.bound.featurize(row)]
        return [replace(feature, id=i, row_id=n) for i, (n, feature) in enumerate(made)]

    def augmented(self, features: Sequence[Feature]) -> list[Feature]:
        """An epoch's versions; filler is not augmented."""
        return [f if f.filler else self.bound.augment(f, np.random.default_rng([3, f.id])) for f in features]

    def annotated(self, features: Sequence[Feature]) -> list[Feature]:
        """Features with the figures of another (the untrained) model, as the core attaches them."""
        figures = self.annotations(self.collate(features), scale=0.5)
        return [
            replace(f, arrays={**f.arrays, **{name: np.asarray(a[n]) for name, a in figures.items()}})
            for n, f in enumerate(features)
        ]

    def annotations(self, batch: Batch, scale: float = 1.0) -> dict[str, np.ndarray]:
        """`annotate` of a batch, as engines call it: without gradients. scale: of the outputs."""
        import torch

        assert isinstance(self.bound, Annotates)
        with torch.no_grad():
            outputs = {name: value * scale for name, value in self.outputs(batch).items()}
            return self.bound.annotate(outputs, tensors(batch), self.ops)

    def answers(self) -> dict[int, dict[str, Any]]:
        """What the core makes of texts that were generated for the rows; nothing where the task lacks the ability `Prompts`."""
        bound = self.bound
        if not isinstance(bound, Prompts):
            return {}
        return {n: {**bound.answer(row, f"w9 w{10 + n}"), "finish": "stop"} for n, row in enumerate(self.rows)}

    def filler(self, n: int = 0) -> Feature:
        """Filler, made as the core makes it."""
        return filler(self.features[n])

    def training(self) -> list[Feature]:
        """Features as a training step has them: augmented."""
        return self.augmented(self.features)

    def collate(self, features: Sequence[Feature], length: int | None = None) -> Batch:
        """Single features; length: of the longest, else as given."""
        return self.bound.collate([[f] for f in features], length or max(f.length for f in features))

    def arrays(self, batch: Batch) -> dict[str, np.ndarray]:
        """Outputs of a batch, numpy: a function of each sequence's (segment's) tokens."""
        return {name: value.detach().numpy() for name, value in self.outputs(batch).items()}

    def outputs(self, batch: Batch) -> dict[str, torch.Tensor]:
        """As `arrays`, as leaf tensors with gradients; a custom head's are what it makes of such hidden states."""
        import torch

        if self.bound.head.build is not None:
            return self.head_outputs(batch)
        made = fake_outputs(batch, self.bound.head, self.processor.vocabulary_size)
        return {name: torch.from_numpy(array).requires_grad_() for name, array in made.items()}

    @cached_property
    def module(self) -> torch.nn.Module:
        """The custom head."""
        import torch

        assert self.bound.head.build is not None, "the head is a custom one"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self.bound.head.build(self.config)

    def head_outputs(self, batch: Batch) -> dict[str, torch.Tensor]:
        """The custom head on hidden states that are a function of each sequence's tokens."""
        import torch

        segments = segments_of(batch)
        hidden = np.zeros((*segments.shape, self.config.hidden_size), np.float32)
        starts = []
        for s, at, ids in pieces(batch):
            hidden[s, at] = token_numbers(ids, "hidden", (len(at), self.config.hidden_size))
            starts.append((s, int(at[0])))
        packed = torch.tensor(starts) if "segment_ids" in batch.inputs else None
        return dict(self.module(torch.from_numpy(hidden).requires_grad_(), torch.from_numpy(segments > 0), packed))

    def terms(self, batch: Batch) -> dict[str, LossTerm]:
        """The loss terms of one batch; of a whole-batch task those that need no other batch."""
        return {term.name: term for term in self.bound.loss(self.outputs(batch), tensors(batch), self.ops)}

    def sums(self, batch: Batch) -> dict[str, float]:
        """Sums of the loss terms."""
        return {name: float(term.sum.detach()) for name, term in self.terms(batch).items()}

    def reduced(self, features: Sequence[Feature]) -> EvalPart:
        """The evaluation part of features."""
        return self.evaluated(self.collate(self.augmented(features)))

    def evaluated(self, batch: Batch, bound: BoundTask | None = None) -> EvalPart:
        """`reduce` of a batch, as engines call it: without gradients."""
        import torch

        with torch.no_grad():
            return (bound or self.bound).reduce(self.outputs(batch), tensors(batch), self.ops)

    def packs(self, features: Sequence[Feature]) -> tuple[BoundTask, Batch]:
        """A task bound to packs, and the features in two packs. Raises CannotCheck where it refuses."""
        try:
            bound = self.bind(Limits(max_length=self.limits.max_length, pack=200))
        except SlimPajamaError as error:
            raise CannotCheck(f"it refuses packs: {error.message}") from None
        if any(f.arrays["input_ids"].ndim > 1 for f in features):
            raise DoesNotApply
        half = len(features) // 2
        groups = [list(features[:half]), list(features[half:])]
        length = max(sum(f.length for f in group) for group in groups)
        return bound, bound.collate(groups, length)


def pieces(batch: Batch) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(sequence, positions, token ids) of each sequence, in packs of each segment."""
    segments, ids = segments_of(batch), np.asarray(batch.inputs["input_ids"])
    for s in range(len(segments)):
        for k in range(1, int(segments[s].max()) + 1):
            at = np.flatnonzero(segments[s] == k)
            yield s, at, ids[s, at]


def tensors(batch: Batch) -> Batch:
    """A batch as engines hold it."""
    from spcore.tensors.ops import as_tensors

    return replace(batch, inputs=as_tensors(batch.inputs), targets=as_tensors(batch.targets))


def same_arrays(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> bool:
    """Whether names, shapes and values are equal."""
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k], equal_nan=a[k].dtype.kind == "f") for k in a)


def differing(a: Mapping[str, float], b: Mapping[str, float]) -> str | None:
    """What differs between two results beyond rounding; None for nothing."""
    if a.keys() != b.keys():
        return f"{sorted(a)} and {sorted(b)}"
    worst = [f"{k}: {shown(a[k])} and {shown(b[k])}" for k in a if not np.isclose(a[k], b[k], rtol=2e-4, atol=1e-5)]
    return "; ".join(worst) or None
