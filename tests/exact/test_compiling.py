"""Compiled layers: what eager ones compute, to the rounding of sums in another order; what falls back says so."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from exact.processes import measure
from exact.recipes import laid
from exact.test_tensor_parallel import compare, expected, tree_of

pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
"""torch's own, while it reads a layer's inputs."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compiled")


def compiled(strategy: Any, **more: Any) -> dict[str, Any]:
    named = strategy if isinstance(strategy, dict) else {"use": strategy}
    return {**named, "compile": True, **more}


@pytest.mark.parametrize("task", ["masked-lm", pytest.param("gpt2", marks=pytest.mark.slow)])
def test_one_process(task: str, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Texts of many lengths."""
    file = tmp_path / "gradients.npz"
    with caplog.at_level(logging.INFO, "slimpajama.torch"):
        found = measure(
            laid(tree_of(task, folder), compiled("single"), 1, steps=5, micro_batch_size=8), gradients=str(file)
        )
    compare(found, file, expected(task, folder))
    told = [r.getMessage() for r in caplog.records if "strategy.compile" in r.getMessage()]
    print(told)
    assert told and all("graphs for 2 layers" in line for line in told), "nothing fell back"
