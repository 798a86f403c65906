"""Small deterministic parts, one or more for each contract, that exercise every member of it.

They stand in for the parts around the one under test: a task is tried on `FakeProcessor`, a strategy on
`FakeLanguageModel` and `FakeClassification`, a decoding loop on `FakeDecoder`. `spcore.testing.plugin` offers them as
components. Names load on first use; only those of `language` and `steps`, and methods that give tensors, import torch.
"""

from __future__ import annotations

import importlib
from typing import Any

_WHERE = {
    "FakeProcessor": "processor", "FakeModel": "language", "FakeLanguageModel": "language", "FakeConfig": "language",
    "FakeClassification": "classification", "FakeTwoTerms": "classification", "FakeNextWord": "words",
    "FakeMaskedWords": "words", "FakePrompted": "words", "FakePreference": "pairs", "FakeContrast": "pairs",
    "FakeDataset": "data", "FakeSource": "data", "FAKE_PRECISION": "training", "FakeOptimizer": "training",
    "FakeSchedule": "training", "FakeStrategy": "engine", "FakeEngine": "engine", "FakeRuntime": "running",
    "FakeRunner": "running", "FakeDecoder": "decoder", "HistoryDecoder": "steps", "FakeLauncher": "around", "FakeLogger": "around",
    "FakeAdapter": "adapter", "FakeConstraint": "constraint", "FakeHarness": "harness",
}  # fmt: skip
__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
