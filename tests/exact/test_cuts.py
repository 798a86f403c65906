"""The same global batch, cut into microbatches and dealt to processes in any way: the same rows, loss, gradients, evaluation."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from exact.processes import Processes, measure
from exact.recipes import CUTS, LAYOUTS, classification, fake, laid, language, minilm, seq2seq
from spcore.testing.fakes.language import FakeLanguageModel

LANGUAGE = ["causal-lm", "masked-lm", "denoising", "packed"]
ANSWERS = {"seq2seq": "t5", "seq2seq of a decoder": "llama"}
TASKS = [
    "classification",
    *LANGUAGE,
    *ANSWERS,
    "fake-two-terms",
    "fake-next-word",
    "fake-masked-words",
    "fake-preference",
    "fake-contrast",
]
EXPECTED: dict[str, Any] = {}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exact")


def tree_of(task: str, folder: Path) -> dict[str, Any]:
    if task == "minilm":
        return minilm()
    if task in LANGUAGE:
        return language(task, folder)
    if task in ANSWERS:
        return seq2seq(ANSWERS[task], folder, beams=2)
    return classification(folder) if task == "classification" else fake(task)


def on(processes: int, two: Any, four: Any, tree: dict[str, Any], gradients: Path) -> dict[str, Any]:
    """Measured by the processes that are there."""
    if processes == 1:
        return measure(tree, gradients=str(gradients))
    ready: Processes = {2: two, 4: four}[processes]
    return ready.measure(tree, str(gradients))


def expected(task: str, folder: Path) -> dict[str, Any]:
    """One process, one microbatch."""
    if task not in EXPECTED:
        file = folder / f"{task}.npz"
        found = measure(laid(tree_of(task, folder), "single", 1, micro_batch_size=32), gradients=str(file))
        EXPECTED[task] = {**found, "gradients": dict(np.load(file))}
    return EXPECTED[task]


def same_gradients(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray], most: float = 1e-5) -> None:
    """To `most` of a tensor's largest entry, or of a thousandth of the model's where that is larger: a BERT key's bias has a gradient of
    zero, and what is left of it is rounding."""
    assert found.keys() == wanted.keys()
    floor = 1e-3 * max(float(np.abs(g).max()) for g in wanted.values())
    for name, gradient in wanted.items():
        largest = max(float(np.abs(gradient).max()), floor)
        assert float(np.abs(found[name] - gradient).max()) <= most * largest, name


def same_rows(found: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> None:
    """Each row once, in order, with what was predicted for it; five rows on two processes do not divide."""
    assert [row["feature_id"] for row in found] == [row["feature_id"] for row in wanted]
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.keys() == theirs.keys()
        assert all(_equal(ours[name], value) for name, value in theirs.items())


def _equal(found: Any, wanted: Any) -> bool:
    """Numbers with a point, and lists of such, but for rounding."""
    if isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(_equal, found, wanted))
    return bool(found == (pytest.approx(wanted, rel=1e-3, abs=1e-4) if isinstance(wanted, float) else wanted))


def cases() -> list[tuple[str, str, int, int]]:
    """Every task on every layout once, the cuts in turn, but on the largest of a strategy that came later; every cut of every layout for
    the first task."""
    each = [(task, *layout) for task in TASKS for layout in LAYOUTS if layout != ("fsdp", 4)]
    some = [(*case, CUTS[n % len(CUTS)]) for n, case in enumerate(each)]
    return sorted({*some, *((TASKS[0], *layout, cut) for layout, cut in itertools.product(LAYOUTS, CUTS))})


def real() -> list[Any]:
    """The real encoder, every cut of every layout."""
    return [
        pytest.param("minilm", *layout, cut, marks=pytest.mark.slow) for layout, cut in itertools.product(LAYOUTS, CUTS)
    ]


@pytest.mark.parametrize(("task", "strategy", "processes", "size"), [*cases(), *real()])
def test_a_cut_changes_nothing(
    task: str, strategy: str, processes: int, size: int, folder: Path, tmp_path: Path, two: Processes, four: Processes
) -> None:
    wanted = expected(task, folder)
    tree = laid(tree_of(task, folder), strategy, processes, micro_batch_size=size)
    found = on(processes, two, four, tree, tmp_path / "gradients.npz")
    assert found["rows"] == wanted["rows"]
    for step, (ours, theirs) in enumerate(zip(found["steps"], wanted["steps"], strict=True)):
        # The first step is the bound; later ones carry what rounding has made of the weights.
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-6 if step == 0 else 2e-5), step
        assert ours["terms"] == pytest.approx(theirs["terms"], rel=1e-6 if step == 0 else 2e-5), step
        assert (ours["tokens"], ours["rows"]) == (theirs["tokens"], theirs["rows"])
    same_gradients(dict(np.load(tmp_path / "gradients.npz")), wanted["gradients"])
    same_rows(found["predictions"], wanted["predictions"])
    for name, value in wanted["metrics"].items():
        assert found["metrics"][name] == pytest.approx(value, rel=1e-4, abs=1e-6), name


@contextlib.contextmanager
def spare(rank: int) -> Iterator[None]:
    """Every module has a parameter that nothing uses, as a backbone's pooler is under many heads: it never gets a gradient."""
    plain, begin = FakeLanguageModel.build, FakeLanguageModel.initialise

    def build(self: FakeLanguageModel, *given: Any, **named: Any) -> torch.nn.Module:
        module = plain(self, *given, **named)
        module.spare = torch.nn.Linear(3, 2, bias=False, device="meta")
        return module

    def initialise(self: FakeLanguageModel, module: torch.nn.Module, path: str) -> None:
        torch.nn.init.ones_(module.weight) if path == "spare" else begin(self, module, path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FakeLanguageModel, "build", build)
        patch.setattr(FakeLanguageModel, "initialise", initialise)
        yield


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_parameter_that_nothing_uses(strategy: str, tmp_path: Path, two: Processes) -> None:
    """Its weight does not even decay, as it would with a gradient of zeros."""
    tree, files = {**fake("fake-masked-words"), "eval": {}}, [tmp_path / "one.npz", tmp_path / "two.npz"]
    with spare(0):
        wanted = measure(laid(tree, "single", 1), gradients=str(files[0]))
        how = {**laid(tree, strategy, 2), "output": str(tmp_path / "run")}
        found = two.measure(how, str(files[1]), around="exact.test_cuts:spare")
    same_gradients(dict(np.load(files[1])), dict(np.load(files[0])))
    assert not [name for name in np.load(files[1]) if "spare" in name]
    ours, theirs = ([step["loss"] for step in run["steps"]] for run in (found, wanted))
    assert ours == pytest.approx(theirs, rel=2e-5)
    with safe_open(tmp_path / "run" / "model.safetensors", framework="np") as saved:
        assert saved.get_tensor("spare.weight").tolist() == [[1.0] * 3] * 2


