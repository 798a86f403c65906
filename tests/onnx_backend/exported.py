"""Tiny saved models, exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from spcore.artifact import MANIFEST, PROCESSOR, Artifact
from spcore.components import default_registry
from spcore.files import sealed_files, sealed_text
from spcore.interfaces.model import Head
from spcore.interfaces.runtime import PrepareReport
from spcore.interfaces.task import BoundTask
from spcore_onnx import tracing
from spcore_onnx.options import RuntimeOptions
from spcore_onnx.runner import OnnxRunner
from spcore_onnx.runtime import OnnxRuntime
from transformers_plugin.tiny_models import opened, save_tiny

TRACE = tracing.trace
LABELS = ("low", "middle", "high")
PROBLEMS = {
    "single": "single_label_classification",
    "several": "multi_label_classification",
    "regression": "regression",
}


def save(folder: Path, family: str = "bert", problem: str = "single", **changes: Any) -> Path:
    """A saved model of a tiny random encoder with a classification head."""
    count = 1 if problem == "regression" else len(LABELS)
    save_tiny(
        folder,
        family,
        "AutoModelForSequenceClassification",
        num_labels=count,
        problem_type=PROBLEMS[problem],
        **changes,
    )
    labels = [] if problem == "regression" else list(LABELS)
    state = {"problem_type": PROBLEMS[problem], "labels": labels, "values": {name: n for n, name in enumerate(labels)},
             "integers": [], "class_weights": None, "label_smoothing": 0.0}  # fmt: skip
    manifest = {
        "format": 1, "model": {"use": "transformers", "source": "tiny", "family": family},
        "task": {"use": "text-classification", "options": {}, "state": state}, "limits": {"max_length": 40},
        PROCESSOR: opened(folder).processor.portable(), "files": sealed_files(folder), "metrics": {},
    }  # fmt: skip
    (folder / MANIFEST).write_text(sealed_text(manifest))
    return folder


def bound(artifact: Artifact) -> BoundTask:
    """Its task."""
    return artifact.task(default_registry())[1]


def export(artifact: Artifact, task: BoundTask | None = None, **options: Any) -> PrepareReport:
    """Export it."""
    return OnnxRuntime(RuntimeOptions()).prepare(artifact, task or bound(artifact), options)


def runner(artifact: Artifact, task: BoundTask | None = None, **options: Any) -> OnnxRunner:
    """It, at work on the CPU."""
    found = OnnxRuntime(RuntimeOptions(**options)).load(artifact, task or bound(artifact), "cpu")
    assert isinstance(found, OnnxRunner)
    return found


class Pooled(torch.nn.Module):  # type: ignore[misc]
    """A stranger's head: a mean over tokens, and a tag for each."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.rows = torch.nn.Linear(config.hidden_size, 2)
        self.tags = torch.nn.Linear(config.hidden_size, 5)

    def forward(
        self, hidden: torch.Tensor, mask: torch.Tensor, segments: torch.Tensor | None
    ) -> dict[str, torch.Tensor]:
        kept = mask[..., None].to(hidden.dtype)
        mean = (hidden * kept).sum(1) / kept.sum(1).clamp(min=1)
        return {"verdict": self.rows(torch.tanh(mean)), "tags": self.tags(hidden)}


CUSTOM = Head("custom", 2, {"verdict": ("sequence", "label"), "tags": ("sequence", "position", "label")}, build=Pooled)
