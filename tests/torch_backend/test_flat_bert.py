"""Fed flat or padded, in fp32 on the chosen kernel: the same losses and gradients, those of transformers' own model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tiny_bert import TEXTS, batch_of, open_model, write

from spcore.interfaces.model import Head
from spcore.interfaces.strategy import Place
from spcore.interfaces.task import Batch, LossTerm
from spcore_torch.options import SingleOptions
from spcore_torch.single import SingleEngine
from tensors.tensor_fakes import Weighted, plan_of

ROWS = Head("sequence", 3, {"logits": ("sequence", "label")}, ("a", "b", "c"))
WORDS = Head("vocabulary", 0, {"logits": ("sequence", "position", "vocabulary")})


class Labelled(Weighted):
    """Cross-entropy of labels: by row, or by token."""

    terms = ("loss",)

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head

    def loss(self, outputs: Mapping[str, torch.Tensor], batch: Batch, ops: Any) -> list[LossTerm]:
        return [LossTerm("loss", -ops.token_logprobs(outputs, batch.targets["labels"]).sum())]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    quiet = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return {
        "sequence": write(tmp_path_factory.mktemp("rows"), **quiet),
        "vocabulary": write(tmp_path_factory.mktemp("words"), transformers.BertForMaskedLM, **quiet),
    }


def case(folders: Mapping[str, Path], head: Head) -> tuple[Any, Batch]:
    model = open_model(folders[head.kind])
    batch = batch_of(model, TEXTS, {}, {})
    ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
    if head is ROWS:
        labels = np.array([0, 1, 2, 0, 1])
    else:
        labels = np.where((mask == 1) & (np.arange(ids.size).reshape(ids.shape) % 3 == 0), ids, -100)
    return model, batch_of(model, TEXTS, {"labels": labels}, {"loss": float((labels >= 0).sum())})


def engine_of(model: Any, head: Head, **options: Any) -> SingleEngine:
    return SingleEngine(plan_of(Labelled(head), model), Place(), SingleOptions(**options))


@pytest.mark.parametrize("head", [ROWS, WORDS], ids=["sequence", "vocabulary"])
def test_flat_padded_and_transformers_agree(folders: dict[str, Path], head: Head) -> None:
    model, batch = case(folders, head)
    cls = transformers.BertForSequenceClassification if head is ROWS else transformers.BertForMaskedLM
    theirs = cls.from_pretrained(folders[head.kind]).double()
    out = theirs(
        **{n: torch.from_numpy(a) for n, a in batch.inputs.items()}, labels=torch.from_numpy(batch.targets["labels"])
    )
    out.loss.backward()
    expected = {n: p.grad for n, p in theirs.named_parameters() if p.grad is not None}
    largest = max(float(g.abs().max()) for g in expected.values())
    for flatten in ("always", "never"):
        engine = engine_of(model, head, flatten=flatten)
        assert engine.flat == (flatten == "always")
        found = dict(engine.gradients([batch]))
        assert found.keys() == expected.keys()
        for name, grad in expected.items():
            scale = max(float(grad.abs().max()), largest * 1e-2)  # a key's bias has none: only rounding is there
            assert float((found[name] - grad).abs().max()) < 1e-5 * scale, name
        assert engine.train_step([batch], 0.0, 0).loss == pytest.approx(out.loss.item(), rel=1e-6)


def test_flat_training_follows_padded_training(folders: dict[str, Path]) -> None:
    model, batch = case(folders, ROWS)
    runs = [
        [engine.train_step([batch], 1e-3, step).loss for step in range(5)]
        for engine in (engine_of(model, ROWS, flatten=f) for f in ("always", "never"))
    ]
    assert runs[0] == pytest.approx(runs[1], rel=1e-5)
    assert runs[0][-1] < runs[0][0]


def test_saved_tensors_are_transformers_own(folders: dict[str, Path], tmp_path: Path) -> None:
    from spcore.tensors.files import save_safetensors

    model, _ = case(folders, WORDS)
    engine = engine_of(model, WORDS)
    assert not set(engine.tied) & dict(engine.weights()).keys()
    save_safetensors(engine.weights(), tmp_path)
    model.config.save_pretrained(tmp_path)
    mine, theirs = (transformers.BertForMaskedLM.from_pretrained(f) for f in (tmp_path, folders["vocabulary"]))
    assert all(t.equal(theirs.state_dict()[n]) for n, t in mine.state_dict().items())


def test_buffers_hold_what_the_constructor_gives(folders: dict[str, Path]) -> None:
    model, _ = case(folders, ROWS)
    theirs = dict(transformers.BertForSequenceClassification(model.config).named_buffers())
    found = dict(engine_of(model, ROWS).module.named_buffers())
    assert found.keys() == theirs.keys()
    assert all(t.equal(found[n]) for n, t in theirs.items())
