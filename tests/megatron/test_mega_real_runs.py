"""A real encoder on real sentences under Megatron, beside one process."""

from __future__ import annotations

from typing import Any

import pytest

from exact.processes import measure
from exact.recipes import laid, minilm
from parity.warm import READY


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("options", [{"tensor_parallel": 2}, {"pipeline_parallel": 2}])
def test_minilm_learns_what_one_process_learns(options: dict[str, Any], two: int) -> None:
    settings = {"steps": 6, "global_batch_size": 8}
    one = measure(laid(minilm(), "single", 1, **settings))
    both = READY[two].measure(laid(minilm(), {"use": "megatron", **options}, 2, **settings))
    for mine, theirs in zip(both["steps"], one["steps"], strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=5e-5)
        assert mine["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-5)
    assert both["metrics"]["accuracy"] == pytest.approx(one["metrics"]["accuracy"], abs=5e-4)
