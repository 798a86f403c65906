"""Strategy `parallel` along its axis "tensor": each rank has pieces of the matrices, and what one process computes comes about."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors.numpy import load_file

from exact.families import FAMILIES, recipe
from exact.processes import Processes, measure
from exact.recipes import classification, fake, laid, language, seq2seq
from exact.test_cuts import same_rows
from exact.test_resume import SAVED, resumed, run
from spcore_torch.parallel import ParallelEngine

TENSOR = {"use": "parallel", "tensor_parallel": 2}
SEQUENCE = {**TENSOR, "sequence_parallel": True}
PADDED = {**SEQUENCE, "flatten": "never"}
"""Microbatches of several rows: the positions that ranks share are not the first axis then."""
EXPECTED: dict[str, Any] = {}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cut")


def tree_of(task: str, folder: Path) -> dict[str, Any]:
    if task == "packed":
        tree = language("causal-lm", folder)
        tree = {**tree, "data": {**tree["data"], "pack": 48}}
    elif task in ("causal-lm", "masked-lm", "denoising"):
        tree = language(task, folder)
    elif task in FAMILIES:
        tree = recipe(task, folder)
    elif task == "a stranger's head":
        data, shown = {"use": "weather"}, {"data": {"use": "weather", "split": "train[49:]"}}
        tree = {**classification(folder), "task": "weather", "data": data, "eval": shown}
    elif task.startswith("seq2seq"):
        tree = seq2seq(task.removeprefix("seq2seq "), folder, beams=2)
    else:
        tree = classification(folder) if task == "classification" else fake(task)
    # Adam's usual eps makes much of rounding where a gradient is next to nothing.
    return {**tree, "optimizer": {**tree["optimizer"], "eps": 1e-5}}


def expected(task: str, folder: Path) -> dict[str, Any]:
    """One process."""
    if task not in EXPECTED:
        file = folder / f"{task}.npz"
        found = measure(laid(tree_of(task, folder), "single", 1, steps=5), gradients=str(file))
        EXPECTED[task] = {**found, "gradients": dict(np.load(file))}
    return EXPECTED[task]


def compare(found: dict[str, Any], gradients: Path, wanted: dict[str, Any], *, gradient: float = 2e-5) -> None:
    """Rounding alone may differ: sums over ranks have another order."""
    assert found["rows"] == wanted["rows"]
    ours, theirs = found["steps"], wanted["steps"]
    assert ours[0]["loss"] == pytest.approx(theirs[0]["loss"], rel=2e-6)
    assert ours[0]["grad_norm"] == pytest.approx(theirs[0]["grad_norm"], rel=1e-5)
    assert [s["loss"] for s in ours] == pytest.approx([s["loss"] for s in theirs], rel=5e-5)
    assert [s["tokens"] for s in ours] == [s["tokens"] for s in theirs]
    each = dict(np.load(gradients))
    assert each.keys() == wanted["gradients"].keys()
    floor = 1e-3 * max(float(np.abs(g).max()) for g in wanted["gradients"].values())
    for name, g in wanted["gradients"].items():
        assert float(np.abs(each[name] - g).max()) <= gradient * max(float(np.abs(g).max()), floor), name
    same_rows(found["predictions"], wanted["predictions"])


CASES = [
    ("classification", TENSOR), ("masked-lm", TENSOR), ("packed", TENSOR), ("packed", SEQUENCE),
    ("gpt2", TENSOR), ("denoising", SEQUENCE), ("modernbert", SEQUENCE), ("one group", TENSOR),
    ("fake-two-terms", TENSOR), ("a stranger's head", TENSOR), ("opt", TENSOR), ("fake-contrast", TENSOR), ("seq2seq t5", TENSOR),
    ("seq2seq llama", TENSOR),
    ("gpt2", PADDED),
]  # fmt: skip
UNDIVIDED = [(family, how) for family in ("phi3", "opt") for how in (SEQUENCE, PADDED)]
"""Refused."""
SLOW = [
    (task, how)
    for task in ("classification", "masked-lm", "denoising", "seq2seq llama", *FAMILIES)
    for how in (TENSOR, SEQUENCE, PADDED)
]


def named(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "padded" if value == PADDED else "sequence" if value == SEQUENCE else "tensor"


@pytest.mark.parametrize(
    ("task", "strategy"),
    [*CASES, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW if case not in CASES and case not in UNDIVIDED)],
    ids=named,
)  # fmt: skip
def test_two_ranks_compute_what_one_does(
    task: str, strategy: dict[str, Any], folder: Path, tmp_path: Path, two: Processes
) -> None:
    wanted = expected(task, folder)
    file = tmp_path / "gradients.npz"
    found = two.measure(laid(tree_of(task, folder), strategy, 2, steps=5), str(file))
    # Where matrices are random and large, attention's gradients are differences of numbers a hundred times as large; of a bias under a
    # softmax, as the stranger's query has one, rounding is all there is.
    compare(found, file, wanted, gradient=5e-5 if task in (*FAMILIES, "a stranger's head") else 2e-5)


@pytest.mark.parametrize(("task", "sequence"), [("packed", True), ("classification", False)])
def test_beside_data_parallelism(task: str, sequence: bool, folder: Path, tmp_path: Path, four: Processes) -> None:
    strategy = SEQUENCE if sequence else TENSOR
    file = tmp_path / "gradients.npz"
    tree = laid(tree_of(task, folder), strategy, 4, steps=5, micro_batch_size=8)
    compare(four.measure(tree, str(file)), file, expected(task, folder))


def test_initial_weights_are_equal_to_the_bit(folder: Path, tmp_path: Path, two: Processes) -> None:
    tree = tree_of("gpt2", folder)
    tree["model"] = {**tree["model"], "from_scratch": True}
    tree["optimizer"] = {"use": "sgd", "lr": 1e-45, "weight_decay": 0.0}  # which moves nothing
    one, cut = (
        {**laid(tree, how, n, steps=1), "output": str(tmp_path / str(n))} for how, n in (("single", 1), (TENSOR, 2))
    )
    measure(one)
    two.measure(cut)
    wanted, found = (load_file(tmp_path / str(n) / "model.safetensors") for n in (1, 2))
    assert found.keys() == wanted.keys()
    assert all(found[name].tobytes() == wanted[name].tobytes() for name in wanted)


@contextlib.contextmanager
def equal_replicas(rank: int) -> Iterator[None]:
    """Gradients of what every rank holds whole are the same on all: so are the masks behind them."""
    reduce = ParallelEngine.reduce_gradients

    def checked(self: ParallelEngine) -> None:
        reduce(self)
        whole = [p.grad.reshape(-1) for n, p in self.own.items() if n not in self.cuts.tensors and p.grad is not None]
        mine = torch.cat(whole)
        other = mine.clone()
        dist.broadcast(other, 0)
        assert torch.equal(mine, other), "ranks have dropped other activations"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ParallelEngine, "reduce_gradients", checked)
        yield


@pytest.mark.parametrize("strategy", [TENSOR, SEQUENCE], ids=named)
def test_ranks_drop_the_same_of_what_they_share(strategy: dict[str, Any], folder: Path, two: Processes) -> None:
    tree = tree_of("classification", folder)
    tree["model"] = {**tree["model"], "dropout": 0.3}
    found = two.measure(laid(tree, strategy, 2), around="exact.test_tensor_parallel:equal_replicas")
    without = expected("classification", folder)
    assert found["steps"][0]["loss"] != without["steps"][0]["loss"], "dropout is on"


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_narrow_products(precision: str, folder: Path, two: Processes) -> None:
    """The same master weights; products are rounded on each rank before they are summed, so to the format's own precision."""
    tree = {**tree_of("packed", folder), "precision": precision}
    wanted, found = measure(laid(tree, "single", 1)), two.measure(laid(tree, SEQUENCE, 2))
    losses = [[step["loss"] for step in run["steps"]] for run in (found, wanted)]
    assert losses[0] == pytest.approx(losses[1], rel={"bf16": 5e-3, "fp16": 1e-3}[precision])
    assert found["warned"] == wanted["warned"], "the scaler leaves out the same steps"


