"""Weights and caches that lie side by side in memory, as those of a model of some size do: the same answers, in fewer products."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import tiny_writers as tiny
import torch

from spcore.interfaces.model import LanguageModel
from spcore.tensors import pages
from spcore_torch import kernels


@pytest.fixture(autouse=True)
def _of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "_LEAST", 0)


def opened(folder: Path, monkeypatch: pytest.MonkeyPatch, kernel: str = "default") -> tuple[LanguageModel, Any]:
    """A model, its products by one kernel of a few rows."""
    monkeypatch.setattr(kernels, "_SMALL", 0)
    known = kernels.row_candidates
    monkeypatch.setattr(kernels, "row_kernel", lambda rows: (kernel if kernel in known(rows) else "default", {}))
    model, module = tiny.opened(folder)
    kernels.install(module, None, torch.device("cpu"), steps=True)
    return model, module


@pytest.mark.parametrize("kernel", ["default", "blocks", "onednn"])
@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2", "qwen2-window", "qwen3"])
def test_joined_products_give_what_generate_gives(
    name: str, kernel: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny.saved(tmp_path / name, name)
    model, module = opened(folder, monkeypatch, kernel)
    decodes: Any = tiny.decoder(model, module)
    assert all(part.qkv.joined and part.gate_up.joined for part in decodes._parts)
    asked = tiny.requests(10, seed=6)
    assert tiny.told(model, decodes, asked, seed=7) == tiny.theirs(folder, asked)


@pytest.mark.parametrize("what", ["hook", "another kernel", "another class", "elsewhere"])
def test_what_stands_in_a_layers_place_is_called(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny.saved(tmp_path / "llama", "llama")
    model, module = opened(folder, monkeypatch, "blocks")
    called: list[int] = []

    class Own(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            called.append(1)
            return super().forward(x)

    for layer in module.model.layers:
        key = layer.self_attn.k_proj
        if what == "hook":
            key.register_forward_hook(lambda *_: called.append(1))
        elif what == "another kernel":
            own = key.forward
            key.forward = lambda x, own=own: (called.append(1), own(x))[1]
        elif what == "another class":
            layer.self_attn.k_proj = Own(key.in_features, key.out_features, bias=False)
            layer.self_attn.k_proj.weight = key.weight
        else:
            key.weight.data = key.weight.data.clone()
    decodes: Any = tiny.decoder(model, module)
    assert not any(part.qkv.joined for part in decodes._parts)
    assert all(part.gate_up.joined for part in decodes._parts)
    asked = tiny.requests(6, seed=8)
    assert tiny.told(model, decodes, asked, seed=9) == tiny.theirs(folder, asked)
    assert bool(called) == (what != "elsewhere")


@pytest.mark.parametrize("name", ["llama", "gpt2", "bart"])
def test_caches_of_all_layers_lie_together_from_the_second_pass_on(name: str, tmp_path: Path) -> None:
    folder = tiny.saved(tmp_path / name, name)
    model, module = tiny.opened(folder)
    decodes: Any = tiny.decoder(model, module)
    asked = tiny.requests(8, seed=10)
    assert tiny.told(model, decodes, asked, seed=11) == tiny.theirs(folder, asked)
    held = [tensor for layer in decodes.layers for tensor in (layer.keys, layer.values)]
    for one, following in itertools.pairwise(held):
        assert 0 <= following.data_ptr() - one.data_ptr() - one.nbytes < 64
