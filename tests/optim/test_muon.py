"""Muon against torch's own for matrices and torch's AdamW for the rest, and which parameters are which."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import spcore_optim.muon as muon
from spcore_optim.muon import orthogonal
from spcore_optim.optimizers import Muon
from spcore_optim.options import MuonOptions

SHAPES = {
    "transformer.wte.weight": (40, 16), "transformer.h.0.attn.c_attn.weight": (16, 48), "transformer.h.0.mlp.c_proj.weight": (64, 16),
    "transformer.h.1.mlp.c_proj.weight": (64, 16), "transformer.h.0.ln_1.weight": (16,), "transformer.h.0.attn.c_attn.bias": (48,),
    "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": (32, 4), "model.layers.0.embed_rows.weight": (9, 16),
    "lm_head.weight": (40, 16),
}  # fmt: skip
HIDDEN = [name for name in SHAPES if "c_attn.weight" in name or "c_proj" in name]


def made(options: MuonOptions, seed: int = 0) -> tuple[dict[str, torch.nn.Parameter], torch.optim.Optimizer]:
    """Parameters, and the optimizer over them."""
    random = torch.Generator().manual_seed(seed)
    held = {name: torch.nn.Parameter(torch.randn(shape, generator=random)) for name, shape in SHAPES.items()}
    part, keyed = Muon(options), dict[Any, list[torch.nn.Parameter]]()
    for name, parameter in held.items():
        keyed.setdefault(part.groups(name, tuple(parameter.shape)), []).append(parameter)
    return held, part.build([key.group(params, part.lr) for key, params in keyed.items()])


def steps(held: dict[str, torch.nn.Parameter], optimizers: list[torch.optim.Optimizer], first: int, last: int) -> None:
    """Steps on gradients that their number decides."""
    for step in range(first, last):
        random = torch.Generator().manual_seed(1000 + step)
        for parameter in held.values():
            parameter.grad = torch.randn(parameter.shape, generator=random)
        for optimizer in optimizers:
            optimizer.step()


def test_matrices_of_layers_are_chosen() -> None:
    part = Muon(MuonOptions())
    assert [name for name, shape in SHAPES.items() if part.groups(name, shape).rule == "muon"] == HIDDEN


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_as_torch_s_muon_and_adamw(decay: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's Muon works in bfloat16, so ours does here; 8 bits, each step's rounding in another order: 2% of what five steps moved."""
    monkeypatch.setattr(muon, "_format", lambda device: torch.bfloat16)
    ours, optimizer = made(MuonOptions(lr=0.02, weight_decay=decay, no_decay=("embed", "relative", "wte", "lm_head")))
    theirs = {name: torch.nn.Parameter(p.detach().clone()) for name, p in ours.items()}
    start = {name: p.detach().clone() for name, p in ours.items()}
    hidden, rest = ([p for n, p in theirs.items() if (n in HIDDEN) == which] for which in (True, False))
    own = torch.optim.Muon(hidden, lr=0.02, weight_decay=decay, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(rest, lr=0.02, weight_decay=0.0, betas=(0.9, 0.95))
    steps(ours, [optimizer], 0, 5)
    steps(theirs, [own, adamw], 0, 5)
    for name, found in ours.items():
        moved = (theirs[name] - start[name]).norm()
        assert (found - theirs[name]).norm() <= (2e-2 if name in HIDDEN else 1e-6) * moved, name


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 16, 5), (1, 5, 16)])
def test_singular_values_are_near_one(shape: tuple[int, ...]) -> None:
    """Five iterations of these coefficients leave what was not tiny between about 0.7 and 1.2."""
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    found = torch.linalg.svdvals(orthogonal(matrices).float())
    before = torch.linalg.svdvals(matrices)
    kept = found[before > 0.05 * before.max()]
    assert float(kept.min()) > 0.5
    assert float(kept.max()) < 1.35


def test_float32_and_bfloat16_give_nearly_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    matrices = torch.randn(2, 12, 20, generator=torch.Generator().manual_seed(2))
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        monkeypatch.setattr(muon, "_format", lambda device, dtype=dtype: dtype)
        found[dtype] = orthogonal(matrices).float()
    assert (found[torch.float32] - found[torch.bfloat16]).norm() < 0.05 * found[torch.float32].norm()


def test_a_state_goes_on() -> None:
    held, optimizer = made(MuonOptions(lr=0.01))
    steps(held, [optimizer], 0, 4)
    others, other = made(MuonOptions(lr=0.01), seed=9)
    with torch.no_grad():
        for name, parameter in others.items():
            parameter.copy_(held[name])
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    steps(held, [optimizer], 4, 8)
    steps(others, [other], 4, 8)
    assert all(torch.equal(held[name], others[name]) for name in held)
