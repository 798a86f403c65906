from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from spcore.errors import ArtifactError
from spcore.interfaces.model import Anatomy, Head
from spcore.tensors import rng
from spcore.tensors.materialise import LoadReport, materialise, named_parameters, values
from spcore.testing.fakes.language import FakeLanguageModel

VOCABULARY = Head("vocabulary", 0, {"logits": ("sequence", "position", "vocabulary")})
CLASSES = Head("sequence", 3, {"logits": ("sequence", "label")})


class Stored(FakeLanguageModel):
    """Weights as a test likes them."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.tensors = tensors

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        yield from self.tensors.items()


@pytest.fixture
def backbone() -> dict[str, torch.Tensor]:
    return dict(FakeLanguageModel(pretrained=True).weights())


def build(model: FakeLanguageModel, head: Head = CLASSES, seed: int = 0, dtype: str = "float32") -> nn.Module:
    module = model.build(head, dtype)
    materialise(module, model, head, seed)
    return module


def test_without_weights_everything_is_initialised() -> None:
    model = FakeLanguageModel()
    module = model.build(CLASSES)
    report = materialise(module, model, CLASSES, 0)
    assert set(report.initialised) == set(module.state_dict())
    assert (report.loaded, report.unused) == ([], [])
    assert not any(p.is_meta or p.isnan().any() for p in module.parameters())


def test_values_have_an_address_and_the_generator_is_untouched() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = build(FakeLanguageModel())
    assert torch.get_rng_state().equal(before)
    torch.manual_seed(2)
    two, other = build(FakeLanguageModel()), build(FakeLanguageModel(), seed=1)
    for name, value in one.state_dict().items():
        assert value.equal(two.state_dict()[name])
    assert not one.classifier.weight.equal(other.classifier.weight)
    # A module's values depend on its own path, not on what stands before it.
    assert one.model.layers[1].mix.weight.equal(build(FakeLanguageModel(), VOCABULARY).model.layers[1].mix.weight)
    assert not one.model.layers[0].mix.weight.equal(one.model.layers[1].mix.weight)


def test_stored_values_are_taken_and_the_head_is_new(backbone: dict[str, torch.Tensor]) -> None:
    model = FakeLanguageModel(pretrained=True)
    module = model.build(CLASSES)
    report = materialise(module, model, CLASSES, 0)
    assert set(report.loaded) == set(backbone)
    assert set(report.initialised) == {"classifier.weight", "classifier.bias"}
    assert all(module.state_dict()[name].equal(tensor) for name, tensor in backbone.items())


def test_ties_hold_and_an_alias_alone_will_do(backbone: dict[str, torch.Tensor]) -> None:
    table = backbone.pop("model.embed.weight")
    model = Stored({**backbone, "lm_head.weight": table})
    module = model.build(VOCABULARY)
    report = materialise(module, model, VOCABULARY, 0)
    assert module.lm_head.weight is module.model.embed.weight
    assert module.lm_head.weight.equal(table)
    assert "model.embed.weight" in report.loaded
    assert (report.initialised, report.unused) == ([], [])


def test_the_owner_counts_where_the_alias_is_stored_too(backbone: dict[str, torch.Tensor]) -> None:
    table = backbone["model.embed.weight"]
    for stored in ({"lm_head.weight": table + 1, **backbone}, {**backbone, "lm_head.weight": table + 1}):
        assert build(Stored(stored), VOCABULARY).lm_head.weight.equal(table)


def test_a_head_of_another_size_is_new_and_said_to_be_unused(backbone: dict[str, torch.Tensor]) -> None:
    model = Stored({**backbone, "classifier.weight": torch.ones(5, 16), "classifier.bias": torch.ones(3)})
    report = materialise(model.build(CLASSES), model, CLASSES, 0)
    assert report.unused == ["classifier.weight"]
    assert report.initialised == ["classifier.weight"]
    assert "classifier.bias" in report.loaded


def test_an_incomplete_backbone_is_named(backbone: dict[str, torch.Tensor]) -> None:
    del backbone["model.layers.1.mix.bias"]
    with pytest.raises(ArtifactError, match=r"fake:tiny: its weights lack model\.layers\.1\.mix\.bias; the file"):
        build(Stored(backbone))
    with pytest.raises(ArtifactError, match=r"lack model\.embed\.weight and 7 more"):
        build(Stored({"another.model": torch.ones(1)}))


def test_a_backbone_of_another_shape_is_named(backbone: dict[str, torch.Tensor]) -> None:
    backbone["model.final.bias"] = torch.ones(15)
    with pytest.raises(ArtifactError, match=r"model\.final\.bias is \(15,\) there, the configuration says \(16,\)"):
        build(Stored(backbone))


def test_the_built_dtype_is_kept(backbone: dict[str, torch.Tensor]) -> None:
    half = Stored({n: t.bfloat16() for n, t in backbone.items()})
    module = build(half)
    assert {p.dtype for p in module.parameters()} == {torch.float32}
    assert module.model.final.weight.equal(backbone["model.final.weight"].bfloat16().float())
    assert {p.dtype for p in build(half, dtype="bfloat16").parameters()} == {torch.bfloat16}


def test_values_give_engines_of_other_shapes_the_same() -> None:
    model, report = FakeLanguageModel(), LoadReport()
    whole = dict(build(model, VOCABULARY, seed=5).state_dict())
    whole.pop("lm_head.weight")
    found = dict(values(model, VOCABULARY, 5, report, whole))
    assert found.keys() == whole.keys() == set(report.initialised)
    assert all(value.equal(whole[name]) for name, value in found.items())
    few = {"model.layers.1.mix.weight", "model.layers.1.mix.bias"}
    assert dict(values(model, VOCABULARY, 5, LoadReport(), few)).keys() == few


def test_a_leaf_that_is_left_without_a_value_is_a_fault_of_its_model() -> None:
    class Forgetful(FakeLanguageModel):
        def initialise(self, module: nn.Module, path: str) -> None:
            if not isinstance(module, nn.LayerNorm):
                super().initialise(module, path)

    with pytest.raises(AssertionError, match=r"initialise\(\) gives model\.final\.weight no value \(LayerNorm\)"):
        build(Forgetful())


def test_buffers_get_values_and_the_seed_is_the_path_s() -> None:
    class Rotary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("frequencies", torch.empty(4), persistent=False)
            self.inner = nn.Linear(2, 2)

    class WithBuffers(FakeLanguageModel):
        def build(self, head: Head, dtype: str = "float32", device: str = "meta") -> nn.Module:
            with torch.device(device):
                return nn.ModuleDict({"rotary": Rotary()})

        def anatomy(self, head: Head) -> Anatomy:
            return Anatomy("rotary", None, None, None, (), False)

        def initialise(self, module: nn.Module, path: str) -> None:
            if path == "rotary":
                assert not list(module.children()), "a leaf comes alone"
                module.frequencies.copy_(torch.rand(4))
            else:
                super().initialise(module, path)

    module = build(WithBuffers(), seed=4)
    with rng.drawing(rng.address(4, "rotary")):
        assert module["rotary"].frequencies.equal(torch.rand(4))


def test_of_tied_parameters_the_owner_is_named_wherever_it_stands() -> None:
    module = nn.ModuleDict({"head": nn.Linear(2, 3, bias=False), "table": nn.Embedding(3, 2)})
    module["head"].weight = module["table"].weight
    assert list(named_parameters(module, {"head.weight": "table.weight"})) == ["table.weight"]
