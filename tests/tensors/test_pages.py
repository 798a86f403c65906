"""Weights side by side in large pages: what each tensor is does not change, and where it cannot be had nothing does."""

from __future__ import annotations

import itertools
import mmap
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from spcore.tensors import pages


def made() -> dict[str, torch.Tensor]:
    """More than is worth while, in several formats; one is transposed by its maker, one is empty, one a number."""
    return {
        "wide": torch.empty(3, 1_000_003),
        "half": torch.empty(5, 7, dtype=torch.bfloat16),
        "turned": torch.empty(1000, 70).t(),
        "whole": torch.empty(11, dtype=torch.int64),
        "none": torch.empty(0, 4),
        "one": torch.empty(()),
    }


def filled(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    for tensor in tensors.values():
        tensor.copy_(torch.rand(tensor.shape, generator=generator) * 100)
    return tensors


def test_tensors_lie_side_by_side_and_stay_what_they_are(tmp_path: Path) -> None:
    expected, tensors = filled(made()), made()
    pages.lay_out(tensors.values())
    filled(tensors)
    places = sorted((t.data_ptr(), t.untyped_storage().nbytes()) for t in tensors.values() if t.numel())
    for (begin, size), (following, _) in itertools.pairwise(places):
        assert 0 <= following - begin - size < 64
        assert following % 64 == 0
    for name, tensor in tensors.items():
        assert tensor.dtype == expected[name].dtype
        assert tensor.is_contiguous()
        assert torch.equal(tensor, expected[name])
        if tensor.numel():
            assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    save_file(tensors, tmp_path / "saved.safetensors")  # refuses tensors that share memory
    assert torch.equal(load_file(tmp_path / "saved.safetensors")["turned"], expected["turned"])


@pytest.mark.parametrize("lacking", ["room", "large pages", "Linux"])
def test_without_it_tensors_stay_where_they_are(monkeypatch: pytest.MonkeyPatch, lacking: str) -> None:
    class Refusing(mmap.mmap):
        def madvise(self, *_: int) -> None:
            raise OSError(22, "Invalid argument")

    def full(*_: object, **__: object) -> mmap.mmap:
        raise OSError(12, "Cannot allocate memory")

    if lacking == "Linux":
        monkeypatch.delattr(mmap, "MADV_HUGEPAGE")
    else:
        monkeypatch.setattr(mmap, "mmap", full if lacking == "room" else Refusing)
    tensors = made()
    before = {name: (t.data_ptr(), t.stride()) for name, t in tensors.items()}
    pages.lay_out(tensors.values())
    assert {name: (t.data_ptr(), t.stride()) for name, t in tensors.items()} == before


def test_little_is_left_alone() -> None:
    small = torch.empty(1000)
    before = small.data_ptr()
    pages.lay_out([small])
    assert small.data_ptr() == before


def test_memory_is_given_back() -> None:
    """With the last of the tensors, not before."""
    tensors = [torch.empty(4_000_000), torch.empty(100)]
    pages.lay_out(tensors)
    begin = tensors[0].data_ptr()
    assert mapped(begin)
    tensors[1].fill_(7)
    del tensors[0]
    assert mapped(begin)
    assert tensors[0].sum() == 700
    del tensors[0]
    assert not mapped(begin)


def mapped(address: int) -> bool:
    """Whether this process has something there, by what Linux says."""
    spans = (line.split()[0].split("-") for line in Path("/proc/self/maps").read_text().splitlines())
    return any(int(low, 16) <= address < int(high, 16) for low, high in spans)
