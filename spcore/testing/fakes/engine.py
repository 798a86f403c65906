"""A strategy and its engine in plain numpy: no model runs, every figure is a function of the features fed and of the steps
done. It keeps the promises of an engine all the same: no result depends on how a batch was cut, what is saved goes on, and
filler counts for nothing.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from spcore.errors import RefusalError
from spcore.interfaces.strategy import Engine, Layout, ParallelStrategy, Pending, Place, Plan, Refusal, StepReport
from spcore.interfaces.task import Annotates, Batch, EvalPart
from spcore.testing.fakes.decoder import FakeDecoder
from spcore.testing.fakes.outputs import fake_outputs

if TYPE_CHECKING:
    import torch


class FakeStrategy(ParallelStrategy):
    """Kind `strategy`: one process. engines: those it has made."""

    inline = True
    decodes = True

    def __init__(self) -> None:
        self.engines: list[FakeEngine] = []

    def layout(self, world_size: int) -> Layout:
        """One data axis. Raises RefusalError for more than one process."""
        if world_size != 1:
            raise RefusalError(f"strategy 'fake': {world_size} processes, it runs in one")
        return Layout()

    def check(self, plan: Plan) -> list[Refusal]:
        """Packs are refused."""
        return [Refusal("data.pack", "the fake engine does not honour packs", "leave it out")] if plan.pack else []

    def engine(self, plan: Plan, place: Place) -> FakeEngine:
        """A new engine."""
        self.engines.append(FakeEngine(plan, place))
        return self.engines[-1]


class FakeEngine(Engine):
    """calls: (method, what it was given in short), in order. train_features: feature ids of each step. lent: decoders."""

    decodes_together = False

    def __init__(self, plan: Plan, place: Place) -> None:
        self.plan, self.place = plan, place
        self.calls: list[tuple[str, Any]] = []
        self.train_features: list[list[int]] = []
        self.lent: list[FakeDecoder] = []
        self.steps, self.closed = 0, False

    def train_step(self, microbatches: Sequence[Batch], lr: float, step: int) -> StepReport:
        """The loss of a term is (mean of 1 + crc of the features fed) * 0.9 ** steps."""
        self.calls.append(("train_step", (step, lr, len(microbatches))))
        self.train_features.append(sorted(int(i) for batch in microbatches for i in batch.feature_ids.flat if i >= 0))
        totals = {term: sum(batch.weights[term] for batch in microbatches) for term in self.plan.task.terms}
        ids = self.train_features[-1]
        base = sum(1 + (i * 2654435761 % 97) / 97 for i in ids) / max(1, len(ids))
        terms = {term: base * 0.9**self.steps if total else 0.0 for term, total in totals.items()}
        self.steps += 1
        return StepReport(sum(terms.values()), terms, totals, grad_norm=sum(terms.values()))

    def eval_step(
        self, microbatches: Sequence[Batch], method: Literal["reduce", "annotate"] = "reduce"
    ) -> EvalPart | None:
        """The task's own `reduce` or `annotate`, over outputs that depend on the inputs alone."""
        from spcore.tensors.ops import WholeOps, as_tensors

        self.calls.append(("eval_step", (method, len(microbatches))))
        task, ops = self.plan.task, WholeOps()
        sums: dict[str, float] = {}
        rows: list[dict[str, Any]] = []
        for batch in microbatches:
            outputs = as_tensors(fake_outputs(batch, self.plan.head, self.plan.model.config.vocab_size))
            held = Batch(
                as_tensors(batch.inputs), as_tensors(batch.targets), batch.row_of, batch.feature_ids, batch.weights
            )
            if method == "annotate":
                assert isinstance(task, Annotates), "the trainer asks for annotations where the task has the ability"
                ids = list(dict.fromkeys(int(i) for i in batch.feature_ids.flat if i >= 0))
                arrays = task.annotate(outputs, held, ops)
                rows += [{"feature_id": f, **{k: a[n] for k, a in arrays.items()}} for n, f in enumerate(ids)]
                continue
            part = task.reduce(outputs, held, ops)
            rows += part.rows
            for name, value in part.sums.items():
                sums[name] = sums.get(name, 0.0) + value
        return EvalPart(sums, rows)

    @contextlib.contextmanager
    def decoding(self, slots: int, length: int, encoder_length: int = 0) -> Iterator[FakeDecoder]:
        """A decoder whose logits depend on a slot's history alone."""
        self.calls.append(("decoding", (slots, length, encoder_length)))
        vocabulary = self.plan.model.config.vocab_size
        self.lent.append(FakeDecoder(slots, length, vocabulary, encoder_length=encoder_length))
        yield self.lent[-1]

    def agree(self, code: int) -> int:
        """One process agrees with itself."""
        self.calls.append(("agree", code))
        return code

    def collect(self, obj: Any, *, everywhere: bool = False) -> list[Any] | None:
        """The one object."""
        self.calls.append(("collect", everywhere))
        return [obj]

    def save(self, folder: Path) -> Pending:
        """Steps done, as JSON."""
        self.calls.append(("save", str(folder)))
        (folder / "fake_engine.json").write_text(json.dumps({"steps": self.steps}))
        return _Done()

    def load(self, folder: Path) -> None:
        """What `save` wrote."""
        self.calls.append(("load", str(folder)))
        self.steps = json.loads((folder / "fake_engine.json").read_text())["steps"]

    def weights(self, which: Literal["model", "adapter"] = "model") -> Iterator[tuple[str, torch.Tensor]]:
        """Every tensor of the model with values that depend on its name's place and on the steps done."""
        import torch

        self.calls.append(("weights", which))
        tied = self.plan.model.anatomy(self.plan.head).tied
        module = self.plan.model.build(self.plan.head)
        for n, (name, tensor) in enumerate(module.state_dict().items()):
            if name not in tied and self.place.is_writer:
                rng = np.random.default_rng([n, self.steps])
                yield name, torch.from_numpy(rng.standard_normal(tuple(tensor.shape)).astype(np.float32) * 0.2)

    def parameters(self) -> tuple[int, int]:
        """As the model counts them."""
        module = self.plan.model.build(self.plan.head)
        count = sum(parameter.numel() for parameter in module.parameters())
        return count, count

    def facts(self) -> Mapping[str, str]:
        """What it runs on."""
        return {"kernel": "numpy"}

    def peak_memory(self) -> int:
        """A constant."""
        return 1024

    def close(self) -> None:
        """Remember that it was closed."""
        self.closed = True


class _Done:
    """A save that was over at once."""

    def wait(self) -> None:
        """Nothing is left to wait for."""

    def done(self) -> bool:
        """It was."""
        return True
