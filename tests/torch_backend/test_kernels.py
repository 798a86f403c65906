from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from spcore_torch import facts, kernels

CPU = torch.device("cpu")


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(48, 96), nn.GELU(), nn.Linear(96, 32, bias=False), nn.LayerNorm(32), nn.Linear(32, 8)
    )


def run(module: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    x = x.clone().requires_grad_()
    y = module(x)
    y.square().sum().backward()
    return y.detach(), [x.grad, *(p.grad for p in module.parameters())]  # type: ignore[list-item]


def off(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize("name", sorted(kernels.candidates()))
def test_kernels_are_fp32_grade_forward_and_backward(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "fp32_kernel", lambda: (name, {}))
    x = torch.randn(3, 17, 48, generator=torch.Generator().manual_seed(1))
    y, grads = run(net().double(), x.double())
    module = net()
    assert kernels.install(module, None, CPU) == name
    found, own = run(module, x)
    assert off(found, y) < 2e-6
    assert all(off(g, e) < 5e-6 for g, e in zip(own, grads, strict=True))
    assert found.shape == y.shape


@pytest.mark.parametrize("name", sorted({*kernels.row_candidates(1), *kernels.row_candidates(8)}))
@pytest.mark.parametrize("shape", [(1, 48), (1, 1, 48), (2, 48), (9, 48), (40, 48)])
def test_kernels_of_a_few_rows_are_fp32_grade(
    name: str, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "fp32_kernel", lambda: ("default", {}))
    monkeypatch.setattr(kernels, "_SMALL", 0)
    known = kernels.row_candidates
    monkeypatch.setattr(kernels, "row_kernel", lambda rows: (name if name in known(rows) else "default", {}))
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(1))
    module = net()
    kernels.install(module, None, CPU, steps=True)
    with torch.no_grad():
        assert off(module(x), net().double()(x.double())) < 2e-6
        assert module(x).shape == (*shape[:-1], 8)
    assert len(kernels.installed(module)) == (0 if name == "default" else 3)


def test_each_number_of_rows_has_the_kernel_chosen_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[str, int]] = []

    def product(name: str) -> kernels.Product:
        return lambda x, weight, bias: called.append((name, len(x))) or kernels._default(x, weight, bias)  # type: ignore[func-returns-value]

    monkeypatch.setattr(kernels, "fp32_kernel", lambda: ("many", {}))
    monkeypatch.setattr(kernels, "candidates", lambda: {"default": kernels._default, "many": product("many")})
    monkeypatch.setattr(kernels, "row_kernel", lambda rows: (f"from {rows}", {}))
    monkeypatch.setattr(kernels, "row_candidates", lambda rows: {f"from {rows}": product(f"from {rows}")})
    module = nn.Linear(4, 4)
    kernels.install(module, None, CPU, steps=True)
    with torch.no_grad():
        for rows in (1, 2, 3, 4, 7, 15, 16, 23, 24):
            module(torch.randn(rows, 4))
    chosen = [(1, 1), (2, 2), (2, 3), (4, 4), (4, 7), (8, 15), (16, 16), (16, 23)]
    assert called == [*((f"from {size}", rows) for size, rows in chosen), ("many", 24)]


@pytest.mark.parametrize("rows", kernels.FEW)
def test_the_kernel_of_a_few_rows_is_measured_once_and_verified(rows: int) -> None:
    name, figures = kernels.row_kernel(rows)
    assert kernels.row_kernel(rows) == (name, figures)
    assert figures.keys() == kernels.row_candidates(rows).keys()
    assert figures[name][0] <= kernels.FP32_GRADE
    assert figures[name][1] <= figures["default"][1]


def test_the_choice_is_measured_once_and_verified() -> None:
    name, figures = kernels.fp32_kernel()
    assert kernels.fp32_kernel() == (name, figures)
    assert name in figures
    assert figures[name][0] <= kernels.FP32_GRADE
    assert figures[name][1] <= figures["default"][1]
    assert name in facts.facts()["fp32 matrix products"]


@pytest.fixture
def new_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of caches of a machine on which nothing was measured."""
    monkeypatch.setenv("SLIMPAJAMA_CACHE", str(tmp_path))
    kernels._remembered.cache_clear()
    yield tmp_path
    kernels._remembered.cache_clear()


@pytest.mark.usefixtures("new_machine")
def test_a_kernel_that_is_not_fp32_grade_is_never_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    def quick(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return torch.zeros(x.shape[0], weight.shape[0])

    monkeypatch.setattr(kernels, "candidates", lambda: {"default": kernels._default, "quick": quick})
    name, figures = kernels.fp32_kernel()
    assert name == "default"
    assert figures["quick"][0] > 0.5


def test_the_choice_is_remembered_on_disk_and_a_damaged_memory_is_none(new_machine: Path) -> None:
    name, figures = kernels.fp32_kernel()
    (file,) = new_machine.iterdir()
    kernels._remembered.cache_clear()
    assert kernels.fp32_kernel() == (name, figures), "read, not measured: the same times"
    for content in ("{", '{"best": "gone"}', '{"best": "default"}'):
        file.write_text(content)
        kernels._remembered.cache_clear()
        assert kernels.fp32_kernel()[1].keys() == figures.keys()


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("compute", [torch.bfloat16, torch.float16])
def test_16_bit_products_are_autocast_s_own(
    compute: torch.dtype, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "has_units", lambda dtype: native)
    x = torch.randn(3, 17, 48, generator=torch.Generator().manual_seed(1))
    module, plain = net(), net()
    assert kernels.install(module, compute, CPU) == ("default" if native else "emulated")
    with torch.autocast("cpu", compute):
        found, own = run(module, x)
        expected, grads = run(plain, x)
    assert off(found, expected.double()) < 5e-3
    assert all(off(g, e.double()) < 1e-2 for g, e in zip(own, grads, strict=True))
    assert {g.dtype for g in own} == {torch.float32}


def test_frozen_layers_and_no_gradients() -> None:
    module = net()
    kernels.install(module, torch.bfloat16, CPU)
    module[0].requires_grad_(False)
    module(torch.ones(2, 48)).sum().backward()
    assert module[0].weight.grad is None
    assert module[2].weight.grad is not None
    with torch.inference_mode():
        assert module(torch.ones(48)).shape == (8,)


def test_names_and_modules_stay_and_come_back() -> None:
    module = net()
    names = list(module.state_dict())
    kernels.install(module, torch.bfloat16, CPU)
    assert list(module.state_dict()) == names
    assert type(module[0]) is nn.Linear
    kernels.uninstall(module)
    assert all("forward" not in layer.__dict__ for layer in module)


@pytest.mark.parametrize("compute", [None, torch.bfloat16])
def test_other_devices_keep_torch_s_own(compute: torch.dtype | None) -> None:
    module = net()
    assert kernels.install(module, compute, torch.device("cuda")) == "default"
    assert all("forward" not in layer.__dict__ for layer in module)
