"""The talking model, in this process and for the command line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import talker

from spcore import LanguageModelHandle, Registry, load_model


@pytest.fixture
def registry() -> Registry:
    """With the talking model alone."""
    made = Registry(entry_points=False)
    made.register(talker, name="talker")
    return made


@pytest.fixture
def model(registry: Registry) -> LanguageModelHandle:
    """That can be talked with."""
    return load_model("talker:small", runtime="talker", registry=registry)


@pytest.fixture(scope="session")
def shell(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a shell in which the talking model is installed."""
    folder = tmp_path_factory.mktemp("installed")
    info = folder / "sp_talker-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sp-talker\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[spcore]\ntalker = talker\n")
    paths = [str(folder), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "TERM": "xterm", "NO_COLOR": "1", "PYTHONUNBUFFERED": "1",
    }  # fmt: skip
