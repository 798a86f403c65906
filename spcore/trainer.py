"""The one training loop, over an `Engine`. It owns the order of things (epochs, steps, evaluation, checkpoints, resume, stop)
and no arithmetic; it knows no device and no framework.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spcore.artifact import copy_model, is_artifact, read_manifest, write_artifact
from spcore.checkpoint import CheckpointStore, Shared
from spcore.errors import ArtifactError, DataError, OutOfMemory, RunError
from spcore.evaluating import WHOLE, Evaluator, annotate_store
from spcore.files import put_text
from spcore.interfaces.launcher import Control, Emit, RunResult
from spcore.interfaces.logger import Checkpointed, Evaluated, RunStarted, Step, Warned
from spcore.interfaces.strategy import Engine, StepReport
from spcore.interfaces.task import Annotates
from spcore.loading import Cut, StepData, TrainLoader
from spcore.session import check_metric
from spcore.streaming import Feed, Position, StreamLoader

if TYPE_CHECKING:
    from spcore.features import FeatureStore
    from spcore.session import Session

log = logging.getLogger("slimpajama.trainer")
WRITING, STOP = 1, 2
"""What a rank says before each step: that its part of a checkpoint is still being written, that it was told to stop."""


@dataclass
class _Progress:
    """What a checkpoint keeps beside the engine's state."""

    step: int = 0
    best: float | None = None
    best_step: int | None = None
    skipped: int = 0
    metrics: dict[str, float] = field(default_factory=dict)


