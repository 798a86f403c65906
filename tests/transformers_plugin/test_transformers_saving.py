"""Configurations that are saved, values of new tensors, dropout."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from test_transformers_heads import AUTO, CUSTOM
from tiny_models import FAMILIES, HEADS, made, opened, padded, save_tiny, texts, tokenizer

from spcore.errors import ArtifactError, RefusalError
from spcore.interfaces.model import Head
from spcore.tensors.files import save_safetensors
from spcore.tensors.materialise import materialise
from spcore_transformers.configs import dropouts

Folders = Callable[[str], Path]


def save(model: Any, module: Any, head: Head, target: Path) -> Path:
    """As a saved model is written."""
    target.mkdir()
    tied = model.anatomy(head).tied
    save_safetensors(((n, t) for n, t in module.state_dict().items() if n not in tied), target)
    model.save_config(target, head)
    model.processor.save(target)
    return target


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_opens_what_is_saved(folder: Folders, tmp_path: Path, family: str) -> None:
    for kind, head in HEADS.items():
        model = opened(folder(family))
        module = made(model, head)
        target = save(model, module, head, tmp_path / kind)
        again, info = getattr(transformers, AUTO[kind]).from_pretrained(target, output_loading_info=True)
        assert not info["missing_keys"]
        assert not info["unexpected_keys"]
        inputs = padded(texts(), int(module.config.pad_token_id))
        with torch.no_grad():
            ours, theirs = module(**inputs), again.eval()(**inputs)
        first = theirs.start_logits if kind == "span" else theirs.logits
        real = inputs["attention_mask"].bool() if kind != "sequence" else slice(None)
        torch.testing.assert_close(next(iter(ours.values()))[real], first[real], rtol=1e-6, atol=1e-6)
        config = json.loads((target / "config.json").read_text())
        assert config["architectures"] == [type(again).__name__]
        assert config["dtype"] == "float32"
        assert str(folder(family)) not in (target / "config.json").read_text()
        assert torch.equal(next(iter(made(opened(target), head)(**inputs).values())), next(iter(ours.values())))


def test_labels_and_problem_type_are_saved(folder: Folders, tmp_path: Path) -> None:
    head = Head(
        "sequence",
        3,
        {"logits": ("sequence", "label")},
        ("low", "middle", "high"),
        problem_type="multi_label_classification",
    )
    model = opened(folder("bert"))
    model.save_config(tmp_path, head)
    config = transformers.AutoConfig.from_pretrained(tmp_path)
    assert config.id2label == {0: "low", 1: "middle", 2: "high"}
    assert config.label2id == {"low": 0, "middle": 1, "high": 2}
    assert (config.num_labels, config.problem_type) == (3, "multi_label_classification")
    opened_again = opened(folder("bert"))
    opened_again.config.problem_type = "regression"  # of an earlier head
    opened_again.save_config(tmp_path, HEADS["token"])
    config = transformers.AutoConfig.from_pretrained(tmp_path)
    assert (config.num_labels, config.problem_type) == (4, None)


def test_a_span_head_has_two_outputs_whatever_the_model_was(tmp_path: Path) -> None:
    source = save_tiny(
        tmp_path / "nli", "bert", "AutoModelForSequenceClassification", id2label={0: "a", 1: "b", 2: "c"}
    )
    assert made(opened(source), HEADS["span"]).qa_outputs.weight.shape == (2, 32)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_custom_heads_folder_opens_as_the_backbone(folder: Folders, tmp_path: Path, family: str) -> None:
    model = opened(folder(family))
    module = made(model, CUSTOM)
    target = save(model, module, CUSTOM, tmp_path / "saved")
    again = transformers.AutoModel.from_pretrained(target).eval()
    inputs = padded(texts(), int(module.config.pad_token_id))
    with torch.no_grad():
        hidden = module.get_submodule(module._base)(**inputs).last_hidden_state
        torch.testing.assert_close(again(**inputs).last_hidden_state, hidden, rtol=0, atol=1e-6)
    assert json.loads((target / "config.json").read_text())["architectures"] == [type(again).__name__]
    restored = made(opened(target), CUSTOM)
    assert torch.equal(restored(**inputs)["scores"], module(**inputs)["scores"])


def test_a_quantised_configuration_is_not_saved(folder: Folders, tmp_path: Path) -> None:
    model = opened(folder("bert"))
    model.config.quantization_config = {"quant_method": "gptq"}
    with pytest.raises(ArtifactError, match="quantised"):
        model.save_config(tmp_path, HEADS["sequence"])


@pytest.mark.parametrize("kind", ["vocabulary", "sequence"])
@pytest.mark.parametrize("family", FAMILIES)
def test_new_models_have_the_familys_initialisation(folder: Folders, family: str, kind: str) -> None:
    head = HEADS[kind]
    module = made(opened(folder(family), from_scratch=True), head, seed=1)
    torch.manual_seed(0)
    reference = getattr(transformers, AUTO[kind]).from_config(module.config)
    buffers = dict(reference.named_buffers())
    for name, buffer in module.named_buffers():
        assert torch.equal(buffer, buffers[name]), name
    own = dict(module.named_parameters())
    for name, parameter in reference.named_parameters():
        assert torch.isfinite(own[name]).all()
        spread = float(parameter.detach().std(correction=0))
        if spread == 0:
            assert torch.equal(own[name], parameter), name
        elif parameter.numel() >= 96:
            assert float(own[name].detach().std()) == pytest.approx(spread, rel=0.25), name


def test_values_depend_on_seed_and_place_alone(folder: Folders) -> None:
    torch.manual_seed(1)
    one = made(opened(folder("bert"), from_scratch=True), HEADS["sequence"], seed=3)
    before = torch.get_rng_state()
    other = made(opened(folder("bert"), from_scratch=True), HEADS["token"], seed=3)
    assert torch.equal(before, torch.get_rng_state())
    others = dict(other.named_parameters())
    shared = [(n, p) for n, p in one.named_parameters() if n.startswith("bert.encoder.")]
    assert shared
    assert all(torch.equal(p, others[n]) for n, p in shared)
    again = made(opened(folder("bert"), from_scratch=True), HEADS["sequence"], seed=4)
    assert not torch.equal(one.classifier.weight, again.classifier.weight)


def test_layers_that_their_parents_initialise_are_right(tmp_path: Path) -> None:
    settings = {
        "vocab_size": 120,
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 64,
        "num_layers": 2,
        "num_heads": 4,
        "pad_token_id": 0,
        "decoder_start_token_id": 0,
    }
    transformers.AutoConfig.for_model("t5", **settings).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    head = Head("token", 3, {"logits": ("sequence", "position", "label")})
    model = opened(tmp_path, from_scratch=True)
    module = made(model, head)
    torch.manual_seed(0)
    reference = transformers.AutoModelForTokenClassification.from_config(module.config)
    own = dict(module.named_parameters())
    for name, parameter in reference.named_parameters():
        if float(parameter.detach().std(correction=0)) > 0 and parameter.numel() > 500:
            assert float(own[name].detach().std()) == pytest.approx(float(parameter.detach().std()), rel=0.25), name


class Forgetful(torch.nn.Module):
    """Has a parameter and no way to fill it."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.empty(3))

    def forward(
        self, hidden: torch.Tensor, mask: torch.Tensor, segments: torch.Tensor | None
    ) -> dict[str, torch.Tensor]:
        return {"scores": hidden[:, 0, :3] * self.scale}


