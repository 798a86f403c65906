"""Faults in runtimes, decoders, generators, loggers and launchers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from planted_tasks import Planted

from spcore.interfaces.harness import HarnessReport
from spcore.interfaces.launcher import RunResult
from spcore.interfaces.runtime import PrepareReport, Token
from spcore.interfaces.strategy import Place
from spcore.testing import (
    check_constraint,
    check_decodes,
    check_generates,
    check_harness,
    check_launcher,
    check_logger,
    check_runtime,
)
from spcore.testing.fakes import (
    FakeConstraint,
    FakeDecoder,
    FakeHarness,
    FakeLanguageModel,
    FakeLauncher,
    FakeLogger,
    FakeRunner,
    FakeRuntime,
)

FAULTS: list[Planted] = []


def plant(check: str, what: str, run: Callable[[Any], Any], base: type, /, **members: Any) -> None:
    """Plant members into a fake."""
    FAULTS.append((check, what, lambda: run(type("Faulty", (base,), members)())))


def runner(check: str, what: str, /, **members: Any) -> None:
    """Plant members into the fake runner."""
    faulty = type("FaultyRunner", (FakeRunner,), members)

    def load(self: Any, artifact: Any, task: Any, device: str) -> Any:
        return faulty(artifact.model, task.head if task is not None else None)

    plant(check, what, check_runtime, FakeRuntime, load=load)


def generator(check: str, what: str, /, **members: Any) -> None:
    """Plant members into the fake runner's generation."""
    faulty = type("FaultyRunner", (FakeRunner,), members)
    FAULTS.append((check, what, lambda: check_generates(faulty(FakeLanguageModel(), None))))


def once(self: Any) -> None:
    assert not self.closed, "closed already"
    self.closed = True


def beside_others(self: Any, texts: Any) -> Any:
    vectors = FakeRunner.embed(self, texts)
    return vectors - vectors.mean(0) if len(vectors) else vectors


def double(self: Any, batch: Any) -> Any:
    return {name: array.astype(np.float64) for name, array in FakeRunner.forward(self, batch).items()}


def beside(self: Any, batch: Any) -> Any:
    return {name: array + np.float32(len(array)) for name, array in FakeRunner.forward(self, batch).items()}


def turned(self: Any, batch: Any, places: Any, tokens: Any) -> Any:
    return tuple(values[::-1] for values in FakeRunner.score(self, batch, places, tokens))


def sure(self: Any, batch: Any, places: Any, tokens: Any) -> Any:
    return FakeRunner.score(self, batch, places, tokens)[0], np.ones(len(tokens), bool)


plant("runtime.contract", "a load without a device", check_runtime, FakeRuntime, load=lambda self, artifact, task: None)
plant(
    "runtime.prepares", "files that are not there", check_runtime, FakeRuntime,
    prepare=lambda self, artifact, task, options, data={}: PrepareReport(("model.onnx",)),
)  # fmt: skip
runner(
    "runtime.loads",
    "an ability it does not have",
    capabilities=property(lambda self: frozenset({"forward", "sing"}), lambda *_: None),
)
runner("runtime.loads", "a member missing", forward=None)
runner("runtime.forward", "float64", forward=double)
runner("runtime.forward", "outputs that depend on the batch", forward=beside)
runner("runtime.score", "in another order", score=turned)
runner("runtime.score", "every token the likeliest", score=sure)
runner("runtime.embed", "vectors that depend on the batch", embed=beside_others)
runner("runtime.closes", "a close that cannot be repeated", close=once)


def forgets_chunks(self: Any, rows: Any, slots: Any) -> Any:
    FakeDecoder.free(self, slots)
    return FakeDecoder.prefill(self, rows, slots)


def in_turn(self: Any, sources: Any, targets: Any) -> None:
    for source, target in zip(sources, targets, strict=True):
        FakeDecoder.copy(self, [source], [target])


def shorter(self: Any, slots: Any, lengths: Any) -> None:
    FakeDecoder.crop(self, slots, [length - 1 for length in lengths])


def marking(self: Any, ids: Any, slots: Any) -> Any:
    self.marked = {*getattr(self, "marked", ()), *slots}
    return FakeDecoder.decode(self, ids, slots)


def sparing(self: Any, slots: Any) -> None:
    FakeDecoder.free(self, [slot for slot in slots if slot not in getattr(self, "marked", ())])


plant(
    "decodes.contract",
    "a capacity of one number",
    check_decodes,
    FakeDecoder,
    capacity=property(lambda self: 4, lambda *_: None),
)
plant("decodes.prefill", "chunks that replace each other", check_decodes, FakeDecoder, prefill=forgets_chunks)
plant(
    "decodes.decode",
    "a decode that feeds nothing",
    check_decodes,
    FakeDecoder,
    decode=lambda self, ids, slots: self._logits(slots),
)
plant("decodes.copy", "copies one after another", check_decodes, FakeDecoder, copy=in_turn)
plant("decodes.crop", "a crop of one token too many", check_decodes, FakeDecoder, crop=shorter)
plant(
    "decodes.free", "slots that were decoded are not emptied", check_decodes, FakeDecoder, decode=marking, free=sparing
)


