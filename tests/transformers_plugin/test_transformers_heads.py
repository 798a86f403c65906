"""Every verified family and head against transformers' own classes, on padded rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tiny_models import FAMILIES, HEADS, made, opened, oracle, padded, save_tiny, texts, tokenizer

from spcore.errors import RefusalError
from spcore.interfaces.model import Head
from spcore.testing.suites.model import check_model
from spcore_transformers.model import TransformersModel
from spcore_transformers.options import TransformersOptions

AUTO = {
    "sequence": "AutoModelForSequenceClassification", "token": "AutoModelForTokenClassification",
    "span": "AutoModelForQuestionAnswering", "vocabulary": "AutoModelForMaskedLM",
}  # fmt: skip
Folders = Callable[[str], Path]


def pad_of(module: Any) -> int:
    return int(module.config.pad_token_id)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", HEADS)
def test_outputs_are_those_of_transformers(folder: Folders, family: str, kind: str) -> None:
    model = opened(folder(family))
    module = made(model, HEADS[kind])
    reference = oracle(module, AUTO[kind])
    inputs = padded(texts(), pad_of(module))
    real = inputs["attention_mask"].bool()
    with torch.no_grad():
        found, expected = module(**inputs), reference(**inputs)
    assert list(found) == list(HEADS[kind].outputs)
    wanted = [expected.start_logits, expected.end_logits] if kind == "span" else [expected.logits]
    for ours, theirs in zip(found.values(), wanted, strict=True):
        if kind == "sequence":
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
        else:
            torch.testing.assert_close(ours[real], theirs[real], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_those_of_transformers(folder: Folders, family: str) -> None:
    module = made(opened(folder(family)), HEADS["sequence"])
    reference = oracle(module, AUTO["sequence"])
    inputs = padded(texts(), pad_of(module))
    module(**inputs)["logits"].square().sum().backward()
    reference(**inputs).logits.square().sum().backward()
    theirs = dict(reference.named_parameters())
    for name, parameter in module.named_parameters():
        grad = theirs[name].grad
        assert (parameter.grad is None) == (grad is None), name
        if grad is not None:
            torch.testing.assert_close(parameter.grad, grad, rtol=1e-4, atol=1e-5 * float(grad.abs().max()) + 1e-7)


@pytest.mark.parametrize("family", FAMILIES)
def test_anatomy_tells_where_parts_lie(folder: Folders, family: str) -> None:
    model = opened(folder(family))
    for kind, head in HEADS.items():
        anatomy, module = model.anatomy(head), model.build(head)
        backbone = module.get_submodule(anatomy.base)
        layers = backbone.get_submodule(anatomy.layers or "")
        assert isinstance(layers, torch.nn.ModuleList)
        assert len(layers) == 2
        assert anatomy.embed
        backbone.get_submodule(anatomy.embed)
        every = {name for name, _ in module.named_parameters()}
        below = (f"{anatomy.base}.", *(f"{path}." for path in anatomy.head))
        roots = {name for name in every if not name.startswith(below)}
        assert not {name for name in roots if "." in name}, kind
        for alias, owner in anatomy.tied.items():
            assert dict(module.named_parameters(remove_duplicate=False))[alias] is module.get_parameter(owner)
        assert bool(anatomy.tied) == (kind == "vocabulary")


class Custom(torch.nn.Module):
    """Logits of the mean over each text, or over each segment of a pack."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.out = torch.nn.Linear(getattr(config, "hidden_size", 0) or config.dim, 3)

    def forward(
        self, hidden: torch.Tensor, mask: torch.Tensor, segments: torch.Tensor | None
    ) -> dict[str, torch.Tensor]:
        assert mask.dtype == torch.bool
        if segments is None:
            kept = mask[..., None].float()
            return {"scores": self.out((hidden * kept).sum(1) / kept.sum(1))}
        return {"scores": self.out(hidden[segments[:, 0], segments[:, 1]])}


