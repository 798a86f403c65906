from __future__ import annotations

from typing import Any

import pytest

from spcore.interfaces.model import Anatomy, Head
from spcore.interfaces.strategy import Layout
from spcore.testing.fakes.language import FakeLanguageModel
from spcore_optim.optimizers import Lion, Muon
from spcore_optim.options import LionOptions, MuonOptions
from spcore_torch.fsdp import FullySharded
from spcore_torch.options import ShardedOptions
from tensors.tensor_fakes import Weighted, plan_of


class Crossed(FakeLanguageModel):
    """A family whose second layer shares a parameter with its first."""

    def anatomy(self, head: Head) -> Anatomy:
        found = super().anatomy(head)
        tied = {"model.layers.1.mix.weight": "model.layers.0.mix.weight"}
        return Anatomy(found.base, found.embed, found.layers, found.final, found.head, found.causal, tied)


def refused(options: dict[str, Any] | None = None, processes: int = 4, model: Any = None, **changes: Any) -> list[str]:
    plan = plan_of(Weighted(), *([model] if model else []), layout=Layout({"data": processes}), **changes)
    return [str(refusal) for refusal in FullySharded(ShardedOptions(**(options or {}))).check(plan)]


def test_it_honours_the_usual() -> None:
    assert refused() == []
    assert refused({"shard_size": 2, "reshard_after_forward": False}) == []
    assert refused(optimizer=Lion(LionOptions())) == []


@pytest.mark.parametrize(
    ("options", "changes", "line"),
    [
        (
            {"shard_size": 3},
            {},
            "strategy.shard_size 3: does not divide 4 processes; use one of 2, 4, or leave it out",
        ),
        ({"shard_size": 2}, {"processes": 1}, "strategy.shard_size 2: does not divide 1 process; leave it out"),
        (
            {"offload": True},
            {},
            "strategy.offload true: the device is the CPU, whose memory holds everything already; leave it out",
        ),
        (
            {},
            {"optimizer": Muon(MuonOptions())},
            "optimizer: Muon works on whole parameters, and processes hold parts of them; use optimizer=adamw, sgd or lion, or strategy=ddp",
        ),
        (
            {},
            {"model": Crossed()},
            "strategy 'fsdp': model.layers.1.mix.weight of family 'fake' is shared between layers; use strategy=ddp",
        ),
        ({}, {"global_batch_size": 3}, "train.global_batch_size 3: 4 processes share a step"),
    ],
)
def test_what_it_cannot_honour_is_refused(options: dict[str, Any], changes: dict[str, Any], line: str) -> None:
    found = refused(options, **changes)
    assert len(found) == 1
    assert found[0].startswith(line)
