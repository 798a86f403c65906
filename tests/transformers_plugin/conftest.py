"""Folders of tiny models, made once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_models import save_tiny

Folders = Callable[[str], Path]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """family -> its folder, a language model's."""
    made: dict[str, Path] = {}

    def of(family: str) -> Path:
        if family not in made:
            made[family] = save_tiny(tmp_path_factory.mktemp("tiny") / family, family)
        return made[family]

    return of
