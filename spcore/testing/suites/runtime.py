"""Kind `runtime`, and the abilities of runners."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spcore.errors import UserError
from spcore.interfaces.runtime import Decodes, Embeds, Forwards, Generates, PrepareReport, Runner, Runtime, Scores
from spcore.testing.checks import CannotCheck, Check, DoesNotApply, Where, Wrong, check, run_checks, shown
from spcore.testing.contracts import against
from spcore.testing.report import Report
from spcore.testing.suites.decoding import DECODES_CHECKS, GENERATES_CHECKS

if TYPE_CHECKING:
    from spcore.artifact import Artifact
    from spcore.interfaces.task import Batch, BoundTask

ABILITIES: dict[str, type] = {
    "forward": Forwards,
    "embed": Embeds,
    "generate": Generates,
    "decode": Decodes,
    "score": Scores,
}
_TEXTS = ("w10 w11 w12 w13 w14", "w20", "w30 w31 w32")


class RuntimeCase:
    """A runtime under test with a saved model: the one given, or a fake one of task `fake` in `folder`. runner: once `runtime.loads` has run."""

    runner: Runner

    def __init__(
        self,
        runtime: Any,
        artifact: Artifact | None,
        task: BoundTask | None,
        folder: Path,
        fake: str = "fake-classification",
    ) -> None:
        self.runtime, self.task = runtime, task
        self.artifact = artifact if artifact is not None else self._fake(folder, fake)

    def _fake(self, folder: Path, task: str) -> Artifact:
        from spcore.artifact import Artifact
        from spcore.tensors.files import save_safetensors
        from spcore.tensors.materialise import materialise
        from spcore.testing.fakes.language import FakeLanguageModel, FakeModel
        from spcore.testing.suites.engine_case import EngineCase

        model = FakeLanguageModel()
        self.task = EngineCase(self.runtime).task(task)
        head = self.task.head
        module = model.build(head)
        materialise(module, model, head, seed=0)
        save_safetensors(iter(module.state_dict().items()), folder)
        model.save_config(folder, head)
        model.processor.save(folder)
        return Artifact(folder, FakeModel().open(str(folder)), {"format": 1})

    def batch(self, texts: Sequence[str]) -> Batch:
        """Texts in one batch."""
        assert self.task is not None
        features = [self.task.featurize({"text": text})[0] for text in texts]
        return self.task.collate([[f] for f in features], max(f.length for f in features))

    def forward(self, texts: Sequence[str]) -> dict[str, Any]:
        """Outputs of texts in one batch."""
        assert isinstance(self.runner, Forwards)
        return self.runner.forward(self.batch(texts))


@check("runtime.contract", "it has the members of Runtime", gate=True)
def runtime_contract(case: RuntimeCase) -> Iterator[Wrong]:
    """Subclass or not."""
    yield from against(case.runtime, Runtime, "runtime")


@check("runtime.prepares", "prepare gives a report of files that are there", gate=True)
def runtime_prepares(case: RuntimeCase) -> Iterator[Wrong]:
    """A runtime that cannot take the fake model says so."""
    if case.task is None:
        raise CannotCheck("no task was given with the saved model")
    try:
        report = case.runtime.prepare(case.artifact, case.task, {})
    except UserError as error:
        raise CannotCheck(f"it does not take the saved model: {error}") from error
    if not isinstance(report, PrepareReport):
        yield Wrong(shown(report), "a PrepareReport")
        return
    lost = [name for name in report.files if not (case.artifact.folder / name).exists()]
    if lost:
        yield Wrong(f"files {lost} that are not there", "files in the artifact's folder")


@check("runtime.loads", "it loads a runner whose capabilities are the abilities it has", gate=True)
def runtime_loads(case: RuntimeCase) -> Iterator[Wrong]:
    """On the CPU."""
    try:
        case.runner = case.runtime.load(case.artifact, case.task, "cpu")
    except UserError as error:
        raise CannotCheck(f"it does not load the saved model: {error}") from error
    yield from against(case.runner, Runner, "runner")
    unknown = sorted(set(case.runner.capabilities) - set(ABILITIES))
    if unknown or not case.runner.capabilities:
        yield Wrong(f"capabilities {sorted(case.runner.capabilities)}", f"some of {', '.join(ABILITIES)}")
    for name in sorted(set(case.runner.capabilities) & set(ABILITIES)):
        yield from against(case.runner, ABILITIES[name], f"runner that can {name!r}:")


@check("runtime.forward", "outputs are float32 under the head's names, and a text's are the same in any batch")
def runtime_forward(case: RuntimeCase) -> Iterator[Wrong]:
    """Three texts together, and one by one."""
    import numpy as np

    runner = _able(case, "forward")
    assert case.task is not None
    assert isinstance(runner, Forwards)
    if not isinstance(runner.batch_tokens, int) or runner.batch_tokens < 1:
        yield Wrong(f"batch_tokens {shown(runner.batch_tokens)}", "padded tokens, 1 or more")
    together = case.forward(_TEXTS)
    head = case.task.head
    if set(together) != set(head.outputs) or any(a.dtype != np.float32 for a in together.values()):
        yield Wrong(
            f"outputs { {n: str(a.dtype) for n, a in together.items()} }", f"float32 arrays {sorted(head.outputs)}"
        )
        return
    for n, text in enumerate(_TEXTS):
        for name, alone in case.forward([text]).items():
            beside = together[name][n : n + 1]
            if "position" in head.outputs[name]:
                beside = beside[:, : alone.shape[1]]
            if alone.shape != beside.shape or not np.allclose(alone, beside, rtol=1e-3, atol=1e-4):
                yield Wrong(f"{name} of {text!r} differs alone and in a batch", "the same outputs")
                return


@check("runtime.score", "a runner that scores says of tokens what the logits of `forward` say, asked in any order")
def runtime_score(case: RuntimeCase) -> Iterator[Wrong]:
    """Of the model under test, or of a fake one that predicts the next token."""
    if hasattr(case, "runner") and "score" in case.runner.capabilities:
        yield from _scores(case)
        return
    with tempfile.TemporaryDirectory() as folder:
        words = RuntimeCase(case.runtime, None, None, Path(folder), "fake-next-word")
        try:
            words.runner = case.runtime.load(words.artifact, words.task, "cpu")
        except UserError as error:
            raise DoesNotApply from error
        with contextlib.closing(words.runner):
            if "score" not in words.runner.capabilities:
                raise DoesNotApply
            yield from _scores(words)


def _scores(case: RuntimeCase) -> Iterator[Wrong]:
    """Three texts in one batch, places drawn, several tokens at one."""
    import numpy as np

    assert isinstance(case.runner, Forwards)
    assert isinstance(case.runner, Scores)
    batch = case.batch(_TEXTS)
    logits = case.runner.forward(batch)["logits"].astype(np.float64)
    rng, (rows, at) = np.random.default_rng(0), np.nonzero(np.asarray(batch.inputs["attention_mask"]))
    drawn = rng.integers(len(rows), size=3 * len(rows))
    places = np.stack([rows[drawn], at[drawn]], 1).astype(np.int64)
    own = logits[tuple(places.T)]
    tokens = np.where(np.arange(len(own)) % 4, rng.integers(own.shape[-1], size=len(own)), own.argmax(-1))
    own = own - own.max(-1, keepdims=True)
    wanted = (own - np.log(np.exp(own).sum(-1, keepdims=True)))[np.arange(len(own)), tokens]
    logprobs, likeliest = case.runner.score(batch, places, tokens)
    if logprobs.shape != wanted.shape or not np.allclose(logprobs, wanted, rtol=1e-3, atol=1e-4):
        yield Wrong(f"log-probabilities {shown(logprobs[:4])}", f"{shown(wanted[:4])}, those of the logits")
    if not np.array_equal(likeliest, own.argmax(-1) == tokens):
        yield Wrong(f"likeliest {shown(likeliest[:4])}", f"{shown((own.argmax(-1) == tokens)[:4])}")


@check("runtime.embed", "a runner that can embed gives a float32 vector a text, the same in any batch")
def runtime_embed(case: RuntimeCase) -> Iterator[Wrong]:
    """Three texts together, and one by one; no texts give no rows. With the task, and of the backbone alone."""
    if not hasattr(case, "runner"):
        raise CannotCheck("nothing was loaded")
    loaded = [case.runner]
    with contextlib.suppress(UserError):  # one that embeds nothing may refuse a backbone alone
        loaded.append(case.runtime.load(case.artifact, None, "cpu"))
    able = [runner for runner in loaded if "embed" in runner.capabilities]
    for runner in able:
        yield from _embeds(runner)
    for bare in loaded[1:]:
        bare.close()
    if not able:
        raise DoesNotApply


def _embeds(runner: Any) -> Iterator[Wrong]:
    import numpy as np

    together = runner.embed(list(_TEXTS))
    if together.dtype != np.float32 or together.ndim != 2 or len(together) != len(_TEXTS):
        yield Wrong(f"{together.dtype} {together.shape}", f"float32 [rows, hidden], here {len(_TEXTS)} rows")
        return
    for n, text in enumerate(_TEXTS):
        if not np.allclose(runner.embed([text])[0], together[n], rtol=1e-3, atol=1e-4):
            yield Wrong(f"the vector of {text!r} differs alone and in a batch", "the same vector")
    if len(runner.embed([])):
        yield Wrong("rows for no texts", "none")


@check("runtime.closes", "a runner closes twice")
def runtime_closes(case: RuntimeCase) -> Iterator[Wrong]:
    """The second time nothing happens."""
    if not hasattr(case, "runner"):
        raise DoesNotApply
    case.runner.close()
    case.runner.close()
    yield from ()


def _able(case: RuntimeCase, ability: str) -> Runner:
    if not hasattr(case, "runner"):
        raise CannotCheck("nothing was loaded")
    if ability not in case.runner.capabilities:
        raise DoesNotApply
    return case.runner


CHECKS: tuple[Check, ...] = (
    runtime_contract, runtime_prepares, runtime_loads, runtime_forward, runtime_score, runtime_embed,
)  # fmt: skip


def check_runtime(
    runtime: Any,
    *,
    artifact: Artifact | None = None,
    task: BoundTask | None = None,
    where: Where = Where(),  # noqa: B008 -- frozen
) -> Report:
    """Check a runtime. artifact, task: a saved model with its task; default: a fake classifier."""
    with tempfile.TemporaryDirectory() as folder:
        case = RuntimeCase(runtime, artifact, task, Path(folder))
        report = run_checks(CHECKS, case, where)
        runner = getattr(case, "runner", None)
        if runner is not None and "decode" in runner.capabilities:
            report.add(check_decodes(runner, where=where))
        if runner is not None and "generate" in runner.capabilities:
            report.add(check_generates(runner, where=where))
        report.add(run_checks((runtime_closes,), case, where))
    return report


def check_decodes(decoder: Any, *, where: Where = Where()) -> Report:  # noqa: B008 -- frozen
    """Check the ability `Decodes` of a runner or an engine whose slots are empty. Tokens 8 to 20 are fed."""
    return run_checks(DECODES_CHECKS, decoder, where)


def check_generates(generator: Any, *, where: Where = Where()) -> Report:  # noqa: B008 -- frozen
    """Check the ability `Generates` of a runner. Tokens 8 to 20 are fed."""
    return run_checks(GENERATES_CHECKS, generator, where)
