"""Activation checkpointing: the same losses and gradients to the bit, dropout on and off, at every layout; and less memory."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from exact.processes import Processes, measure
from exact.recipes import laid
from exact.test_tensor_parallel import SEQUENCE, TENSOR, tree_of
from spcore.tensors.engine import TorchEngine

CASES = [
    ("classification", "single", "full"), ("packed", "fsdp", "selective"), ("classification", TENSOR, "full"), ("denoising", TENSOR, "selective"),
    ("packed", SEQUENCE, "full"), ("classification", "cp2", "selective"), ("packed", "pp2", "full"),
]  # fmt: skip
SLOW = [
    ("packed", "single", "selective"), ("denoising", "single", "full"), ("masked-lm", "ddp", "selective"), ("classification", "fsdp", "full"),
    ("classification", "pp2-gpipe", "selective"), ("denoising", "cp2", "full"),
]  # fmt: skip
FOUR = [("masked-lm", "tp2-pp2-sp", "full"), ("packed", "tp2-cp2", "full"), ("classification", "cp2-pp2", "selective")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recomputed")


def run(
    task: str, strategy: Any, how: str, folder: Path, processes: dict[int, Any], *, dropout: float, size: int
) -> Any:
    tree = tree_of(task, folder)
    tree = {**tree, "model": {**tree["model"], "dropout": dropout}, "eval": {}}
    recipe = laid(tree, strategy, size, steps=3, micro_batch_size=16 // size)
    named = recipe["strategy"] if isinstance(recipe["strategy"], dict) else {"use": recipe["strategy"]}
    recipe["strategy"] = {**named, "activation_checkpointing": how}
    file = folder / f"{how}.npz"
    found = processes[size](recipe, gradients=str(file))
    return [(s["loss"], s["grad_norm"]) for s in found["steps"]], dict(np.load(file))


@pytest.mark.parametrize("dropout", [0.3, pytest.param(0.0, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("task", "strategy", "how"), [*CASES, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)], ids=str
)
def test_to_the_bit(task: str, strategy: Any, how: str, dropout: float, folder: Path, two: Processes) -> None:
    same(task, strategy, how, dropout, folder, {1: measure, 2: two.measure}, 1 if strategy == "single" else 2)


@pytest.mark.slow
@pytest.mark.parametrize("dropout", [0.3, 0.0])
@pytest.mark.parametrize(("task", "strategy", "how"), FOUR, ids=str)
def test_to_the_bit_on_four(task: str, strategy: Any, how: str, dropout: float, folder: Path, four: Processes) -> None:
    same(task, strategy, how, dropout, folder, {4: four.measure}, 4)


def same(task: str, strategy: Any, how: str, dropout: float, folder: Path, processes: Any, size: int) -> None:
    plain, found = (run(task, strategy, h, folder, processes, dropout=dropout, size=size) for h in ("none", how))
    assert found[0] == plain[0]
    assert found[1].keys() == plain[1].keys()
    assert all(np.array_equal(found[1][name], gradient) for name, gradient in plain[1].items())


class Living(TorchDispatchMode):
    """Counts the bytes of what was made inside and is still there."""

    def __init__(self) -> None:
        super().__init__()
        self.storages: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.storages.setdefault(id(storage), (weakref.ref(storage), storage.nbytes()))
        return out

    def bytes(self) -> int:
        return sum(size for storage, size in self.storages.values() if storage() is not None)


@contextlib.contextmanager
def counted(found: list[int]) -> Iterator[None]:
    """Bytes between a microbatch's forward and backward pass, the first sweep's."""
    backpropagate, sweep = TorchEngine.backpropagate, TorchEngine.sweep

    def before(self: TorchEngine, *args: Any) -> None:
        found.append(living[-1].bytes())
        backpropagate(self, *args)

    def watched(self: TorchEngine, *args: Any, **kwargs: Any) -> Any:
        living.append(Living())
        with living[-1]:
            return sweep(self, *args, **kwargs)

    living: list[Living] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TorchEngine, "backpropagate", before)
        patch.setattr(TorchEngine, "sweep", watched)
        yield


def test_less_is_kept(folder: Path) -> None:
    """Of one microbatch of two layers, embeddings and head: between the passes there are the inputs of layers, or also large products."""
    kept = {}
    for how in ("none", "selective", "full"):
        found: list[int] = []
        with counted(found):
            run("packed", "single", how, folder, {1: measure}, dropout=0.1, size=1)
        kept[how] = found[0]
    assert kept["full"] < 0.5 * kept["none"], kept
    assert kept["full"] < kept["selective"] < 0.9 * kept["none"], kept
