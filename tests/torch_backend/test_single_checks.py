from __future__ import annotations

from typing import Any

import pytest
import torch

from spcore.errors import RefusalError
from spcore.interfaces.launcher import RunSpec
from spcore.interfaces.model import Anatomy, Head
from spcore.interfaces.precision import Fp8Recipe, PrecisionPolicy
from spcore.interfaces.strategy import Layout, Place
from spcore.testing.fakes.adapter import FakeAdapter
from spcore.testing.fakes.language import FakeLanguageModel
from spcore.testing.plugins import check_plugin
from spcore_torch import plugin
from spcore_torch.inline import Inline
from spcore_torch.options import InlineOptions, SingleOptions
from spcore_torch.single import Single, SingleEngine
from tensors.tensor_fakes import Weighted, plan_of


class Padded(FakeLanguageModel):
    """A family that does not keep packed texts apart."""

    def anatomy(self, head: Head) -> Anatomy:
        found = super().anatomy(head)
        return Anatomy(found.base, found.embed, found.layers, found.final, found.head, found.causal)


def refused(options: dict[str, Any] | None = None, **changes: Any) -> list[str]:
    plan = plan_of(Weighted(), **changes)
    return [str(refusal) for refusal in Single(SingleOptions(**(options or {}))).check(plan)]


def test_it_honours_the_usual() -> None:
    assert refused() == []
    for policy in (
        PrecisionPolicy("bf16", compute="bfloat16"),
        PrecisionPolicy("fp16", compute="float16"),
    ):
        assert refused(precision=policy) == []
    assert refused({"flatten": "always"}, pack=64, deterministic=True) == []


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"precision": PrecisionPolicy("fp8", compute="bfloat16", fp8=Fp8Recipe())},
            "precision 'fp8': device 'cpu' has no 8-bit products; use precision=bf16",
        ),
        (
            {"precision": PrecisionPolicy("tf32", matmul="tf32")},
            "precision 'tf32': device 'cpu' has no TF32 products; use precision=fp32 or bf16",
        ),
        (
            {"precision": PrecisionPolicy("pure", parameter="bfloat16", compute="bfloat16")},
            "precision 'pure': parameters in bfloat16, optimizer state in float32: both are float32 here; use precision=fp32, bf16 or fp16",
        ),
        (
            {"pack": 64, "model": Padded()},
            "data.pack 64: family 'fake' does not keep packed texts apart; leave data.pack out",
        ),
        ({"adapter": FakeAdapter()}, "adapter: this strategy trains whole models only; leave adapter out"),
    ],
)
def test_what_it_cannot_honour_it_refuses(changes: dict[str, Any], line: str) -> None:
    assert refused(**changes) == [line]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there() -> None:
    assert refused(device="cuda") == ["device 'cuda': torch sees 0 CUDA devices; use device=cpu"]
    assert refused(device="cuda:3", deterministic=True) == [
        "device 'cuda:3': torch sees 0 CUDA devices; use device=cpu"
    ]


def test_flat_rows_are_refused_or_left_by_family() -> None:
    line = "strategy.flatten always: family 'fake' with a head of kind 'custom' cannot be fed without padding; use strategy.flatten=auto"
    assert refused({"flatten": "always"}, model=Padded()) == [line]
    plan = plan_of(Weighted(), Padded())
    engine = Single(SingleOptions()).engine(plan, Place())
    assert isinstance(engine, SingleEngine)
    assert not engine.flat
    assert engine.facts()["padding"] == "rows are padded"


def test_one_process_only() -> None:
    strategy = Single(SingleOptions())
    assert strategy.inline
    assert strategy.layout(1) == Layout({"data": 1})
    with pytest.raises(RefusalError, match=r"runs one process, asked for 4; .*launch\.processes=1"):
        strategy.layout(4)


def test_the_inline_launcher_needs_one_inline_process() -> None:
    launcher = Inline(InlineOptions())

    def lines(inline: bool, size: int) -> list[str]:
        spec = RunSpec({}, registry=None, layout=Layout({"data": size}), inline=inline)  # type: ignore[arg-type]
        return [str(refusal) for refusal in launcher.check(spec)]

    assert lines(True, 1) == []
    assert lines(True, 2) == [
        "launch 'inline': the layout has 2 processes, it runs one; use launch=local and launch.processes"
    ]
    assert lines(False, 1) == [
        "launch 'inline': the strategy needs a process of its own; use launch=local and launch.processes"
    ]


def test_the_plugin_conforms() -> None:
    from spcore.components import Registry

    registry = Registry(entry_points=False)
    registry.register(plugin)
    report = check_plugin(registry)
    assert not report.findings, str(report)
    # What needs processes of its own has tests of its own: tests/exact, tests/launch.
    apart = {"strategy/ddp", "strategy/fsdp", "strategy/parallel", "launcher/env"}
    assert {one.component for one in report.skipped} == apart, str(report)
