from __future__ import annotations

import pytest

from embed.tools import TEXTS
from support.hub_content import put_tiny_bert


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a small BERT with random weights, and dropout."""
    root = tmp_path_factory.mktemp("embed")
    return str(put_tiny_bert(root, "test/tiny", TEXTS, hidden_size=32, heads=2, max_length=64))