def test_a_custom_head_that_cannot_be_initialised_is_refused(folder: Folders) -> None:
    head = Head("custom", 3, {"scores": ("sequence", "label")}, build=Forgetful)
    model = opened(folder("bert"))
    with pytest.raises(RefusalError, match=r"Forgetful at 'head' has parameters and no reset_parameters\(\)"):
        materialise(model.build(head), model, head, 0)


def test_a_custom_head_beside_a_familys_module_of_that_name(folder: Folders) -> None:
    model = opened(folder("modernbert"), from_scratch=True)
    custom, family = made(model, CUSTOM), made(model, HEADS["sequence"])
    # reset_parameters of nn.Linear: uniform within 1 / sqrt(32); the family's: normal, no bias.
    assert float(custom.head.out.weight.detach().abs().max()) < 32**-0.5
    assert float(custom.head.out.bias.detach().abs().max()) > 0
    assert family.head.dense.weight.shape == (32, 32)
    assert float(family.head.dense.weight.detach().std()) < 0.02


@pytest.mark.parametrize("family", FAMILIES)
def test_dropout_sets_every_probability(folder: Folders, family: str) -> None:
    model = opened(folder(family), dropout=0.0)
    assert dropouts(model.config)
    module = made(model, HEADS["sequence"]).train()
    assert {m.p for m in module.modules() if isinstance(m, torch.nn.Dropout)} <= {0.0}
    inputs = padded(texts(), int(module.config.pad_token_id))
    assert torch.equal(module(**inputs)["logits"], module(**inputs)["logits"])
    high = made(opened(folder(family), dropout=0.25), HEADS["sequence"])
    assert {m.p for m in high.modules() if type(m).__name__.endswith("Dropout")} == {0.25}


def test_dropout_is_refused_where_there_is_none(tmp_path: Path) -> None:
    transformers.AutoConfig.for_model("mamba", vocab_size=120, hidden_size=32, num_hidden_layers=1).save_pretrained(
        tmp_path
    )
    tokenizer().save_pretrained(tmp_path)
    with pytest.raises(
        RefusalError, match=r"model.dropout 0.1: family 'mamba' has no dropout. Leave model.dropout out"
    ):
        opened(tmp_path, dropout=0.1)
    assert opened(tmp_path).family == "mamba"
