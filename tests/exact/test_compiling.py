"""Compiled layers: what eager ones compute, to the rounding of sums in another order; what falls back says so, and computes it too.

torch's compiler takes long; but where it is slow, the layers are traced, cut into forward and backward graphs and run by "aot_eager", as
for every compiler.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers.models.bert.modeling_bert import BertSelfOutput

from exact.processes import Processes, measure
from exact.recipes import laid
from exact.test_tensor_parallel import compare, expected, tree_of
from spcore_torch import compiling

pytestmark = pytest.mark.filterwarnings("default::UserWarning", "default::FutureWarning", "default::DeprecationWarning")
"""torch's own, while it reads a layer's code and inputs."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compiled")


@contextlib.contextmanager
def quickly(rank: int = 0) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiling, "BACKEND", "aot_eager")
        patch.setattr(compiling, "SETTINGS", {})
        torch.compiler.reset()
        yield


def recipe(
    task: str, folder: Path, strategy: Any, size: int = 1, *, dropout: float = 0.0, **more: Any
) -> dict[str, Any]:
    tree = tree_of(task, folder)
    tree = {**tree, "model": {**tree["model"], "dropout": dropout}}
    made = laid(tree, strategy, size, steps=5, micro_batch_size=16 // size)
    named = made["strategy"] if isinstance(made["strategy"], dict) else {"use": made["strategy"]}
    return {**made, "strategy": {**named, "compile": True, **more}}


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    ours = (record.getMessage() for record in caplog.records if record.name == "slimpajama.torch")
    return [line.removeprefix("strategy.compile: ") for line in ours if line.startswith("strategy.compile")]


@pytest.mark.parametrize(
    ("task", "whole"),
    [
        ("masked-lm", True),
        pytest.param("gpt2", True, marks=pytest.mark.slow),
        # The compiler leaves a part of T5's layers to Python.
        pytest.param("denoising", False, marks=pytest.mark.slow),
    ],
)
def test_one_process(task: str, whole: bool, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Texts of many lengths. whole: whether layers are compiled as one; what falls back is told, and computes the same."""
    file = tmp_path / "gradients.npz"
    with quickly(), caplog.at_level(logging.INFO, "slimpajama.torch"):
        found = measure(recipe(task, folder, "single"), gradients=str(file))
    compare(found, file, expected(task, folder))
    lines = told(caplog)
    assert lines
    counts = [int(line.split()[0]) for line in lines if line.endswith(" layers")]
    assert counts
    assert (len(lines) == len(counts)) is whole, lines
    assert max(counts) <= 8 or not whole, "for the first length, and then for any"


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("strategy", ["single", "ddp", "fsdp", "pp2"])
def test_by_the_compiler_itself(strategy: str, folder: Path, tmp_path: Path, two: Processes) -> None:
    file = tmp_path / "gradients.npz"
    carry, size = (measure, 1) if strategy == "single" else (two.measure, 2)
    found = carry(recipe("masked-lm", folder, strategy, size, activation_checkpointing="full"), gradients=str(file))  # type: ignore[operator]
    compare(found, file, expected("masked-lm", folder))


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["fsdp", "pp2"])
def test_two_processes(strategy: str, folder: Path, tmp_path: Path, two: Processes) -> None:
    file = tmp_path / "gradients.npz"
    tree = recipe("masked-lm", folder, strategy, 2, activation_checkpointing="full")
    compare(two.measure(tree, str(file), around="exact.test_compiling:quickly"), file, expected("masked-lm", folder))


@pytest.mark.slow
def test_recomputed_with_dropout_on(folder: Path, tmp_path: Path) -> None:
    """To the bit: a compiled layer draws again what it drew."""
    found = {}
    for how in ("none", "full"):
        with quickly():
            file = str(tmp_path / f"{how}.npz")
            run = measure(
                recipe("masked-lm", folder, "single", dropout=0.3, activation_checkpointing=how), gradients=file
            )
        found[how] = [step["loss"] for step in run["steps"]], dict(np.load(file))
    assert found["full"][0] == found["none"][0]
    assert all(np.array_equal(found["full"][1][name], g) for name, g in found["none"][1].items())


@pytest.mark.slow
def test_narrow_products(folder: Path) -> None:
    """bfloat16: the same operands, rounded where eager layers round them but for what is joined."""
    tree = {**recipe("masked-lm", folder, "single"), "precision": "bf16"}
    with quickly():
        found = measure(tree)
    wanted = measure({**tree, "strategy": "single"})
    assert [s["loss"] for s in found["steps"]] == pytest.approx([s["loss"] for s in wanted["steps"]], rel=3e-3)


def fails(graph: Any, inputs: Any) -> Any:
    raise RuntimeError("g++: internal compiler error\nPlease submit a full bug report")


def test_a_compiler_that_fails(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    torch._dynamo.register_backend(fails, name="fails")
    file = tmp_path / "gradients.npz"
    with quickly(), caplog.at_level(logging.WARNING, "slimpajama.torch"):
        monkeypatch.setattr(compiling, "BACKEND", "fails")
        found = measure(recipe("masked-lm", folder, "single"), gradients=str(file))
    compare(found, file, expected("masked-lm", folder))
    assert set(told(caplog)) == {"the compiler fails failed, layers run uncompiled: g++: internal compiler error"}


def test_python_between_compiled_parts(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plain = BertSelfOutput.forward

    def broken(self: Any, *given: Any) -> Any:
        torch._dynamo.graph_break(msg="a part that the compiler cannot see")
        return plain(self, *given)

    file = tmp_path / "gradients.npz"
    monkeypatch.setattr(BertSelfOutput, "forward", broken)
    with quickly(), caplog.at_level(logging.WARNING, "slimpajama.torch"):
        found = measure(recipe("masked-lm", folder, "single"), gradients=str(file))
    compare(found, file, expected("masked-lm", folder))
    assert any(
        line.startswith("a layer is compiled in several parts, with Python between them: ") for line in told(caplog)
    )


def test_more_shapes_than_are_compiled(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(compiling, "SHAPES", 1)
    with quickly(), caplog.at_level(logging.WARNING, "slimpajama.torch"):
        measure(recipe("masked-lm", folder, "single"))
    assert "layers were compiled 2 times, for as many kinds of shapes; others run uncompiled" in told(caplog)
