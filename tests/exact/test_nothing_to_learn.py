from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from exact.processes import measure
from exact.recipes import fake, laid
from spcore.errors import DataError
from spcore.interfaces.task import Batch
from spcore.testing.fakes.words import _NextWord


def without_labels(collate: Callable[..., Batch]) -> Callable[..., Batch]:
    def bare(*args: Any) -> Batch:
        return replace(collate(*args), weights={"tokens": 0.0})

    return bare


def test_a_run_without_a_label_ends_before_its_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where what is to be learnt lies behind data.max_length in every row."""
    monkeypatch.setattr("spcore.testing.fakes.words._NextWord.collate", without_labels(_NextWord.collate))
    tree = fake("fake-next-word")
    said = r"^nothing to learn: no label is left in any row: \d+ of 72 texts were longer than data\.max_length"
    with pytest.raises(DataError, match=said):
        measure(laid({**tree, "data": {**tree["data"], "max_length": 4}}, "single", 1))
