"""float16 under every layout: a gradient too large for it on one rank alone leaves the step out on all of them, and all go on with half the
scale; what one process does."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from exact.processes import Processes, measure
from exact.recipes import fake, laid
from exact.test_tensor_parallel import TENSOR
from spcore.tensors.engine import TorchEngine
from spcore.testing.fakes import words

STEP = 1
"""The step, from 0, whose gradients overflow."""


class _Steep(torch.autograd.Function):
    """The same, and a gradient beyond all formats."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        return grads[0] * float("inf")


@contextlib.contextmanager
def overflows(rank: int) -> Iterator[None]:
    """On rank 1 alone, once."""
    loss, step = words._MaskedWords.loss, TorchEngine.train_step
    now = [-1]

    def steep(self: Any, *given: Any) -> Any:
        terms = loss(self, *given)
        if rank != 1 or now[0] != STEP:
            return terms
        return [type(t)(t.name, _Steep.apply(t.sum), t.coefficient) for t in terms]

    def stepping(self: TorchEngine, microbatches: Any, lr: float, n: int) -> Any:
        now[0] = n
        report = step(self, microbatches, lr, n)
        assert report.applied == (n != STEP)
        assert report.loss_scale == 2.0**16 / (1 if n <= STEP else 2)
        every = self.collect((report.grad_norm, report.loss_scale, report.applied, self.scaler.scale), everywhere=True)
        assert every is not None
        assert len({repr(told) for told in every}) == 1, every
        return report

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(words._MaskedWords, "loss", steep)
        patch.setattr(TorchEngine, "train_step", stepping)
        yield


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    with overflows(1):
        return measure(laid(tree(), "single", 1))


def tree() -> dict[str, Any]:
    return {**fake("fake-masked-words"), "eval": {}, "precision": "fp16"}


@pytest.mark.parametrize("strategy", ["ddp", "fsdp", TENSOR, "pp2", "cp2"], ids=str)
def test_one_rank_overflows(strategy: Any, alone: dict[str, Any], two: Processes) -> None:
    same(two.measure(laid(tree(), strategy, 2), around="exact.test_scaler:overflows"), alone)


def test_one_rank_of_four_overflows(alone: dict[str, Any], four: Processes) -> None:
    # Rank 1 is on the pipeline's first stage, which has no loss: its layers overflow where the last stage's do.
    same(four.measure(laid(tree(), "tp2-pp2", 4), around="exact.test_scaler:on_the_last_stage"), alone)


def on_the_last_stage(rank: int) -> contextlib.AbstractContextManager[None]:
    """Rank 3 alone."""
    return overflows(1 if rank == 3 else 0)


def same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert found["rows"] == wanted["rows"]
    left_out = [[line for line in run["warned"] if "the step is left out" in line] for run in (found, wanted)]
    assert [len(lines) for lines in left_out] == [1, 1]
    assert all(line.startswith(f"step {STEP + 1}: not finite: gradient of ") for lines in left_out for line in lines)
    # Products are rounded to 11 bits on each rank.
    assert [s["loss"] for s in found["steps"]] == pytest.approx([s["loss"] for s in wanted["steps"]], rel=1e-3)
