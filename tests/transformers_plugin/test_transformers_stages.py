"""Modules cut between layers, and modules that work on a part of the positions: every family's outputs and gradients as of the whole."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from spcore.errors import RefusalError
from spcore.interfaces.model import Head, LanguageModel
from spcore.tensors.materialise import materialise, named_parameters
from spcore.testing.fakes.heads import TwoTermsHead
from transformers_plugin import tiny_models
from transformers_plugin.tiny_models import DECODERS, HEADS, PACKING, opened, packed, padded, save_tiny, texts

CUSTOM = Head(
    "custom",
    3,
    {"logits": ("sequence", "label"), "tags": ("sequence", "position", "label")},
    build=partial(TwoTermsHead, size=3),
)
STAGED = [*PACKING, *DECODERS]
NO_DROPOUT = {"dropout": 0.0}


def tiny(folder: Path, family: str, **changes: Any) -> LanguageModel:
    return opened(save_tiny(folder, family, **changes), **NO_DROPOUT)


def inputs_of(model: LanguageModel, kind: str) -> dict[str, torch.Tensor]:
    pad = int(model.config.pad_token_id)
    rows = texts(lengths=(4, 7, 3, 6))
    if kind == "padded":
        return padded(rows, pad)
    return packed(rows, (2,), pad) if kind == "packed" else packed(texts(lengths=(5, 5, 5, 5)), (2,), pad)


def stages_of(model: LanguageModel, head: Head, cuts: list[range]) -> list[Any]:
    stages = []
    for layers in cuts:
        module = model.build(head)
        model.stage(module, head, layers)  # type: ignore[attr-defined]
        materialise(module, model, head, 0)
        stages.append(module.train())
    return stages


def through(stages: list[Any], inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    states: Any = None
    for stage in stages:
        states = stage(states, **inputs)
    return dict(states)


def same_as_whole(model: LanguageModel, head: Head, cuts: list[range], kind: str) -> None:
    tied = model.anatomy(head).tied
    whole = model.build(head)
    materialise(whole, model, head, 0)
    whole.train()
    stages, inputs = stages_of(model, head, cuts), inputs_of(model, kind)
    wanted, found = whole(**inputs), through(stages, inputs)
    # The same operations in the same order: nothing may differ.
    assert all(torch.equal(found[name], output) for name, output in wanted.items())
    for outputs in (wanted, found):
        sum(output.square().sum() for output in outputs.values()).backward()
    held: dict[str, list[torch.nn.Parameter]] = {}
    for stage in stages:
        for name, parameter in named_parameters(stage, tied).items():
            held.setdefault(name, []).append(parameter)
    parameters = named_parameters(whole, tied)
    assert held.keys() == parameters.keys()
    for name, copies in held.items():
        assert len(copies) == 1 or name in tied.values(), f"{name} is on {len(copies)} stages"
        grads = [p.grad for p in copies if p.grad is not None]
        mine = parameters[name].grad
        if mine is None:
            assert not any(g.abs().max() for g in grads), name
        else:
            torch.testing.assert_close(sum(grads), mine, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("family", STAGED)
def test_two_stages(family: str, tmp_path: Path) -> None:
    model = tiny(tmp_path, family)
    for n, (head, kind) in enumerate((("vocabulary", "padded"), ("sequence", "packed"), ("vocabulary", "even"))):
        if n == STAGED.index(family) % 3 and n < 2:
            continue
        same_as_whole(model, HEADS[head], [range(1), range(1, 2)], kind)


@pytest.mark.parametrize(
    ("family", "head"),
    [
        ("bert", "vocabulary"),
        ("llama-tied", "vocabulary"),
        ("roberta", "token"),
        ("llama", "span"),
        ("electra", "custom"),
        ("mistral", "custom"),
    ],
)
def test_stages_that_are_neither_first_nor_last(family: str, head: str, tmp_path: Path) -> None:
    model = tiny(tmp_path, family, num_hidden_layers=4)
    same_as_whole(model, {**HEADS, "custom": CUSTOM}[head], [range(1), range(1, 3), range(3, 4)], "packed")


class Parts:
    """Positions of two modules that run in two threads."""

    def __init__(self, rank: int, table: dict[int, torch.Tensor], barrier: threading.Barrier) -> None:
        self.rank, self.table, self.barrier = rank, table, barrier

    def own(self, x: torch.Tensor, axis: int) -> torch.Tensor:
        return x.chunk(2, axis)[self.rank]

    def gather(self, x: torch.Tensor, axis: int) -> torch.Tensor:
        self.table[self.rank] = x
        self.barrier.wait(60)
        whole = torch.cat([self.table[0], self.table[1]], axis)
        self.barrier.wait(60)
        return whole

    def apart(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


def sharing(model: LanguageModel, head: Head, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    table: dict[int, torch.Tensor] = {}
    barrier = threading.Barrier(2)

    def one(rank: int) -> Any:
        module = model.build(head)
        model.share(module, head, Parts(rank, table, barrier))  # type: ignore[attr-defined]
        materialise(module, model, head, 0)
        with torch.no_grad():
            return module.eval()(**inputs)

    model.build(head)  # families are imported by one thread
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(one, range(2))
    local = head.kind in ("vocabulary", "token")
    if not local:
        assert all(torch.equal(first[name], second[name]) for name in first)
    return {name: torch.cat([first[name], second[name]], 1) if local else first[name] for name in first}


@pytest.mark.parametrize("family", [family for family in STAGED if family != "gemma2"])
def test_positions_in_two_parts(family: str, tmp_path: Path) -> None:
    model = tiny(tmp_path, family)
    other = CUSTOM if STAGED.index(family) % 2 else HEADS["sequence"]
    for head, kind in ((HEADS["vocabulary"], "padded"), (other, "packed")):
        inputs = inputs_of(model, kind)
        inputs = {
            name: x[:, : x.shape[1] // 2 * 2] if kind == "packed" else _even(x, name, model)
            for name, x in inputs.items()
        }
        whole = tiny_models.made(model, head)
        with torch.no_grad():
            wanted = whole(**inputs)
        found = sharing(model, head, inputs)
        real = inputs.get("attention_mask", inputs.get("segment_ids")) > 0  # type: ignore[operator]
        for name, output in wanted.items():
            kept = real if "position" in head.outputs[name] else torch.ones(output.shape[:1], dtype=torch.bool)
            # Other attention kernels: float32 sums in another order.
            torch.testing.assert_close(found[name][kept], output[kept], rtol=1e-4, atol=2e-5, msg=f"{head.kind} {name}")


def test_an_encoder_decoder_in_two_parts(tmp_path: Path) -> None:
    model, head = tiny(tmp_path, "t5"), HEADS["vocabulary"]
    ids = torch.arange(2 * 12).view(2, 12) % 40 + 3
    inputs = {
        "input_ids": ids, "attention_mask": (torch.arange(12) < torch.tensor([[12], [7]])).long(),
        "decoder_input_ids": ids[:, 4:], "decoder_attention_mask": (torch.arange(8) < torch.tensor([[5], [8]])).long(),
    }  # fmt: skip
    whole = tiny_models.made(model, head)
    with torch.no_grad():
        wanted = whole(**inputs)["logits"]
    found, real = sharing(model, head, inputs)["logits"], inputs["decoder_attention_mask"] > 0
    torch.testing.assert_close(found[real], wanted[real], rtol=1e-4, atol=2e-5)


def _even(x: torch.Tensor, name: str, model: LanguageModel) -> torch.Tensor:
    """One more column of padding, so that two parts are equal."""
    return torch.nn.functional.pad(
        x, (0, x.shape[1] % 2), value=int(model.config.pad_token_id) if name == "input_ids" else 0
    )


@pytest.mark.parametrize(
    ("family", "stages", "positions"),
    [
        (
            "t5",
            "family 't5' has an encoder and a decoder: it is not cut into stages",
            None,
        ),
        (
            "deberta-v2",
            "family 'deberta-v2' is not cut into stages; these are: bert, ",
            "family 'deberta-v2' does not take its positions in",
        ),
        (
            "gemma2",
            None,
            "family 'gemma2' bounds its scores: attention that gathers keys and values is the automatic one",
        ),
    ],
)
def test_what_does_not_go_says_so(family: str, stages: str | None, positions: str | None, tmp_path: Path) -> None:
    model: Any = tiny(tmp_path, family)
    if stages is None:
        assert model.depth(HEADS["vocabulary"]) == 2
    else:
        with pytest.raises(RefusalError) as refusal:
            model.depth(HEADS["vocabulary"])
        assert str(refusal.value).startswith(stages)
    if positions is None:
        model.shares(HEADS["vocabulary"])
        return
    with pytest.raises(RefusalError) as refusal:
        model.shares(HEADS["vocabulary"])
    assert str(refusal.value).startswith(positions)