def twice(self: Any) -> Iterator[Token]:
    for event in FakeRunner.events(self):
        yield event
        if event.finish:
            yield event


def unending(self: Any) -> Iterator[Token]:
    for event in FakeRunner.events(self):
        yield replace(event, finish=None)


def warm(self: Any, request: Any) -> int:
    self.requests = getattr(self, "requests", 0) + 1
    return FakeRunner.submit(self, replace(request, ids=(*request.ids, 20 + self.requests % 7)))


def moved(self: Any, request: Any) -> int:
    self.requests = getattr(self, "requests", 0) + (request.temperature > 0)
    return FakeRunner.submit(self, replace(request, seed=self.requests))


def cut(self: Any, request: Any) -> int:
    return FakeRunner.submit(self, replace(request, max_new_tokens=min(request.max_new_tokens, 9)))


generator("generates.contract", "an admission nobody knows", admission="sometimes")
generator("generates.ends", "two final events", events=twice)
generator("generates.ends", "no final event", events=unending)
generator("generates.alone", "requests that depend on those before", submit=warm)
generator("generates.cancels", "a cancel that does nothing", cancel=lambda self, request, sample=None: None)
generator(
    "generates.cancels-samples", "a sample cancels its request",
    cancel=lambda self, request, sample=None: FakeRunner.cancel(self, request),
)  # fmt: skip
generator("generates.draws", "draws that depend on what ran before", submit=moved)
generator("generates.refuses", "requests cut to fit", submit=cut)


def strict(self: Any, event: Any) -> None:
    assert not (event.name == "step" and event.loss != event.loss), "not a number"


def printing(self: Any, event: Any) -> None:
    print(event.name)


def needs_output(self: Any, output: Any, recipe: Any) -> None:
    self.file = output / "events.txt"


def needs_a_start(self: Any) -> None:
    assert [event.name for event in self.told if event.name == "run_started"], "no run_started"


class _Needy(FakeLogger):
    def start(self, output: Any, recipe: Any) -> None:
        self.told = []
        super().start(output, recipe)


plant("logger.contract", "an event under another name", check_logger, FakeLogger, event=lambda self, what: None)
plant("logger.events", "a loss must be finite", check_logger, FakeLogger, event=strict)
plant("logger.events", "prints", check_logger, FakeLogger, event=printing)
plant("logger.events", "answers", check_logger, FakeLogger, event=lambda self, event: "stop")
plant("logger.no-output", "needs a folder", check_logger, FakeLogger, start=needs_output)
plant("logger.failed-run", "needs a run that started", check_logger, _Needy, close=needs_a_start)


def silent(self: Any, spec: Any, events: Any, control: Any) -> RunResult:
    return FakeLauncher.launch(self, spec, lambda event: None, control)


def deaf(self: Any, spec: Any, events: Any, control: Any) -> RunResult:
    import threading

    from spcore.session import run_rank

    return run_rank(spec, Place(), events, threading.Event())


def moody(self: Any, spec: Any) -> list[Any]:
    self.asked = not getattr(self, "asked", False)
    return FakeLauncher.check(self, spec) * (1 + self.asked)


plant("launcher.contract", "no process", check_launcher, FakeLauncher, processes=0)
plant("launcher.check", "a check that changes its mind", check_launcher, FakeLauncher, check=moody)
plant("launcher.runs", "events kept back", check_launcher, FakeLauncher, launch=silent)
plant("launcher.stops", "a control nobody looks at", check_launcher, FakeLauncher, launch=deaf)


def constraint(check: str, what: str, /, *, begin: Any = None, **members: Any) -> None:
    """Plant members into the matchers of the fake constraint. begin: in place of a matcher at the beginning."""
    from spcore.testing.fakes.constraint import _Place

    faulty = type("FaultyPlace", (_Place,), members)

    def bind(self: Any, processor: Any) -> Any:
        grammar: Any = FakeConstraint.bind(self, processor)
        own = faulty(grammar._even, 0)
        return type("FaultyGrammar", (), {"start": lambda self: begin(own) if begin else faulty(own._even, 0)})()

    plant(check, what, check_constraint, FakeConstraint, bind=bind)


plant("constraint.contract", "a bind without a processor", check_constraint, FakeConstraint, bind=lambda self: None)
constraint("constraint.binds", "a matcher that cannot be copied", copy=None)
constraint("constraint.binds", "nothing to begin with", allowed=lambda self: self._even & False)
constraint(
    "constraint.allows", "ids in place of a mask", allowed=lambda self: np.flatnonzero(self._even)[: 3 - self._made]
)
constraint("constraint.allows", "special tokens", allowed=lambda self: self._even | (np.arange(len(self._even)) < 2))
constraint("constraint.repeats", "one matcher for all texts", begin=lambda own: own)
constraint("constraint.copies", "a copy that is none", copy=lambda self: self)

plant("harness.contract", "an evaluate without tasks", check_harness, FakeHarness, evaluate=lambda self, subject: None)
plant(
    "harness.refuses", "figures of any task", check_harness, FakeHarness,
    evaluate=lambda self, subject, tasks: HarnessReport("fake 1", {}, {}),
)  # fmt: skip
