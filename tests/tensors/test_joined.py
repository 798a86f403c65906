"""Linear layers as one: the numbers are theirs, in their memory; where it cannot be, nothing is made."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest
import torch
from torch import nn

from spcore.tensors import pages
from spcore.tensors.joined import joined


@pytest.fixture(autouse=True)
def _of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "_LEAST", 0)


def linears(*outputs: int, bias: bool = True, dtype: torch.dtype = torch.float32) -> list[nn.Linear]:
    """Such that lie side by side."""
    made = [nn.Linear(16, n, bias, dtype=dtype) for n in outputs]
    generator = torch.Generator().manual_seed(1)
    tensors = [p for linear in made for p in linear.parameters()]
    pages.lay_out(tensors)
    with torch.no_grad():
        for tensor in tensors:
            tensor.copy_(torch.rand(tensor.shape, generator=generator) - 0.5)
    return made


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_layer_gives_what_all_give(bias: bool, dtype: torch.dtype) -> None:
    parts = linears(32, 64, 96, bias=bias, dtype=dtype)
    one = joined(parts)
    assert one is not None
    x = torch.rand(5, 16, dtype=dtype)
    torch.testing.assert_close(one(x), torch.cat([part(x) for part in parts], -1))
    assert one.weight.data_ptr() == parts[0].weight.data_ptr()
    with torch.no_grad():
        parts[1].weight.zero_()
    assert (one.weight[32:96] == 0).all()
    assert (one.weight[96:] != 0).any()


def test_memory_lives_as_long_as_the_one() -> None:
    parts = linears(32, 64)
    expected = torch.cat([part.weight.detach() for part in parts])
    one = joined(parts)
    assert one is not None
    del parts
    gc.collect()
    assert torch.equal(one.weight, expected)


class Counted:
    """A `forward` that can be had for another layer."""

    def __init__(self, linear: nn.Linear, times: list[int]) -> None:
        self.linear, self.times = linear, times

    def over(self, linear: nn.Linear) -> Callable[..., torch.Tensor]:
        return Counted(linear, self.times)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.times.append(len(x))
        return nn.functional.linear(x, self.linear.weight, self.linear.bias)


def test_it_is_multiplied_as_they_are() -> None:
    parts, times = linears(32, 64), []
    expected = torch.cat([part(torch.ones(3, 16)) for part in parts], -1)
    for part in parts:
        part.forward = Counted(part, times)  # type: ignore[method-assign]
    one = joined(parts)
    assert one is not None
    torch.testing.assert_close(one(torch.ones(3, 16)), expected)
    assert times == [3]


def apart() -> list[nn.Linear]:
    return [nn.Linear(16, 32), nn.Linear(16, 32)]


def spoiled(change: Callable[[list[nn.Linear]], object]) -> Callable[[], list[nn.Linear]]:
    def made() -> list[nn.Linear]:
        parts = linears(32, 64)
        assert joined(parts) is not None
        change(parts)
        return parts

    return made


CHANGES: dict[str, Callable[[], list[nn.Linear]]] = {
    "apart": apart,
    "a gap": lambda: linears(30, 9),  # 36 bytes of bias, and the next begins at 64
    "in another order": lambda: linears(32, 64)[::-1],
    "one bias less": spoiled(lambda parts: setattr(parts[1], "bias", None)),
    "a hook": spoiled(lambda parts: parts[0].register_forward_hook(lambda *_: None)),
    "a hook before": spoiled(lambda parts: parts[1].register_forward_pre_hook(lambda *_: None)),
    "one of another kernel": spoiled(lambda parts: setattr(parts[1], "forward", Counted(parts[1], []))),
    "a forward that none can be had of": spoiled(lambda parts: [setattr(p, "forward", lambda x: x) for p in parts]),
    "another class": spoiled(lambda parts: setattr(parts[0], "__class__", type("Own", (nn.Linear,), {}))),
}


@pytest.mark.parametrize("what", CHANGES)
def test_where_it_cannot_be_nothing_is_made(what: str) -> None:
    assert joined(CHANGES[what]()) is None


def test_other_formats_and_shapes_are_no_neighbours() -> None:
    memory = torch.zeros(64)
    assert pages.adjoining([memory[:16], memory[16:48]]) is not None
    assert pages.adjoining([memory[:16], memory[16:48].to(torch.float64)]) is None
    assert pages.adjoining([memory[:16].view(4, 4), memory[16:32].view(2, 8)]) is None
    assert pages.adjoining([memory[:32:2], memory[32:]]) is None
    assert pages.adjoining([memory[:0], memory[:0]]) is None
    assert pages.adjoining([memory.to("meta")[:16], memory.to("meta")[16:]]) is None
