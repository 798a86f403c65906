"""A step that does not fit is cut finer and made again: the same result, told once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from exact.processes import Processes, measure
from exact.recipes import classification, laid
from spcore.errors import RunError

LARGEST = 9
"""Rows of which a microbatch is held to fit."""


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch.setattr, LARGEST)


def shrink(patch: Any, most: int) -> None:
    """Have every engine's forward pass find no memory for more than so many rows."""
    from spcore.tensors.engine import TorchEngine

    plain = TorchEngine.forward

    def forward(self: TorchEngine, batch: Any) -> Any:
        if torch.is_grad_enabled() and (batch.feature_ids >= 0).sum() > most:
            torch.empty(2**60)  # what torch's allocator itself raises
        return plain(self, batch)

    patch(TorchEngine, "forward", forward)
