from __future__ import annotations

from pathlib import Path

import pytest

from harness.asked import save_llama, save_tasks
from spcore.api import LanguageModelHandle, load_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("asked")
    save_llama(found / "model")
    save_tasks(found / "tasks")
    return found


@pytest.fixture(scope="module")
def model(folder: Path) -> LanguageModelHandle:
    return load_model(folder / "model", device="cpu")
