from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tiny_bert import TEXTS, batch_of, open_model, write

from spcore.artifact import Artifact
from spcore.errors import ArtifactError, RefusalError
from spcore.interfaces.model import Head
from spcore.interfaces.runtime import Embeds, Forwards
from spcore.interfaces.task import BoundTask
from spcore_torch.options import RuntimeOptions
from spcore_torch.runtime import MeanOfTokens, TorchRunner, TorchRuntime
from tensors.tensor_fakes import Weighted

ROWS = Head("sequence", 3, {"logits": ("sequence", "label")}, ("a", "b", "c"))
TAGS = Head("token", 3, {"logits": ("sequence", "position", "label")}, ("a", "b", "c"))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {
        "sequence": write(tmp_path_factory.mktemp("rows")),
        "token": write(tmp_path_factory.mktemp("tags"), transformers.BertForTokenClassification),
    }


def task_of(head: Head) -> BoundTask:
    task = Weighted()
    task.head = head
    return task


def load(folder: Path, head: Head | None, **options: Any) -> TorchRunner:
    runtime = TorchRuntime(RuntimeOptions(**options))
    runner = runtime.load(Artifact(folder, open_model(folder), {}), task_of(head) if head else None, "cpu")
    assert isinstance(runner, TorchRunner)
    return runner


@pytest.mark.parametrize("head", [ROWS, TAGS], ids=["sequence", "token"])
def test_outputs_are_those_of_transformers(saved: dict[str, Path], head: Head) -> None:
    runner = load(saved[head.kind], head)
    assert isinstance(runner, Forwards)
    assert runner.flat
    batch = batch_of(runner.artifact.model, TEXTS, {}, {})
    cls = transformers.BertForSequenceClassification if head is ROWS else transformers.BertForTokenClassification
    theirs = cls.from_pretrained(saved[head.kind]).eval()
    with torch.inference_mode():
        expected = theirs(**{n: torch.from_numpy(a) for n, a in batch.inputs.items()}).logits.numpy()
    before = torch.get_rng_state()
    found = runner.forward(batch)["logits"]
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    if head is TAGS:
        real = batch.inputs["attention_mask"].astype(bool)
        assert not found[~real].any(), "padding is 0"
        found, expected = found[real], expected[real]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert torch.get_rng_state().equal(before)


def test_flat_or_padded_is_the_same(saved: dict[str, Path]) -> None:
    runner = load(saved["sequence"], ROWS)
    batch = batch_of(runner.artifact.model, TEXTS, {}, {})
    flat = runner.forward(batch)["logits"]
    runner.flat = False
    np.testing.assert_allclose(runner.forward(batch)["logits"], flat, rtol=1e-4, atol=1e-5)


def test_bfloat16_is_near(saved: dict[str, Path]) -> None:
    exact, low = load(saved["sequence"], ROWS), load(saved["sequence"], ROWS, dtype="bfloat16")
    batch = batch_of(exact.artifact.model, TEXTS, {}, {})
    expected, found = exact.forward(batch)["logits"], low.forward(batch)["logits"]
    assert found.dtype == np.float32
    assert 0 < np.abs(found - expected).max() < 0.1 * np.abs(expected).max()


@pytest.mark.parametrize("batch_tokens", [16, 8192])
@pytest.mark.parametrize("head", [None, ROWS], ids=["backbone", "with a task"])
def test_embeddings_are_means_of_the_last_hidden_states(
    saved: dict[str, Path], head: Head | None, batch_tokens: int
) -> None:
    runner = load(saved["sequence"], head, batch_tokens=batch_tokens)
    assert isinstance(runner, Embeds)
    theirs = transformers.BertModel.from_pretrained(saved["sequence"]).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(saved["sequence"])
    found = runner.embed(TEXTS)
    assert (found.shape, found.dtype) == ((len(TEXTS), 32), np.float32)
    for text, vector in zip(TEXTS, found, strict=True):
        with torch.inference_mode():
            hidden = theirs(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        np.testing.assert_allclose(vector, hidden.mean(0).numpy(), rtol=1e-4, atol=1e-5)
    assert len(runner.embed([])) == 0


def test_means_by_segment() -> None:
    hidden = torch.arange(16.0).reshape(2, 4, 2)
    mask = torch.tensor([[True, True, True, False], [True, True, False, False]])
    segments = torch.tensor([[0, 0], [0, 1], [1, 0]])
    found = MeanOfTokens()(hidden, mask, segments)["embedding"]
    assert found.tolist() == [[0, 1], [3, 4], [9, 10]]
    assert MeanOfTokens()(hidden, mask, None)["embedding"].tolist() == [[2, 3], [9, 10]]


def test_a_model_without_this_task_s_head_is_refused(saved: dict[str, Path]) -> None:
    with pytest.raises(
        ArtifactError, match=r"its weights lack classifier\.\w+; the model was not trained for this task"
    ):
        load(saved["sequence"], Head("sequence", 5, {"logits": ("sequence", "label")}))


def test_there_is_nothing_to_prepare(saved: dict[str, Path]) -> None:
    runtime, folder = TorchRuntime(RuntimeOptions()), saved["sequence"]
    artifact = Artifact(folder, open_model(folder), {})
    assert runtime.prepare(artifact, task_of(ROWS), {}).files == ()
    with pytest.raises(RefusalError, match="runtime 'torch': nothing is exported, so quantize cannot be honoured"):
        runtime.prepare(artifact, task_of(ROWS), {"quantize": "int8"})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_refused(saved: dict[str, Path]) -> None:
    folder = saved["sequence"]
    with pytest.raises(RefusalError, match="device 'cuda:1': torch sees 0 CUDA devices; use device=cpu"):
        TorchRuntime(RuntimeOptions()).load(Artifact(folder, open_model(folder), {}), None, "cuda:1")


def test_a_runner_closes_twice(saved: dict[str, Path]) -> None:
    runner = load(saved["sequence"], None)
    runner.close()
    runner.close()
    assert not list(runner.module.parameters())
