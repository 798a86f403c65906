"""Runtime `torch`: a saved model run eagerly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from spcore.artifact import Artifact
from spcore.interfaces.model import Head
from spcore.interfaces.runtime import PrepareReport, Runner, Runtime
from spcore.interfaces.task import Batch, BoundTask
from spcore.tensors.flat import can_flatten, flatten, unflatten
from spcore.tensors.materialise import materialise
from spcore.tensors.ops import as_tensors
from spcore_torch import kernels
from spcore_torch.options import RuntimeOptions
from spcore_torch.single import precision_context, resolve_device


class TorchRuntime(Runtime):
    """Nothing to prepare; loads the module that training had."""

    def __init__(self, options: RuntimeOptions) -> None:
        self.options = options

    def prepare(self, artifact: Artifact, task: BoundTask, options: Mapping[str, Any]) -> PrepareReport:
        """Does nothing: this runtime reads the saved model as it is."""
        return PrepareReport(remarks=("runtime 'torch' reads the saved model as it is",))

    def load(self, artifact: Artifact, task: BoundTask | None, device: str) -> Runner:
        """See `Runtime.load`."""
        return TorchRunner(artifact, task.head if task is not None else _no_head(), resolve_device(device), self.options)


class _Hidden(torch.nn.Module):
    """The head that gives the hidden states themselves, averaged over each text's tokens."""

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor, segments: torch.Tensor | None) -> dict[str, torch.Tensor]:
        """[S, L, H] -> {"embedding": [S, H]}."""
        kept = mask[..., None].to(torch.float32)
        return {"embedding": (hidden.float() * kept).sum(1) / kept.sum(1).clamp(min=1)}


def _no_head() -> Head:
    return Head("custom", 0, {"embedding": ("sequence", "hidden")}, build=lambda config: _Hidden())


class TorchRunner(Runner):
    """Abilities `Forwards` and `Embeds`."""

    capabilities = frozenset({"forward", "embed"})

    def __init__(self, artifact: Artifact, head: Head, device: str, options: RuntimeOptions) -> None:
        self.artifact, self.head, self.options = artifact, head, options
        self.device, self.provider, self.batch_tokens = torch.device(device), device, options.batch_tokens
        self.compute = None if options.dtype == "float32" else torch.bfloat16
        self.module = artifact.model.build(head, "float32")
        materialise(self.module, artifact.model, head, 0, self.device)
        self.module.eval().requires_grad_(False)
        if self.device.type == "cpu":
            kernels.install(self.module, self.compute)
        self.flat = artifact.model.anatomy(head).packs and head.build is None

    def forward(self, batch: Batch) -> dict[str, np.ndarray]:
        """See `Forwards.forward`."""
        flat = self.flat and can_flatten(batch)
        inputs = as_tensors((flatten(batch, self.head) if flat else batch).inputs, self.device)
        with torch.inference_mode(), precision_context(self.device, self.compute, "ieee"):
            found = self.module(**inputs)
        outputs = {name: value.float().cpu().numpy() for name, value in found.items()}
        return unflatten(outputs, batch, self.head) if flat else outputs

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """See `Embeds.embed`."""
        processor = self.artifact.model.processor
        encoded = [processor.encode(text, max_length=processor.max_length).arrays for text in texts]
        result: np.ndarray | None = None
        order = sorted(range(len(texts)), key=lambda n: -len(encoded[n]["input_ids"]))
        at = 0
        while at < len(order):
            longest = len(encoded[order[at]]["input_ids"])
            chosen = order[at : at + max(1, self.batch_tokens // longest)]
            vectors = self._embed([encoded[n] for n in chosen], longest)
            if result is None:
                result = np.zeros((len(texts), vectors.shape[1]), np.float32)
            result[chosen] = vectors
            at += len(chosen)
        return result if result is not None else np.zeros((0, 0), np.float32)

    def _embed(self, rows: list[dict[str, np.ndarray]], length: int) -> np.ndarray:
        fill = self.artifact.model.processor.fill
        inputs = {
            name: np.stack([np.pad(row[name], (0, length - len(row[name])), constant_values=fill[name]) for row in rows])
            for name in rows[0]
        }
        inputs["attention_mask"] = np.stack([np.arange(length) < len(row["input_ids"]) for row in rows]).astype(np.int64)
        with torch.inference_mode(), precision_context(self.device, self.compute, "ieee"):
            vectors: np.ndarray = self.module(**as_tensors(inputs, self.device))["embedding"].float().cpu().numpy()
        return vectors

    def close(self) -> None:
        """See `Runner.close`."""
        self.module = torch.nn.Module()
