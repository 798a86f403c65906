from __future__ import annotations

import numpy as np
import pytest
import torch

from spcore.tensors.ops import WholeOps, as_tensors


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0)).requires_grad_()


def test_token_logprobs_are_those_of_cross_entropy(logits: torch.Tensor) -> None:
    labels = torch.randint(7, (3, 5), generator=torch.Generator().manual_seed(1))
    labels[0, 1:] = -100
    labels[2] = -1
    flat = labels.flatten().masked_fill(labels.flatten() < 0, -100)
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), flat, reduction="none").view(3, 5)
    found = WholeOps().token_logprobs({"logits": logits}, labels)
    torch.testing.assert_close(found, -expected)
    torch.testing.assert_close(torch.autograd.grad(found.sum(), logits), torch.autograd.grad(-expected.sum(), logits))


@pytest.mark.parametrize("labels", [torch.full((3, 5), -100), torch.zeros(3, 5, dtype=torch.long)])
def test_no_label_and_only_labels(logits: torch.Tensor, labels: torch.Tensor) -> None:
    found = WholeOps().token_logprobs({"logits": logits}, labels)
    expected = torch.log_softmax(logits, -1)[..., 0] * (labels >= 0)
    torch.testing.assert_close(found, expected)


def test_low_precision_outputs_give_float32(logits: torch.Tensor) -> None:
    low = {"logits": logits.detach().bfloat16()}
    assert WholeOps().token_logprobs(low, torch.ones(3, 5, dtype=torch.long)).dtype == torch.float32
    assert WholeOps().logprob_mean(low).dtype == torch.float32


def test_the_rest_is_plain(logits: torch.Tensor) -> None:
    ops, outputs = WholeOps(), {"scores": logits}
    torch.testing.assert_close(ops.logprob_mean(outputs, "scores"), torch.log_softmax(logits, -1).mean(-1))
    assert ops.argmax(outputs, "scores").equal(logits.argmax(-1))
    assert ops.full(outputs, "scores") is logits
    assert ops.mean_over_data(logits) is logits


def test_as_tensors_takes_views_and_tensors() -> None:
    view = np.arange(12).reshape(3, 4).T
    found = as_tensors({"view": view, "tensor": torch.ones(2), "float": np.ones(2, np.float32)})
    assert found["view"].tolist() == view.tolist()
    assert (found["view"].dtype, found["float"].dtype) == (torch.int64, torch.float32)
