"""What pipelines and shared positions refuse, before anything starts."""

from __future__ import annotations

from typing import Any

import pytest

from spcore.errors import RefusalError
from spcore.interfaces.model import Head, LanguageModel
from spcore.interfaces.strategy import BatchRule, Layout
from spcore.testing.fakes.language import FakeConfig, FakeLanguageModel
from spcore_torch.options import ParallelOptions
from spcore_torch.parallel import Parallel
from spcore_torch.stages import spans
from tensors.tensor_fakes import Weighted, plan_of


class Uncut(FakeLanguageModel):
    """A family that has the abilities and refuses."""

    def depth(self, head: Head) -> int:
        raise RefusalError("family 'fake' has an encoder and a decoder: it is not cut into stages")

    def shares(self, head: Head) -> None:
        raise RefusalError("family 'fake' takes whole texts")


def without_abilities() -> Any:
    """A model as its contract says, and no more."""
    whole = FakeLanguageModel()

    class Plain(LanguageModel):
        config, family, processor, source = whole.config, "plain", whole.processor, ""
        anatomy, build, initialise = whole.anatomy, whole.build, whole.initialise
        weights, save_config = whole.weights, whole.save_config

    return Plain()


def refused(options: dict[str, Any], model: Any = None, **changes: Any) -> list[str]:
    strategy = Parallel(ParallelOptions(**options))
    sizes = [options.get(f"{axis}_parallel", 1) for axis in ("pipeline", "context")]
    layout = strategy.layout(sizes[0] * sizes[1])
    plan = plan_of(
        Weighted(), model=model or FakeLanguageModel(FakeConfig(num_hidden_layers=4)), layout=layout, **changes
    )
    return [str(refusal) for refusal in strategy.check(plan)]


def test_it_honours_the_usual() -> None:
    assert refused({"pipeline_parallel": 4}) == []
    assert refused({"pipeline_parallel": 2, "schedule": "interleaved", "chunks": 2}) == []
    assert refused({"context_parallel": 2, "pipeline_parallel": 2}, pack=64) == []


@pytest.mark.parametrize(
    ("options", "model", "line"),
    [
        (
            {"pipeline_parallel": 5},
            None,
            "strategy.pipeline_parallel 5: that many processes, and the model has 4 layers; make it 4 or less",
        ),
        (
            {"pipeline_parallel": 3, "schedule": "interleaved", "chunks": 2},
            None,
            "strategy.pipeline_parallel 3: that many processes of 2 stages each, and the model has 4 layers; make it 2 or less",
        ),
        (
            {"pipeline_parallel": 2, "schedule": "interleaved"},
            None,
            "strategy.schedule interleaved: each of several processes has several stages under it; make strategy.chunks 2 or more",
        ),
        (
            {"schedule": "interleaved", "chunks": 2},
            None,
            "strategy.schedule interleaved: each of several processes has several stages under it; set strategy.pipeline_parallel, or leave it out",
        ),
        (
            {"pipeline_parallel": 2, "chunks": 2},
            None,
            "strategy.chunks 2: under schedule '1f1b' a process has one stage; use strategy.schedule=interleaved",
        ),
        (
            {"pipeline_parallel": 2},
            Uncut(),
            "strategy.pipeline_parallel 2: family 'fake' has an encoder and a decoder: it is not cut into stages; use strategy=ddp or fsdp",
        ),
        (
            {"pipeline_parallel": 2},
            without_abilities(),
            "strategy.pipeline_parallel 2: model family 'plain' cannot be cut into stages: its plugin has not the ability; use strategy=ddp or fsdp",
        ),
        (
            {"context_parallel": 2},
            without_abilities(),
            "strategy.context_parallel 2: model family 'plain' takes whole texts: its plugin has not the ability; leave it out",
        ),
        (
            {"context_parallel": 2},
            Uncut(),
            "strategy.context_parallel 2: family 'fake' takes whole texts; leave it out",
        ),
        (
            {"pipeline_parallel": 2, "flatten": "always"},
            None,
            "strategy.flatten always: microbatches are fed as they are under strategy.pipeline_parallel 2; use strategy.flatten=auto",
        ),
    ],
)
def test_it_refuses(options: dict[str, Any], model: Any, line: str) -> None:
    assert refused(options, model) == [line]


def test_positions_that_rounding_would_exceed() -> None:
    """64 positions by three are 63."""
    line = "strategy.context_parallel 3: lengths are rounded up to a multiple of it, 64 to more than the model's 64 positions; make data.max_length 63 or less"
    assert refused({"context_parallel": 3}, max_length=64) == [line]
    assert refused({"context_parallel": 3}, max_length=63) == []


def test_microbatches_are_asked_for_as_the_axes_need_them() -> None:
    plan = plan_of(
        Weighted(), model=FakeLanguageModel(), layout=Layout({"data": 1, "pipeline": 2, "context": 4, "tensor": 1})
    )
    rule = Parallel(ParallelOptions(pipeline_parallel=2, context_parallel=4)).batch_rule(plan)
    assert rule == BatchRule("step", length_multiple=4, count_multiple=2)
    assert Parallel(ParallelOptions()).batch_rule(plan) == BatchRule()


def test_layers_are_dealt_evenly_the_rest_to_the_first() -> None:
    assert spans(7, 3) == [range(3), range(3, 5), range(5, 7)]
    assert spans(4, 4) == [range(1), range(1, 2), range(2, 3), range(3, 4)]