CUSTOM = Head("custom", 3, {"scores": ("sequence", "label")}, build=Custom)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_custom_head_reads_the_backbone_of_transformers(folder: Folders, family: str) -> None:
    module = made(opened(folder(family)), CUSTOM)
    assert {name.split(".")[0] for name, _ in module.named_parameters()} == {module._base, "head"}
    assert not any(".pooler." in name for name, _ in module.named_parameters())
    reference = transformers.AutoModel.from_pretrained(folder(family)).eval()
    inputs = padded(texts(), pad_of(module))
    with torch.no_grad():
        hidden = reference(**inputs).last_hidden_state
        expected = module.head(hidden, inputs["attention_mask"].bool(), None)["scores"]
        torch.testing.assert_close(module(**inputs)["scores"], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", ["bert", "deberta-v2", "modernbert"])
def test_the_conformance_suite_passes(folder: Folders, family: str) -> None:
    report = check_model(TransformersModel(TransformersOptions()), source=str(folder(family)))
    assert report.ok, "\n".join(map(str, report.findings))


def test_a_head_of_another_class_takes_a_replaced_module(folder: Folders) -> None:
    module = made(opened(folder("bert")), HEADS["sequence"])
    inputs = padded(texts())
    module.classifier = torch.nn.Linear(32, 7)
    assert module(**inputs)["logits"].shape == (6, 7)


def test_training_mode_reaches_every_part(folder: Folders) -> None:
    module = made(opened(folder("bert"), dropout=0.5), HEADS["sequence"])
    inputs = padded(texts())
    module.train()
    assert not torch.equal(module(**inputs)["logits"], module(**inputs)["logits"])
    module.eval()
    assert torch.equal(module(**inputs)["logits"], module(**inputs)["logits"])


def test_a_family_without_the_head_is_refused_by_name(tmp_path: Path) -> None:
    model = opened(save_tiny(tmp_path / "m", "bert"))
    model.config = transformers.AutoConfig.for_model("vit")
    with pytest.raises(RefusalError, match=r"has no head of kind 'token'"):
        model.build(HEADS["token"])


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_buffers_keep_their_format_when_parameters_are_narrow(folder: Folders, device: str) -> None:
    module = opened(folder("modernbert")).build(HEADS["sequence"], "bfloat16", device)
    assert {p.dtype for p in module.parameters()} == {torch.bfloat16}
    assert {b.dtype for n, b in module.named_buffers() if "inv_freq" in n} == {torch.float32}
    assert torch.get_default_dtype() == torch.float32


def test_an_unknown_family_is_run_as_it_is(tmp_path: Path) -> None:
    config = transformers.AutoConfig.for_model(
        "opt", vocab_size=120, hidden_size=32, word_embed_proj_dim=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, pad_token_id=0, bos_token_id=2, eos_token_id=3,
    )  # fmt: skip
    torch.manual_seed(0)
    reference = transformers.AutoModelForCausalLM.from_config(config).eval()
    reference.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    model = opened(tmp_path)
    anatomy = model.anatomy(HEADS["vocabulary"])
    assert (anatomy.base, anatomy.layers, anatomy.causal, anatomy.packs) == ("model", "decoder.layers", True, False)
    assert anatomy.tied == {"lm_head.weight": "model.decoder.embed_tokens.weight"}
    module = made(model, HEADS["vocabulary"])
    inputs = padded(texts())
    with torch.no_grad():
        torch.testing.assert_close(module(**inputs)["logits"], reference(**inputs).logits, rtol=0, atol=1e-6)


def test_files_that_transformers_converts_are_converted(tmp_path: Path) -> None:
    config = transformers.AutoConfig.for_model(
        "mixtral", vocab_size=120, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=3, max_position_embeddings=64, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    reference = transformers.AutoModelForCausalLM.from_config(config).eval()
    reference.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    model = opened(tmp_path)
    module = made(model, HEADS["vocabulary"])
    stored = {name for name, _ in model.weights()}
    assert stored == {name for name, _ in module.named_parameters()}
    inputs = padded(texts())
    real = inputs["attention_mask"].bool()
    with torch.no_grad():
        torch.testing.assert_close(
            module(**inputs)["logits"][real], reference(**inputs).logits[real], rtol=0, atol=1e-6
        )
