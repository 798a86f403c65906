"""Decoders and encoder-decoders: outputs, gradients, packs, values of new tensors and saved folders against transformers' own classes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from test_transformers_packs import gradients
from test_transformers_saving import save
from tiny_models import (
    DECODERS,
    ENCODER_DECODERS,
    HEADS,
    LENGTHS,
    auto_of,
    made,
    opened,
    oracle,
    packed,
    padded,
    texts,
)  # fmt: skip

from spcore.testing.suites.model import check_model
from spcore_transformers.families import FAMILIES as KNOWN
from spcore_transformers.model import TransformersModel
from spcore_transformers.options import TransformersOptions

Folders = Callable[[str], Path]
VOCABULARY = HEADS["vocabulary"]
EVERY = (*DECODERS, *ENCODER_DECODERS)
ATTENTION = [
    (family, attention)
    for family in DECODERS
    for attention in ("auto", "sdpa", "eager")
    if (family, attention) != ("gemma2", "sdpa")
]
CUTS = {"one row": (), "two rows": (3,), "a text a row": (1, 2, 3, 4, 5)}
EVEN = (7, 7, 7, 7)


Ready = Callable[[str, str], Any]


@pytest.fixture(scope="module")
def ready(folder: Folders) -> Ready:
    """(family, attention) -> its module under a vocabulary head, made once."""
    return functools.cache(lambda family, attention: made(opened(folder(family), attention=attention), VOCABULARY))


def of_both(rows: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Inputs of an encoder-decoder, the decoder's shorter."""
    found = padded(rows)
    short = padded([row[: 1 + len(row) // 2] for row in rows])
    return {**found, **{f"decoder_{name}": x for name, x in short.items()}}


def inputs_of(family: str) -> dict[str, torch.Tensor]:
    return of_both(texts()) if family in ENCODER_DECODERS else padded(texts())


def test_every_family_that_is_known_has_its_row_here() -> None:
    rows = {kind for kind, _ in (*DECODERS.values(), *ENCODER_DECODERS.values())}
    assert rows == {name for name, family in KNOWN.items() if family.causal}


@pytest.mark.parametrize("family", EVERY)
def test_outputs_and_gradients_of_decoders_are_those_of_transformers(folder: Folders, family: str) -> None:
    module = made(opened(folder(family)), VOCABULARY)
    reference = oracle(module, auto_of(family))
    inputs = inputs_of(family)
    real = inputs.get("decoder_attention_mask", inputs["attention_mask"]).bool()
    found, expected = module(**inputs), reference(**inputs)
    assert list(found) == ["logits"]
    torch.testing.assert_close(found["logits"][real], expected.logits[real], rtol=1e-5, atol=1e-5)
    found["logits"][real].square().sum().backward()
    expected.logits[real].square().sum().backward()
    theirs = dict(reference.named_parameters())
    for name, parameter in module.named_parameters():
        grad = theirs[name].grad
        assert (grad is None) == (not parameter.requires_grad) == (family == "marian" and ".embed_positions." in name)
        if grad is None:
            continue
        torch.testing.assert_close(parameter.grad, grad, rtol=1e-4, atol=1e-5 * float(grad.abs().max()) + 1e-7)


@pytest.mark.parametrize("family", EVERY)
def test_anatomy_of_decoders_tells_where_parts_lie(folder: Folders, family: str) -> None:
    model = opened(folder(family))
    anatomy, module = model.anatomy(VOCABULARY), model.build(VOCABULARY)
    backbone = module.get_submodule(anatomy.base)
    assert anatomy.causal
    assert anatomy.packs == (family in DECODERS)
    lists = [anatomy.layers, *([anatomy.encoder_layers] if family in ENCODER_DECODERS else [])]
    assert [len(backbone.get_submodule(path or "")) for path in lists] == [2] * len(lists)
    assert isinstance(backbone.get_submodule(anatomy.embed or ""), torch.nn.Embedding)
    assert anatomy.head == ("lm_head",)
    assert anatomy.carried == (("position_bias", "encoder_decoder_position_bias") if family.startswith("t5") else ())
    every = dict(module.named_parameters(remove_duplicate=False))
    for alias, owner in anatomy.tied.items():
        assert every[alias] is every[owner]
    own = len({id(parameter) for parameter in every.values()})
    assert len(every) - len(anatomy.tied) == own


@pytest.mark.parametrize(("family", "attention"), ATTENTION)
def test_packs_of_decoders_give_what_padded_rows_give(ready: Ready, family: str, attention: str) -> None:
    module = ready(family, attention)
    with torch.no_grad():
        for lengths, cuts in [*((LENGTHS, cut) for cut in CUTS.values()), (EVEN, ()), (EVEN, (2,)), (EVEN, (1, 2, 3))]:
            rows = texts(lengths=lengths)
            inputs = packed(rows, cuts)
            expected = torch.cat([module(input_ids=row[None])["logits"][0] for row in rows])
            found = module(**inputs)["logits"][inputs["segment_ids"] > 0]
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("family", "attention"), ATTENTION)
@pytest.mark.parametrize("cuts", [(), (3,)], ids=["batch 1", "batch 2"])
@pytest.mark.parametrize("lengths", [LENGTHS, (7,) * 6], ids=["of any length", "of one length"])
def test_a_changed_text_changes_no_other(
    ready: Ready, family: str, attention: str, cuts: tuple[int, ...], lengths: tuple[int, ...]
) -> None:
    module = ready(family, attention)
    rows = texts(lengths=lengths)
    changed = [rows[0], torch.where(torch.arange(len(rows[1])) == 2, (rows[1] + 1) % 100 + 5, rows[1]), *rows[2:]]
    inputs, other = packed(rows, cuts), packed(changed, cuts)
    mine = torch.zeros_like(inputs["segment_ids"], dtype=torch.bool)
    mine[0] = inputs["segment_ids"][0] == 2
    with torch.no_grad():
        before, after = module(**inputs)["logits"], module(**other)["logits"]
    assert torch.equal(before[~mine], after[~mine])
    # Causal: what comes before the token that changed stays too.
    reach = 2 + 2 * 4 if family == "mistral" else 99  # two layers, each with a window of itself and four before
    touched = [2 <= n <= reach for n in range(len(rows[1]))]
    assert (before[mine] != after[mine]).any(-1).tolist() == touched
    # Backward too: what one text's outputs ask of the embeddings concerns its own positions only.
    hidden: list[torch.Tensor] = []
    embed = module.get_submodule(module._base).get_submodule(KNOWN[module.config.model_type].embed)
    handle = embed.register_forward_hook(lambda m, args, out: (out.retain_grad(), hidden.append(out))[0])
    module(**inputs)["logits"][mine].square().sum().backward()
    handle.remove()
    assert hidden[0].grad is not None
    grad = hidden[0].grad.view(*mine.shape, -1)
    assert float(grad[~mine].abs().max()) == 0.0
    assert float(grad[mine].abs().max(-1).values.min()) > 0.0


@pytest.mark.parametrize(("family", "attention"), ATTENTION)
def test_gradients_of_packs_of_decoders_are_those_of_texts_alone(folder: Folders, family: str, attention: str) -> None:
    module = made(opened(folder(family), attention=attention), VOCABULARY)
    # float32 alone differs by order of addition: 1e-5 at most. Doubles show a smaller leak; norms, and the softmax of eager attention,
    # are in float32 there too.
    exact = 1e-5 if module.config._attn_implementation == "eager" else 1e-6
    if exact < 1e-5:
        module.double()
    for lengths, cuts in [(LENGTHS, ()), (LENGTHS, (2, 4)), (EVEN, ()), (EVEN, (2,))]:
        rows = texts(lengths=lengths)
        inputs = packed(rows, cuts)
        scale = torch.linspace(-1, 1, VOCABULARY_SIZE)

        def total(logits: torch.Tensor, scale: torch.Tensor = scale) -> torch.Tensor:
            return (logits * logits * scale).sum()

        module.zero_grad()
        for row in rows:
            total(module(input_ids=row[None])["logits"]).backward()
        expected = {name: p.grad.clone() for name, p in module.named_parameters()}
        module.zero_grad()
        total(module(**inputs)["logits"][inputs["segment_ids"] > 0]).backward()
        for name, p in module.named_parameters():
            most = float(expected[name].abs().max())
            torch.testing.assert_close(p.grad, expected[name], rtol=0, atol=exact * most + 1e-12)


VOCABULARY_SIZE = 120


@pytest.mark.parametrize("family", ["llama", "mistral", "gpt2"])
def test_dropout_of_attention_keeps_texts_apart(folder: Folders, family: str) -> None:
    """The way that packs take under attention dropout, here with a probability that drops nothing."""
    options = {"attention_dropout": 1e-9} if family != "gpt2" else {"attn_pdrop": 1e-9}
    model = opened(folder(family), dropout=0.0)
    for name, value in options.items():
        setattr(model.config, name, value)
    module = made(model, VOCABULARY)
    for cuts in CUTS.values():
        inputs = packed(texts(), cuts)
        module.eval()
        expected = gradients(module, inputs)
        module.train()
        for name, grad in gradients(module, inputs).items():
            torch.testing.assert_close(grad, expected[name], rtol=1e-4, atol=1e-5 * float(grad.abs().max()) + 1e-7)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
def test_low_precision_products_work_on_packs_of_decoders(folder: Folders, family: str) -> None:
    module = made(opened(folder(family)), VOCABULARY)
    inputs = packed(texts(), ())
    whole = gradients(module, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = module(**inputs)["logits"].float()
    module.zero_grad()
    (narrow * torch.arange(1, 1 + narrow.numel()).view(narrow.shape) / narrow.numel()).sum().backward()
    for name, parameter in module.named_parameters():
        if float(whole[name].norm()) > 1e-3:
            assert float((parameter.grad - whole[name]).norm() / whole[name].norm()) < 0.2, name


AUTO = {
    "sequence": "AutoModelForSequenceClassification", "token": "AutoModelForTokenClassification",
    "span": "AutoModelForQuestionAnswering",
}  # fmt: skip
LACKING = {("gemma3_text", "token"), *((family, "span") for family in ("gemma", "gemma2", "gemma3_text", "phi"))}
"""Heads that transformers does not have."""


@pytest.mark.parametrize(
    ("family", "kind"), [(family, kind) for family in DECODERS for kind in AUTO if (family, kind) not in LACKING]
)
def test_other_heads_on_decoders_are_those_of_transformers(folder: Folders, family: str, kind: str) -> None:
    model = opened(folder(family))
    module = made(model, HEADS[kind])
    backbone = transformers.AutoModel.from_pretrained(folder(family)).state_dict()
    for name, parameter in module.get_submodule(module._base).named_parameters():
        assert torch.equal(parameter, backbone[name]), name
    reference = oracle(module, AUTO[kind])
    rows = texts()
    rows[1][-1] = 0  # a text that ends in the padding token: what a sequence head reads is before it
    inputs = padded(rows)
    with torch.no_grad():
        found, expected, packs = module(**inputs), reference(**inputs), module(**packed(rows, (2,)))
    wanted = [expected.start_logits, expected.end_logits] if kind == "span" else [expected.logits]
    real, within = inputs["attention_mask"].bool(), packed(rows, (2,))["segment_ids"] > 0
    for ours, theirs, together in zip(found.values(), wanted, packs.values(), strict=True):
        if kind == "sequence":
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(together, theirs, rtol=1e-5, atol=1e-5)
        else:
            torch.testing.assert_close(ours[real], theirs[real], rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(together[within], theirs[real], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", EVERY)
def test_new_decoders_have_the_familys_initialisation(folder: Folders, family: str) -> None:
    module = made(opened(folder(family), from_scratch=True), VOCABULARY, seed=1)
    torch.manual_seed(0)
    reference = getattr(transformers, auto_of(family)).from_config(module.config)
    buffers = dict(reference.named_buffers())
    for name, buffer in module.named_buffers():
        assert torch.equal(buffer, buffers[name]), name
    own = dict(module.named_parameters())
    for name, parameter in reference.named_parameters():
        assert torch.isfinite(own[name]).all()
        spread = float(parameter.detach().std(correction=0))
        if spread == 0 or ".embed_positions." in name:  # sinusoids are computed, not drawn
            assert torch.equal(own[name], parameter) or family == "bart", name
        elif parameter.numel() >= 96:
            assert float(own[name].detach().std()) == pytest.approx(spread, rel=0.25), name


@pytest.mark.parametrize("family", EVERY)
def test_transformers_opens_saved_decoders(folder: Folders, tmp_path: Path, family: str) -> None:
    model = opened(folder(family))
    module = made(model, VOCABULARY)
    target = save(model, module, VOCABULARY, tmp_path / "saved")
    again, info = getattr(transformers, auto_of(family)).from_pretrained(target, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    inputs = inputs_of(family)
    real = inputs.get("decoder_attention_mask", inputs["attention_mask"]).bool()
    with torch.no_grad():
        ours, theirs = module(**inputs)["logits"], again.eval()(**inputs).logits
        assert torch.equal(made(opened(target), VOCABULARY)(**inputs)["logits"], ours)
    torch.testing.assert_close(ours[real], theirs[real], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral"])
def test_the_conformance_suite_passes_on_decoders(folder: Folders, family: str) -> None:
    report = check_model(TransformersModel(TransformersOptions()), source=str(folder(family)))
    assert report.ok, "\n".join(map(str, report.findings))
