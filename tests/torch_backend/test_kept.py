"""What selective recomputing keeps."""

from __future__ import annotations

import torch

from spcore_torch import recomputing


def test_products_and_every_fused_attention() -> None:
    names = {operation.name() for operation in recomputing._kept()}
    assert {"aten::mm", "aten::addmm", *(f"aten::{name}" for name in recomputing._FUSED)} <= names
    assert "aten::bmm" not in names, "attention's scores grow with the square of the length"
    assert recomputing._policy(None, torch.ops.aten.gelu.default) is recomputing.CheckpointPolicy.PREFER_RECOMPUTE