class Trainer:
    """Runs a session to its end on one rank. Called by `spcore.session.run_rank`."""

    def __init__(
        self,
        session: Session,
        engine: Engine,
        data: FeatureStore | Feed,
        evaluation: Mapping[str, FeatureStore] | None,
        emit: Emit,
        control: Control,
    ) -> None:
        self.session, self.engine, self.evaluation = session, engine, evaluation
        self.evaluator = Evaluator(session, engine, evaluation) if evaluation is not None else None
        self.store = None if isinstance(data, Feed) else data
        self._emit, self.control = emit, control
        plan, settings = session.plan, session.recipe.train
        rule = session.strategy.batch_rule(plan)
        how = Cut(plan.micro_batch_size, plan.micro_batch_tokens, engine.place.data_size, rule)
        sizes: Any = {
            "place": engine.place,
            "how": how,
            "global_batch_size": plan.global_batch_size,
            "seed": plan.seed,
            "pack": plan.pack,
            "workers": settings.workers,
        }
        self.loader: TrainLoader | StreamLoader
        if isinstance(data, Feed):  # `assemble` has seen to it that steps are given
            assert settings.steps is not None, "a stream has no epochs"
            self.loader = StreamLoader(data, plan.task, **sizes)
            self.total = settings.steps
        else:
            self.loader = TrainLoader(data, plan.task, **sizes)
            self.total = settings.steps or self.loader.total_steps(settings.epochs or 1)
        self.output = Path(session.recipe.output) if session.recipe.output else None
        self.checkpoints = CheckpointStore(self.output / "checkpoints", settings.keep) if self.output else None
        self.progress = _Progress()
        self.seconds, self.rows = 0.0, 0
        self.saved: int | None = None
        self._warned: set[str] = set()
        self.unsettled: tuple[int, float] | None = None
        """(step, seconds) of a checkpoint that is being made whole."""
        self.shared: Shared | None = None
        """A checkpoint of several ranks, until they know that all have written."""

    def fit(self) -> RunResult:
        """Train from where the last checkpoint is, evaluate, save the model."""
        self.annotate()  # before a checkpoint is read: the figures are the untrained model's
        if isinstance(self.loader, TrainLoader) and not self.loader.teaches():
            cut = self.loader.remarks() or ["no row has one"]
            raise DataError(f"nothing to learn: no label is left in any row: {'; '.join(cut)}")
        self._resume()
        self._started()
        try:
            cancelled = self._steps()
            self._written()
        finally:
            if self.shared is not None:  # an error: the others cannot be asked any more
                self.shared.told(False)
            else:
                self._settle(wait=True)
        if (
            self.evaluation is not None
            and not cancelled
            and self.progress.step % (self.session.recipe.eval.every or self.total + 1)
        ):
            self._evaluate()
        if cancelled:
            if self.progress.step != self.saved:
                self._checkpoint()
                self._written()
        else:
            if isinstance(self.loader, StreamLoader):
                self._warn(self.loader.remarks())  # which a stream gives as it is read
            self._save_model()
        self._settle(wait=True)
        self.engine.agree(0)  # no rank is done before everything is on disk
        return RunResult(self.progress.step, self.progress.metrics, str(self.output or ""), cancelled)

    def _steps(self) -> bool:
        """The loop; True where it was told to stop."""
        recipe, base = self.session.recipe, self._base_lr()
        began = time.monotonic()
        first = self.progress.step
        steps = self.loader.steps(first, self.total)
        while (data := next(steps, None)) is not None:
            writing = self.shared is not None and not self.shared.own.done()
            told = self.engine.agree(STOP if self.control.is_set() else WRITING if writing else 0)
            if told >= STOP:
                return True
            if told < WRITING:
                self._written(known=True)
            self._settle(wait=False)
            at = time.monotonic()
            lr = base * self.session.schedule.factor(self.progress.step, self.total)
            try:
                report = self.engine.train_step(data.microbatches, lr, self.progress.step)
            except OutOfMemory as error:
                self._halve(error, data)
                steps = self.loader.steps(self.progress.step, self.total)
                continue
            self._judge(report, data)
            self.progress.step += 1
            if isinstance(self.loader, StreamLoader):
                self.loader.position = data.place
            self._told(
                report, data, lr, time.monotonic() - at, (time.monotonic() - began) / (self.progress.step - first)
            )
            if recipe.eval.every and self.progress.step % recipe.eval.every == 0 and self.evaluation is not None:
                self._evaluate()
            if recipe.train.save_every and self.progress.step % recipe.train.save_every == 0:
                self._checkpoint()
        return False

    def _halve(self, error: OutOfMemory, data: StepData) -> None:
        """Cut steps into microbatches half as large from here on, which changes nothing in their result."""
        how, batches = self.loader.how, data.microbatches
        positions = self.engine.agree(max(a.size for batch in batches for a in batch.inputs.values()))
        size = how.micro_batch_size or min(how.tokens, positions)  # a long row may be alone already, and over the limit
        if size == 1:
            hint = "Use a smaller data.max_length or model, or a strategy that shards the model"
            raise RunError(f"{error.message}, though they are one feature each", hint=hint) from error
        if how.micro_batch_size is not None:
            self.loader.how = replace(how, micro_batch_size=size // 2)
        else:
            self.loader.how = replace(how, tokens=size // 2)
        unit = "features" if how.micro_batch_size is not None else "padded tokens"
        smaller = f"{size // 2} {unit}, not {size}"
        step = self.progress.step + 1
        said = f"{error.message}; from step {step} on one has at most {smaller}, which changes no result"
        self.tell(Warned(time=time.time(), message=said, step=step))

    def _base_lr(self) -> float:
        assert self.session.plan.optimizer is not None, "a training plan has an optimizer"
        return self.session.plan.optimizer.lr

    def _judge(self, report: StepReport, data: StepData) -> None:
        """What a step that was not finite does; the report is the same on every rank, so all decide alike."""
        if not report.nonfinite:
            return
        what = ", ".join(report.nonfinite[:3]) + (" ..." if len(report.nonfinite) > 3 else "")
        where = f"step {self.progress.step + 1}: not finite: {what}; its rows: {self._places(data.row_ids)}"
        scaled = self.session.plan.precision.loss_scaling is not None and not report.applied
        if self.session.plan.nonfinite == "stop" and not (scaled and math.isfinite(report.loss)):
            raise RunError(where, hint="Lower optimizer.lr, or go on without such steps: train.nonfinite=skip")
        self.progress.skipped += 1
        self.tell(Warned(time=time.time(), message=f"{where}; the step is left out", step=self.progress.step + 1))

    def _places(self, row_ids: Sequence[int]) -> str:
        """Where rows stand in the data, a file's name once: "a.csv:3, 8, 9"; of a stream, their numbers."""
        rows, train = list(dict.fromkeys(row_ids)), self.session.train
        places = [train.place(row) for row in rows[:8]]
        files = [place.rpartition(":")[0] for place in places]
        again = [n > 0 and bool(file) and file == files[n - 1] for n, file in enumerate(files)]
        shown = [p.rpartition(":")[2] if same else p for p, same in zip(places, again, strict=True)]
        return ", ".join(shown) + (f" and {len(rows) - 8} more" if len(rows) > 8 else "")

    def _told(self, report: StepReport, data: StepData, lr: float, seconds: float, mean: float) -> None:
        self.seconds += seconds
        self.rows += data.rows
        self.tell(
            Step(
                time=time.time(), step=self.progress.step, epoch=data.epoch, loss=report.loss, terms=dict(report.terms),
                grad_norm=report.grad_norm, lr=lr, loss_scale=report.loss_scale, applied=report.applied, rows=data.rows,
                tokens=data.tokens, seconds=seconds, rows_per_second=data.rows / max(seconds, 1e-9),
                tokens_per_second=data.tokens / max(seconds, 1e-9), padding=1 - data.tokens / max(1, report.positions or data.positions),
                memory=self.engine.peak_memory(), eta=mean * (self.total - self.progress.step),
            )
        )  # fmt: skip

    def _evaluate(self) -> None:
        """Evaluate on `eval.data`; every rank takes part, the writer has the figures."""
        assert self.evaluation is not None
        assert self.evaluator is not None
        at = time.monotonic()
        metrics = self.evaluator.figures()
        better = False
        if metrics is not None:
            check_metric(self.session.recipe, metrics)
            self.progress.metrics = metrics
            better = self._better(metrics)
            event = Evaluated(
                time=time.time(), step=self.progress.step, metrics=metrics, rows=sum(map(len, self.evaluation.values())),
                seconds=time.monotonic() - at, best=better,
            )  # fmt: skip
            self.tell(event)
        if self.session.recipe.eval.keep_best and self.output is not None and self.engine.agree(int(better)):
            self._write(self.output / ".best")

    def _better(self, metrics: dict[str, float]) -> bool:
        name = self.session.metric or "loss"
        if name not in metrics:
            return False
        lower = name.partition("/")[0] in self.session.task.lower_is_better  # of one source: "loss/web"
        value = -metrics[name] if lower else metrics[name]
        if math.isnan(value):  # which nothing is greater than
            return False
        if self.progress.best is not None and not value > self.progress.best:
            return False
        self.progress.best, self.progress.best_step = value, self.progress.step
        return True

    def annotate(self) -> None:
        """Figures of the untrained model, for tasks that need them."""
        if isinstance(self.session.bound, Annotates):
            assert self.store is not None, "`assemble` refuses streams for such tasks"
            annotate_store(self.session, self.engine, self.store)

    def _resume(self) -> None:
        if self.checkpoints is None:
            return
        # One rank looks, so that all take the same, and each file is verified once.
        latest = self.checkpoints.latest() if self.engine.place.is_writer else None
        found = next(filter(None, self.engine.collect(latest and str(latest), everywhere=True) or []), None)
        if found is None:
            return
        self.engine.load(Path(found))
        self.progress = _Progress(**json.loads((Path(found) / "progress.json").read_text()))
        if isinstance(
            self.loader, StreamLoader
        ):  # of an earlier version there is none: the stream is read again up to here
            self.loader.position = Position.load(Path(found)) or self.loader.position
        if self.engine.place.is_writer and self.session.recipe.eval.keep_best:
            self._adopt_best()

    def _checkpoint(self) -> None:
        if self.checkpoints is None:
            return
        at = time.monotonic()
        writer = self.engine.place.is_writer
        self._written()
        self._settle(wait=True)
        later: list[Callable[[], None]] = []
        with self.checkpoints.writing(self.progress.step, writer, later=later) as folder:
            self.engine.agree(0)  # the folder is there before any rank writes into it
            saving = self.engine.save(folder)
            later.append(saving.wait)
            if self.engine.place.world_size > 1:
                self.shared = Shared(saving)
                later.append(self.shared.wait)  # every rank has written before the manifest is
            if writer:
                put_text(folder / "progress.json", json.dumps(vars(self.progress)))
                if isinstance(self.loader, StreamLoader):
                    self.loader.position.save(folder)
        self.saved = self.progress.step
        self.unsettled = self.saved, time.monotonic() - at

    def _written(self, *, known: bool = False) -> None:
        """Every rank's part of the last checkpoint is on disk; raises what this rank's writing met. Called on all ranks together. known:
        all have said that they are through."""
        if self.shared is None:
            return
        self.shared.own.wait()
        if not known:
            self.engine.agree(0)
        self.shared.told(True)
        self.shared = None

    def _settle(self, *, wait: bool) -> None:
        """Tell of a checkpoint that has become whole meanwhile; raises what its writing met. On the writer, which alone waits."""
        if self.unsettled is None or self.checkpoints is None or not self.engine.place.is_writer:
            return
        if self.checkpoints.settled(wait=wait):
            step, seconds = self.unsettled
            self.unsettled = None
            path = str(self.checkpoints.path(step))
            self.tell(Checkpointed(time=time.time(), step=step, path=path, seconds=seconds))

    def _save_model(self) -> None:
        if self.output is None:
            return
        at, best = time.monotonic(), self.output / ".best"
        # The writer alone knows which step was the best.
        earlier = self.session.recipe.eval.keep_best and self.progress.best_step not in (None, self.progress.step)
        if self.engine.agree(int(earlier and self.engine.place.is_writer)):
            if self.engine.place.is_writer:
                self._take_best(best)
        else:
            self._write(self.output)
            if self.engine.place.is_writer:
                shutil.rmtree(best, ignore_errors=True)
        self.tell(
            Checkpointed(
                time=time.time(),
                step=self.progress.step,
                path=str(self.output),
                kind="model",
                seconds=time.monotonic() - at,
            )
        )

    def _take_best(self, best: Path) -> None:
        """Save the best step's weights, written when it was reached. Raises ArtifactError where they are gone."""
        assert self.output is not None, "the caller looked"
        found = read_manifest(best).get("steps")
        if found != self.progress.best_step:
            raise ArtifactError(f"{best}: is of step {found}, the best was step {self.progress.best_step}")
        copy_model(best, self.output, run=True)
        shutil.rmtree(best)

    def _adopt_best(self) -> None:
        """After a resume: weights that were the best after the checkpoint was written, before the run was killed, are so still."""
        best = self.output / ".best" if self.output else None
        if best is None or not is_artifact(best):
            return
        manifest = read_manifest(best)
        if manifest["steps"] != self.progress.best_step:
            self._better(manifest["metrics"])
            self.progress.best_step = manifest["steps"]

    def _write(self, folder: Path) -> None:
        write_artifact(
            folder, self.session, self.engine.weights(), writer=self.engine.place.is_writer, metrics=self.progress.metrics,
            step=self.progress.step, report=self._report(),
        )  # fmt: skip

    def _report(self) -> dict[str, Any]:
        report: dict[str, Any] = {
            "train": self.loader.report(),
            "steps": self.progress.step,
            "steps_left_out": self.progress.skipped,
        }
        report["rows_per_second"] = self.rows / self.seconds if self.seconds else 0.0
        if self.evaluation is not None:
            counts = {name: store.counts.to_json() for name, store in self.evaluation.items()}
            report["eval"] = {**counts.get(WHOLE, {"sources": counts}), "metrics": self.progress.metrics}
        report["remarks"] = list(self.session.warnings)
        return report

    def _started(self) -> None:
        parameters, trainable = self.engine.parameters()
        event = RunStarted(
            time=time.time(), output=str(self.output or ""), steps=self.total, start_step=self.progress.step,
            rows=self.store.counts.used if self.store is not None else None, features=len(self.store) if self.store is not None else None, parameters=parameters, trainable=trainable,
            facts={"columns": ", ".join(f"{role}={column}" for role, column in self.session.train.columns.items()), **self.engine.facts()},
        )  # fmt: skip
        self.tell(event)
        self._warn([*self.session.warnings, *self.loader.remarks()])
        for name, store in (self.evaluation or {}).items():
            self._warn(f"eval: {f'{name}: ' if name else ''}{line}" for line in store.counts.remarks())

    def _warn(self, lines: Iterable[str]) -> None:
        """Tell what was not told before."""
        new = [line for line in lines if line not in self._warned]
        self._warned.update(new)
        for line in new:
            self.tell(Warned(time=time.time(), message=line))

    def tell(self, event: Any) -> None:
        """Pass an event up, from the writer alone."""
        if self.engine.place.is_writer:
            self._emit(event)