LAID_ANEW = [
    (TENSOR, 2, "single", 1),
    ("fsdp", 2, SEQUENCE, 2),
    (TENSOR, 2, TENSOR, 4),
    ({**TENSOR, "tensor_parallel": 4}, 4, TENSOR, 2),
]


@pytest.mark.parametrize(("before", "processes", "after", "later"), LAID_ANEW)
def test_a_checkpoint_of_pieces_is_read_by_any_layout(
    before: Any, processes: int, after: Any, later: int, tmp_path: Path, folder: Path, two: Processes, four: Processes
) -> None:
    """GPT-2: a rank's piece of the fused query, key and value lies in three places of the whole."""
    ready = {2: two, 4: four}
    tree = tree_of("gpt2", folder)
    whole = ready[processes].measure(run(tree, before, processes, tmp_path / "whole"))
    resumed(tmp_path / "whole", tmp_path / "again")
    again_tree = run(tree, after, later, tmp_path / "again")
    again = measure(again_tree) if later == 1 else ready[later].measure(again_tree)
    assert again["rows"] == whole["rows"], "every row once"
    ours, theirs = [s["loss"] for s in again["steps"]], [s["loss"] for s in whole["steps"][SAVED:]]
    assert ours == pytest.approx(theirs, rel=1e-6)
