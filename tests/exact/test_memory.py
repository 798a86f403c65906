"""A step that does not fit is cut finer and made again: the same result, told once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from exact.processes import Processes, measure
from exact.recipes import classification, fake, laid
from spcore.errors import RunError
from spcore.tensors.engine import TorchEngine


@contextlib.contextmanager
def fits(rows: int) -> Iterator[None]:
    """Every engine's forward pass of a training step finds memory for so many rows alone."""
    plain = TorchEngine.forward

    def forward(self: TorchEngine, batch: Any) -> Any:
        if torch.is_grad_enabled() and (batch.feature_ids >= 0).sum() > rows:
            torch.empty(2**60)  # raises what torch's own allocator does
        return plain(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TorchEngine, "forward", forward)
        yield


def smaller_on_one(rank: int) -> contextlib.AbstractContextManager[None]:
    """Rank 1 has less memory than rank 0."""
    return fits(9 if rank == 1 else 1000)


def same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert found["rows"] == wanted["rows"]
    ours, theirs = ([step["loss"] for step in run["steps"]] for run in (found, wanted))
    assert ours[0] == pytest.approx(theirs[0], rel=1e-6)
    assert ours == pytest.approx(theirs, rel=2e-5)


@pytest.mark.parametrize("train", [{"micro_batch_size": 32}, {"micro_batch_tokens": 8192}])
def test_one_process(tmp_path: Path, train: dict[str, Any]) -> None:
    tree = laid(classification(tmp_path), "single", 1, **train)
    wanted = measure(tree)
    with fits(9):
        found = measure(tree)
    same(found, wanted)
    told = [line for line in found["warned"] if "not enough memory" in line]
    # 32, 16, 8 rows; by tokens until the shortest rows are nine at most.
    assert len(told) == 2 if "micro_batch_size" in train else 1 <= len(told) <= 6


def test_one_of_two_processes(tmp_path: Path, two: Processes) -> None:
    tree = laid(classification(tmp_path), "ddp", 2, micro_batch_size=16)
    wanted = measure(laid(classification(tmp_path), "single", 1))
    found = two.measure(tree, around="exact.test_memory:smaller_on_one")
    same(found, wanted)
    assert len([line for line in found["warned"] if "not enough memory" in line]) == 1


def test_a_single_row_that_does_not_fit_ends_the_run(tmp_path: Path) -> None:
    with fits(0), pytest.raises(RunError, match=r"not enough memory.*one feature each.*max_length"):
        measure(laid(classification(tmp_path), "single", 1))


@contextlib.contextmanager
def never_fits(rank: int) -> Iterator[None]:
    """No forward pass of rank 1 finds memory, evaluations neither."""

    def forward(self: TorchEngine, batch: Any) -> Any:
        torch.empty(2**60)

    with pytest.MonkeyPatch.context() as patch:
        if rank == 1:
            patch.setattr(TorchEngine, "forward", forward)
        yield


def test_an_evaluation_that_does_not_fit_says_what_would() -> None:
    tree = laid(fake("fake-preference"), "single", 1)
    said = r"^cpu: not enough memory for a batch of \d+ features, \d+ padded tokens\. Try eval\.batch_tokens=\d+$"
    with never_fits(1), pytest.raises(RunError, match=said):
        measure(tree)


def test_a_step_that_cannot_be_repeated_says_what_would_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss over the whole batch, which gathers amid its sweep: on several processes they would not meet again."""
    tree = laid(fake("fake-contrast"), "single", 1, micro_batch_size=8)
    monkeypatch.setattr(TorchEngine, "recovers", False)
    said = r"^cpu: not enough memory for a batch of 8 features, .*\. Try train\.micro_batch_size=4$"
    with never_fits(1), pytest.raises(RunError, match=said):
        measure(tree)


def test_features_of_several_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    """The unit is the feature: a pair is two rows of a batch."""
    tree = laid(fake("fake-contrast"), "single", 1, micro_batch_size=8)
    wanted = measure(tree)
    with fits(9):
        found = measure(tree)
    same(found, wanted)
    assert [line for line in found["warned"] if "at most 4 features, not 8" in line]
