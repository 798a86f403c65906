"""Texts that share a row: the same outputs and gradients as in rows of their own, and nothing crosses a border."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_transformers_heads import CUSTOM
from tiny_models import HEADS, LENGTHS, PACKING, made, opened, packed, padded, texts

from spcore.tensors.dropout import keep_mask
from spcore_transformers import segments

Folders = Callable[[str], Path]
ATTENTION = ("auto", "sdpa", "eager")
CUTS = {"one row": (), "three rows": (2, 3)}


def gradients(module: Any, inputs: dict[str, torch.Tensor], head: str = "logits") -> dict[str, torch.Tensor]:
    module.zero_grad()
    out = module(**inputs)[head]
    (out * torch.arange(1, 1 + out.numel()).view(out.shape) / out.numel()).sum().backward()
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("family", PACKING)
def test_packs_give_what_padded_rows_give(folder: Folders, family: str, attention: str) -> None:
    model = opened(folder(family), attention=attention)
    assert model.anatomy(HEADS["sequence"]).packs
    rows = texts()
    for kind, head in {**HEADS, "custom": CUSTOM}.items():
        module = made(model, head)
        pad = int(module.config.pad_token_id)
        with torch.no_grad():
            alone = [module(**padded([row], pad)) for row in rows]
            for cuts in CUTS.values():
                inputs = packed(rows, cuts, pad)
                found = module(**inputs)
                real = inputs["segment_ids"] > 0
                for name, axes in head.outputs.items():
                    if kind == "custom":
                        continue
                    ours = found[name][real] if "position" in axes else found[name]
                    expected = torch.cat(
                        [one[name].flatten(0, 1) if "position" in axes else one[name] for one in alone]
                    )
                    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("family", PACKING)
def test_gradients_of_packs_are_those_of_padded_rows(folder: Folders, family: str, attention: str) -> None:
    module = made(opened(folder(family), attention=attention, dropout=0.0), HEADS["sequence"])
    # Eager attention of some families computes its softmax in float32 whatever the model's format.
    exact = 1e-5 if attention == "eager" else 1e-11
    if attention != "eager":
        module.double()
    pad, rows = int(module.config.pad_token_id), texts()
    expected = gradients(module, padded(rows, pad))
    for cuts in CUTS.values():
        found = gradients(module, packed(rows, cuts, pad))
        assert found.keys() == expected.keys()
        for name, grad in expected.items():
            torch.testing.assert_close(
                found[name], grad, rtol=100 * exact, atol=exact + exact * float(grad.abs().max())
            )


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("family", PACKING)
def test_nothing_crosses_a_border(folder: Folders, family: str, attention: str) -> None:
    module = made(opened(folder(family), attention=attention), HEADS["token"])
    rows = texts()
    changed = [rows[0], texts(seed=1)[1], *rows[2:]]
    inputs, other = packed(rows, ()), packed(changed, ())
    mine = inputs["segment_ids"][0] == 2
    with torch.no_grad():
        before, after = module(**inputs)["tags"][0], module(**other)["tags"][0]
    assert torch.equal(before[~mine], after[~mine])
    assert not torch.equal(before[mine], after[mine])
    # Backward too: what one text's output asks of the embeddings concerns its own positions only.
    hidden: list[torch.Tensor] = []
    embed = module.get_submodule(module._base).embeddings
    handle = embed.register_forward_hook(lambda m, args, out: (out.retain_grad(), hidden.append(out))[0])
    module(**inputs)["tags"][0][mine].sum().backward()
    handle.remove()
    grad = hidden[0].grad
    assert grad is not None
    assert float(grad[0][~mine].abs().max()) == 0.0
    assert float(grad[0][mine].abs().max()) > 0.0


def test_the_custom_head_is_told_where_segments_begin(folder: Folders) -> None:
    module = made(opened(folder("bert")), CUSTOM)
    rows = texts()
    seen: list[Any] = []
    module.head.register_forward_pre_hook(lambda m, args: seen.append(args[1:]))
    with torch.no_grad():
        module(**packed(rows, (2, 3)))
        module(**padded(rows))
    mask, starts = seen[0]
    assert mask.dtype == torch.bool
    assert mask.sum() == sum(LENGTHS)
    assert starts.tolist() == [[0, 0], [0, 9], [1, 0], [2, 0], [2, 14], [2, 15]]
    assert seen[1][1] is None


def test_positions_of_roberta_begin_after_padding(folder: Folders) -> None:
    module = made(opened(folder("roberta")), HEADS["token"])
    seen: list[torch.Tensor] = []
    module.roberta.embeddings.position_embeddings.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    with torch.no_grad():
        module(**packed(texts(lengths=(3, 2)), ()))
    assert seen[0].tolist() == [[2, 3, 4, 2, 3]]


def test_layers_share_one_layout(folder: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[Any] = []
    real = segments.Layout

    def counting(ids: torch.Tensor) -> Any:
        built.append(real(ids))
        return built[-1]

    monkeypatch.setattr(segments, "Layout", counting)
    module = made(opened(folder("modernbert")), HEADS["sequence"])
    with torch.no_grad():
        module(**packed(texts(), ()))
    assert len(built) == 1
    # One mask for layers that see all, one for those with a window: never [L, L] over the long row.
    masks = [m for m in built[0]._masks.values() if m is not None]
    assert {m.shape[-1] for m in masks} == {max(LENGTHS)}


@pytest.mark.parametrize("groups", [4, 2, 1])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("cuts", CUTS.values(), ids=CUTS)
def test_by_segments_is_sdpa_under_a_dense_mask(
    window: int | None, cuts: tuple[int, ...], causal: bool, groups: int
) -> None:
    ids = packed(texts(), cuts)["segment_ids"]
    layout, reach = segments.Layout(ids), segments.Reach(causal, window)
    ago = torch.arange(ids.shape[1])[:, None] - torch.arange(ids.shape[1])
    mask = ids[:, :, None] == ids[:, None, :]
    if window:
        mask &= ago.abs() < window
    if causal:
        mask &= ago >= 0
    torch.manual_seed(0)
    q, k, v = (
        torch.randn(len(ids), heads, ids.shape[1], 8, dtype=torch.double, requires_grad=True)
        for heads in (4, groups, groups)
    )
    grad = torch.randn(len(ids), ids.shape[1], 32, dtype=torch.double) * (ids > 0)[..., None]
    expected = (
        torch.nn.functional.scaled_dot_product_attention(
            q, *(x.repeat_interleave(4 // groups, 1) for x in (k, v)), attn_mask=mask[:, None], scale=0.3
        )
        .transpose(1, 2)
        .flatten(2)
    )
    wanted = torch.autograd.grad((expected * grad).sum(), (q, k, v))
    flat = [x.transpose(1, 2).flatten(0, 1).flatten(1) for x in (q, k, v)]
    ways = [
        segments._Attention.apply(*flat, layout, 4, groups, 0.3, reach, 0.0),
        segments.by_sdpa(flat, layout, 4, groups, 0.3, reach, 0.0),
        segments.by_runs(flat, layout, 4, groups, 0.3, reach),
    ]
    for out in ways:
        out = out.view(*ids.shape, 32)
        assert not out[ids == 0].any()
        torch.testing.assert_close(out[ids > 0], expected[ids > 0], rtol=1e-10, atol=1e-12)
        found = torch.autograd.grad((out * grad).sum(), (q, k, v), retain_graph=True)
        for ours, theirs in zip(found, wanted, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_rows_are_as_long_as_the_longest_text() -> None:
    layout = segments.Layout(packed(texts(), ())["segment_ids"])
    assert (layout.rows, layout.width, layout.count) == (4, 21, 6)  # 21, 21, 14 + 3 + 1, 9
    assert layout.segments.tolist() == [[0, 0], [0, 9], [0, 30], [0, 33], [0, 47], [0, 48]]
    full = segments.Layout(torch.tensor([[1, 1, 2, 2]]))
    assert full.allowed(segments.Reach()) is None
    assert full.additive(segments.Reach(), 2, torch.float32) is None
    assert full.allowed(segments.Reach(causal=True)).tolist() == 2 * [[[True, False], [True, True]]]
    assert full.even


def test_runs_are_neighbours_of_one_length_and_hold_every_token() -> None:
    ids = torch.tensor([[1, 1, 2, 2, 3, 0], [1, 2, 2, 2, 0, 0], [0, 0, 0, 0, 0, 0]])
    assert segments.Layout(ids).runs == ((2, 2), (1, 1), (0, 1), (1, 1), (1, 3), (0, 2), (0, 6))
    assert segments.Layout(torch.tensor([[1, 1], [1, 1]])).runs == ((2, 2),)
    assert not segments.Layout(ids).even


def test_two_rows_with_the_same_numbers_are_two_texts() -> None:
    layout = segments.Layout(torch.tensor([[1, 1, 1], [1, 1, 2]]))
    assert layout.segments.tolist() == [[0, 0], [1, 0], [1, 2]]
    assert layout.owner.tolist() == [0, 0, 0, 1, 1, 2]


def test_dropout_draws_from_the_generator_of_torch_and_its_share_is_right() -> None:
    torch.manual_seed(7)
    first = keep_mask(torch.Size([200, 501]), 0.1, torch.float32)
    torch.manual_seed(7)
    assert torch.equal(first, keep_mask(torch.Size([200, 501]), 0.1, torch.float32))
    assert not torch.equal(first, keep_mask(torch.Size([200, 501]), 0.1, torch.float32))
    assert first.unique().tolist() == [0.0, pytest.approx(1 / 0.9)]
    assert float((first == 0).float().mean()) == pytest.approx(0.1, abs=0.004)


def test_attention_dropout_has_gradients_that_fit_its_outputs() -> None:
    layout = segments.Layout(torch.tensor([[1, 1, 1, 2, 2]]))
    torch.manual_seed(0)
    flat = [torch.randn(5, 8, dtype=torch.double, requires_grad=True) for _ in range(3)]

    def run(*x: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(3)
        result: torch.Tensor = segments._Attention.apply(*x, layout, 2, 2, 0.5, segments.Reach(), 0.4)
        return result

    assert not torch.equal(run(*flat), segments._Attention.apply(*flat, layout, 2, 2, 0.5, segments.Reach(), 0.0))
    assert torch.autograd.gradcheck(run, flat)


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_low_precision_products_work_on_packs(folder: Folders, family: str) -> None:
    module = made(opened(folder(family)), HEADS["sequence"])
    inputs = packed(texts(), ())
    whole = gradients(module, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        module.zero_grad()
        out = module(**inputs)["logits"].float()
        (out * torch.arange(1, 1 + out.numel()).view(out.shape) / out.numel()).sum().backward()
    for name, parameter in module.named_parameters():
        if parameter.grad is not None and float(whole[name].norm()) > 1e-3:
            assert float((parameter.grad - whole[name]).norm() / whole[name].norm()) < 0.2, name


def test_two_threads_pack_at_once(folder: Folders) -> None:
    results: dict[str, list[torch.Tensor]] = {"bert": [], "roberta": []}
    modules = {family: made(opened(folder(family)), HEADS["sequence"]) for family in results}
    inputs = {"bert": packed(texts(), ()), "roberta": packed(texts(seed=5), (2,))}

    def work(family: str) -> None:
        for _ in range(10):
            with torch.no_grad():
                results[family].append(modules[family](**inputs[family])["logits"])

    threads = [threading.Thread(target=work, args=(family,)) for family in results]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for family, found in results.items():
        with torch.no_grad():
            expected = modules[family](**inputs[family])["logits"]
        assert len(found) == 10
        assert all(torch.equal(one, expected) for one in found)


def test_deberta_does_not_take_packs(folder: Folders) -> None:
    model = opened(folder("deberta-v2"))
    assert not model.anatomy(HEADS["sequence"]).packs
    with pytest.raises(AssertionError, match="refuses such packs"):
        made(model, HEADS["sequence"])(**packed(texts(), ()))
