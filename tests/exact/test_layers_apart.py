"""Layers on several processes (pipeline), positions on several (context), alone and beside other axes: as one process computes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exact import test_resume
from exact.processes import Processes, measure
from exact.recipes import classification, fake, laid, language
from exact.test_cuts import same_gradients, same_rows
from spcore.tensors.engine import TorchEngine

WANTED: dict[str, dict[str, Any]] = {}
CASES = [
    ("causal-lm", "pp2", 2, 8),
    ("masked-lm", "pp2-gpipe", 2, 8),  # its decoder is tied to the embeddings of another stage
    ("classification", "pp2", 4, 4),
    ("fake-packed", "pp2", 2, 8),
    ("fake-two-terms", "pp2-interleaved", 2, 8),
    ("fake-masked-words", "pp2-interleaved", 4, None),
    ("fake-contrast", "pp2", 4, 4),
    ("fake-preference", "pp2-gpipe", 2, 8),
    ("causal-lm", "cp2", 2, 16),
    ("masked-lm", "cp2", 4, 8),
    ("classification", "cp2", 2, 16),
    ("fake-packed", "cp2", 2, 8),
    ("fake-contrast", "cp2", 2, 8),
    ("fake-preference", "cp2-pp2", 4, 8),
    ("causal-lm", "cp2-pp2", 4, 8),
    ("causal-lm", "tp2-pp2", 4, 8),
    ("masked-lm", "tp2-cp2", 4, 8),
    ("causal-lm", "tp2-pp2-sp", 4, 8),
]
SLOW = {
    ("causal-lm", "cp2-pp2"),
    ("masked-lm", "tp2-cp2"),
    ("causal-lm", "tp2-pp2-sp"),
    ("fake-masked-words", "pp2-interleaved"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("layers")


def tree_of(task: str, folder: Path) -> dict[str, Any]:
    if task == "fake-packed":
        tree = fake("fake-next-word", layers=4, causal=True)
        return {**tree, "data": {**tree["data"], "pack": 48}}
    if task.startswith("fake"):
        return fake(task, layers=4)
    return classification(folder) if task == "classification" else language(task, folder)


def wanted(task: str, folder: Path) -> dict[str, Any]:
    """One process, one microbatch."""
    if task not in WANTED:
        file = folder / f"{task}.npz"
        found = measure(laid(tree_of(task, folder), "single", 1, micro_batch_size=32), gradients=str(file))
        WANTED[task] = {**found, "gradients": dict(np.load(file))}
    return WANTED[task]


@pytest.mark.parametrize(
    ("task", "layout", "processes", "size"),
    [pytest.param(*case, marks=[pytest.mark.slow] if case[:2] in SLOW else []) for case in CASES],
)
def test_as_in_one_process(
    task: str,
    layout: str,
    processes: int,
    size: int | None,
    folder: Path,
    tmp_path: Path,
    two: Processes,
    four: Processes,
) -> None:
    one, file = wanted(task, folder), tmp_path / "gradients.npz"
    tree = laid(tree_of(task, folder), layout, processes, micro_batch_size=size)
    found = {2: two, 4: four}[processes].measure(tree, str(file))
    assert found["rows"] == one["rows"]
    for step, (ours, theirs) in enumerate(zip(found["steps"], one["steps"], strict=True)):
        # float32 rounds by 6e-8; the first step is the bound, later ones carry what rounding has made of the weights.
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=2e-6 if step == 0 else 5e-5), step
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-5 if step == 0 else 1e-3), step
        assert (ours["tokens"], ours["rows"]) == (theirs["tokens"], theirs["rows"])
    same_gradients(dict(np.load(file)), one["gradients"], 2e-5)
    same_rows(found["predictions"], one["predictions"])
    for name, value in one["metrics"].items():
        assert found["metrics"][name] == pytest.approx(value, rel=1e-4, abs=1e-6), name


def test_a_step_of_which_nothing_is_learnt_leaves_weights_alone(tmp_path: Path, two: Processes) -> None:
    """A pipeline goes on with zeros then; an optimizer that decays weights must not see them."""
    tree = {
        **fake("fake-next-word", layers=2),
        "optimizer": {"use": "adamw", "lr": 0.01, "weight_decay": 5.0, "eps": 1e-5},
    }
    for name, layout, processes in (("one", "single", 1), ("two", "pp2", 2)):
        recipe = {**laid(tree, layout, processes, steps=2), "output": str(tmp_path / name)}
        around = "exact.test_layers_apart:unlabelled"
        if processes == 1:
            with unlabelled(0):
                measure(recipe)
        else:
            two.measure(recipe, around=around)
    ours, theirs = (dict(weights(tmp_path / name)) for name in ("two", "one"))
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        np.testing.assert_allclose(ours[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


def weights(folder: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(folder / "model.safetensors")


class unlabelled:
    """The second step of a run has no label."""

    def __init__(self, rank: int) -> None:
        self.patch = pytest.MonkeyPatch()

    def __enter__(self) -> None:
        plain = TorchEngine.train_step

        def bare(engine: TorchEngine, microbatches: Any, lr: float, step: int) -> Any:
            if step == 1:
                for batch in microbatches:
                    batch.weights.update(dict.fromkeys(batch.weights, 0.0))
                    batch.targets["labels"][...] = -1
            return plain(engine, microbatches, lr, step)

        self.patch.setattr(TorchEngine, "train_step", bare)

    def __exit__(self, *_: object) -> None:
        self.patch.undo()


def test_dropout_does_not_depend_on_the_order_of_a_schedule(tmp_path: Path, two: Processes) -> None:
    base = classification(tmp_path)
    tree = {**base, "model": {**base["model"], "dropout": 0.3}}
    plain = two.measure(laid(base, "pp2", 2, micro_batch_size=8))
    once, again = (two.measure(laid(tree, layout, 2, micro_batch_size=8)) for layout in ("pp2", "pp2-gpipe"))
    assert once["steps"] != plain["steps"]
    # Draws have an address, so the order of a schedule does not matter.
    ours, theirs = ([step["loss"] for step in run["steps"]] for run in (once, again))
    assert ours == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize("layout", ["pp2", "cp2"])
def test_a_run_goes_on_to_the_bit_dropout_on(layout: str, tmp_path: Path, two: Processes) -> None:
    tree = test_resume.tree_of("classification", tmp_path, dropout=True)
    whole = two.measure(test_resume.run(tree, layout, 2, tmp_path / "whole"))
    test_resume.resumed(tmp_path / "whole", tmp_path / "again")
    again = two.measure(test_resume.run(tree, layout, 2, tmp_path / "again"))
    assert again["steps"] == whole["steps"][test_resume.SAVED :]
    assert again["metrics"] == whole["metrics"]