def test_an_evaluation_of_fewer_rows_than_processes(folder: Path, four: Processes) -> None:
    tree = classification(folder)
    tree["eval"]["data"]["split"] = "train[198:]"
    wanted, found = measure(laid(tree, "single", 1)), four.measure(laid(tree, "ddp", 4))
    assert len(wanted["predictions"]) == 2
    same_rows(found["predictions"], wanted["predictions"])
    assert found["metrics"] == pytest.approx(wanted["metrics"], rel=1e-4, abs=1e-6)


@pytest.mark.slow
def test_with_dropout_on_curves_agree_within_their_spread(folder: Path, two: Processes) -> None:
    """Two processes draw dropout otherwise than one: over eight seeds the mean losses differ by less than three standard errors."""
    tree = {**classification(folder), "model": {**classification(folder)["model"], "dropout": 0.2}}
    one, both = [], []
    for seed in range(8):
        how = {"steps": 30, "seed": seed}
        one.append(np.mean([s["loss"] for s in measure(laid(tree, "single", 1, **how))["steps"][-10:]]))
        both.append(np.mean([s["loss"] for s in two.measure(laid(tree, "ddp", 2, **how))["steps"][-10:]]))
    difference = np.subtract(one, both)  # of the same seed, so of the same rows
    assert np.abs(difference).max() > 0, "dropout is on"
    assert abs(difference.mean()) < 3 * difference.std(ddof=1) / np.sqrt(len(difference))
