"""Processes that are started once and measure one run after another, together: what a run does on N processes, for the price of its
steps alone. Run as a script it is one of them.

    with Processes(2) as two:
        two.measure(recipe)          # what `measure` gives on the writer
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pkgutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np

TESTS = Path(__file__).resolve().parent.parent
LIMIT = 240
STRANGER = TESTS.parent / "docs" / "example_plugin"


def registry_of() -> Any:
    """The installed plugins, the fakes, a stranger's, and a plan of a family that is not known."""
    import exact.opt_plugin
    import spcore.testing.plugin
    from spcore.components import Registry

    registry = Registry()
    registry.register(spcore.testing.plugin, name="fakes")
    registry.register(exact.opt_plugin, name="opt")
    if str(STRANGER) not in sys.path:
        sys.path.append(str(STRANGER))
    registry.register(importlib.import_module("weather_words.plugin"), name="weather")
    return registry


def measure(tree: dict[str, Any], rank: int = 0, size: int = 1, gradients: str | None = None) -> dict[str, Any]:
    """Carry out a recipe on this rank. On the writer: "steps" [{loss, terms, grad_norm, tokens}], "rows": the features of each step,
    "metrics", "predictions": the rows of an evaluation by feature. gradients: a file for those of the first step."""
    from spcore.evaluating import Evaluator
    from spcore.interfaces.logger import Event, Step, Warned
    from spcore.recipe import load_recipe
    from spcore.session import assemble, run_rank, run_spec
    from spcore.trainer import Trainer

    registry = registry_of()
    session = assemble(load_recipe(tree, {}, registry=registry), registry, world_size=size)
    place = session.plan.layout.place(rank, rank)
    events: list[Event] = []
    result = run_rank(run_spec(session), place, events.append, threading.Event())
    engine = session.strategy.engine(session.plan, place)
    stream = session.train.length is None
    shown = session.evaluation()
    trainer = Trainer(session, engine, session.training(), shown, events.append, threading.Event())
    steps = list(trainer.loader.steps(0, trainer.total))
    if not stream:
        trainer.annotate()
    found = dict(engine.gradients(steps[0].microbatches)) if gradients else {}  # type: ignore[attr-defined]
    if gradients and place.is_writer:
        np.savez(gradients, **{name: tensor.numpy() for name, tensor in found.items()})
    part = None if shown is None else Evaluator(session, engine, shown).part()
    engine.close()
    told = [
        {"loss": e.loss, "terms": dict(e.terms), "grad_norm": e.grad_norm, "tokens": e.tokens, "rows": e.rows}
        for e in events
        if isinstance(e, Step)
    ]
    predictions = [{name: np.asarray(v).tolist() for name, v in row.items()} for row in part.rows] if part else []
    return {
        "steps": told, "warned": [e.message for e in events if isinstance(e, Warned)], "rows": [step.feature_ids for step in steps], "metrics": dict(result.metrics), "predictions": predictions,
    }  # fmt: skip


def carried(content: dict[str, Any], rank: int) -> dict[str, Any]:
    """Carry out a run on this rank, as a launcher's process does."""
    from spcore.interfaces.logger import Event
    from spcore.launching.worker import spec_from_json
    from spcore.session import run_rank

    spec, events = spec_from_json(content), list[Event]()
    result = run_rank(spec, spec.layout.place(rank, rank), events.append, threading.Event())
    return {"result": {**vars(result), "metrics": dict(result.metrics)}, "events": [e.to_json() for e in events]}


class Processes:
    """So many processes of one gloo group."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._folder = tempfile.TemporaryDirectory()
        self._workers: list[subprocess.Popen[str]] = []
        self._errors: list[Path] = []
        self._started = 0
        self._start()

    def _start(self) -> None:
        """Anew: what failed in one test is no matter of the next."""
        self._end()
        self._started += 1
        meeting = Path(self._folder.name) / f"meeting-{self._started}"
        command = [sys.executable, str(Path(__file__).resolve()), str(meeting), str(self.size)]
        path = os.pathsep.join([str(TESTS), str(STRANGER), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._errors = [Path(self._folder.name) / f"{self._started}-{rank}.err" for rank in range(self.size)]
        for rank, errors in enumerate(self._errors):
            with errors.open("w") as file:
                self._workers.append(
                    subprocess.Popen(
                        [*command, str(rank)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, text=True,
                        env={**os.environ, "PYTHONPATH": path},
                    )
                )  # fmt: skip

    def measure(
        self, tree: dict[str, Any], gradients: str | None = None, *, around: str | None = None
    ) -> dict[str, Any]:
        """See `measure`; of the writer. around: "module:function" of a context manager that takes the rank."""
        answers = self._asked({"tree": tree, "gradients": gradients}, around)
        assert all(answer["rows"] == answers[0]["rows"] for answer in answers), "ranks disagree about a step's rows"
        result: dict[str, Any] = answers[0]
        return result

    def launch(self, spec: dict[str, Any], *, around: str | None = None) -> dict[str, Any]:
        """Carry out a run that a launcher would start, as JSON. "result", "events" of the writer."""
        result: dict[str, Any] = self._asked({"spec": spec}, around)[0]
        return result

    def _asked(self, request: dict[str, Any], around: str | None) -> list[dict[str, Any]]:
        """Every rank's answer. After LIMIT seconds all are killed: what hangs is a failure, not a wait."""
        if not self._workers:
            self._start()
        timer, answers = threading.Timer(LIMIT, self._kill), None
        timer.start()
        try:
            answers = self._answers(request, around)
        finally:
            timer.cancel()
            if answers is None:
                self._end()
        return answers

    def _kill(self) -> None:
        for worker in self._workers:
            worker.kill()

    def _end(self) -> None:
        self._kill()
        for worker in self._workers:
            worker.communicate()
        self._workers = []

    def _answers(self, request: dict[str, Any], around: str | None) -> list[dict[str, Any]]:
        for worker in self._workers:
            assert worker.stdin is not None
            worker.stdin.write(json.dumps([request, around]) + "\n")
            worker.stdin.flush()
        answers = []
        for worker, errors in zip(self._workers, self._errors, strict=True):
            assert worker.stdout is not None
            line = worker.stdout.readline()
            assert line, f"a process died, or all took more than {LIMIT} s: {errors.read_text()[-3000:]}"
            answers.append(json.loads(line))
        return answers

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        self._folder.cleanup()


def main(meeting: str, size: int, rank: int) -> None:
    """Serve requests from stdin until it ends."""
    import torch
    import torch.distributed as dist
    from torch.distributed import distributed_c10d
    from torch.distributed.tensor.debug import _clear_sharding_prop_cache

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request, around = json.loads(line)
        with pkgutil.resolve_name(around)(rank) if around else contextlib.nullcontext():
            answer = carried(request["spec"], rank) if "spec" in request else measure(**request, rank=rank, size=size)
        dist.barrier()
        for group in list(
            distributed_c10d._world.pg_map
        ):  # meshes keep theirs, each with threads, as long as the process is there
            if group is not dist.group.WORLD:
                dist.destroy_process_group(group)
        # What torch knows of an operation's outcome names the groups of the mesh that it was first seen with, and one of the same shape is equal.
        _clear_sharding_prop_cache()
        out.write(json.dumps(answer) + "\n")
        out.flush()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
