"""Runtime `torch`: a saved model run eagerly."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch

from spcore.artifact import Artifact
from spcore.errors import DataError, RefusalError
from spcore.generation import DecodingLoop
from spcore.interfaces.model import Head, LanguageModel
from spcore.interfaces.runtime import GenerationRequest, PrepareReport, Runner, Runtime, Samples, Token
from spcore.interfaces.task import Batch, BoundTask
from spcore.tensors.flat import can_flatten, flatten, unflatten
from spcore.tensors.materialise import frozen
from spcore.tensors.ops import WholeOps, as_tensors
from spcore.tensors.process import computing, plainly, ready, sharing
from spcore_torch import generating, kernels
from spcore_torch.options import RuntimeOptions
from spcore_torch.single import autocast, resolve_device


class TorchRuntime(Runtime):
    """Nothing to prepare; loads the module that training had."""

    generates = True

    def __init__(self, options: RuntimeOptions) -> None:
        self.options = options

    def prepare(
        self,
        artifact: Artifact,
        task: BoundTask,
        options: Mapping[str, Any],
        data: Mapping[str, Samples] = MappingProxyType({}),
    ) -> PrepareReport:
        """Does nothing: this runtime reads the saved model as it is. Raises RefusalError for options, of which it has none."""
        given = (*options, *data)
        if given:
            raise RefusalError(
                f"runtime 'torch': nothing is exported, so {', '.join(given)} cannot be honoured; leave it out"
            )
        return PrepareReport(remarks=("runtime 'torch' reads the saved model as it is",))

    def variants(self, artifact: Artifact) -> Sequence[Mapping[str, Any]]:
        """fp32, and bf16."""
        return ({"dtype": "float32"}, {"dtype": "bfloat16"})

    def capacity(self, model: LanguageModel) -> tuple[int, int, int]:
        """See `Runtime.capacity`: by the options `slots` and `context`."""
        return generating.capacity(model, self.options)

    def load(self, artifact: Artifact, task: BoundTask | None, device: str) -> Runner:
        """See `Runtime.load`. Raises ArtifactError for a model whose weights lack a part, RefusalError for a device that is not
        there."""
        resolved = resolve_device(device)
        if resolved.startswith("cuda") and int(resolved.partition(":")[2]) >= torch.cuda.device_count():
            raise RefusalError(
                f"device {device!r}: torch sees {torch.cuda.device_count()} CUDA devices; use device=cpu"
            )
        return TorchRunner(artifact, task.head if task is not None else None, torch.device(resolved), self.options)


class MeanOfTokens(torch.nn.Module):  # type: ignore[misc]
    """The head of an embedding: the mean of a text's last hidden states."""

    def forward(
        self, hidden: torch.Tensor, mask: torch.Tensor, segments: torch.Tensor | None
    ) -> dict[str, torch.Tensor]:
        """hidden [S, L, H], mask [S, L] bool, segments [N, 2] (sequence, start) or None -> {"embedding": [S or N, H]} float32."""
        kept = hidden.float() * mask[..., None]
        if segments is None:
            return {"embedding": kept.sum(1) / mask.sum(1, keepdim=True).clamp(min=1)}
        starts = torch.zeros_like(mask, dtype=torch.int64)
        starts[segments[:, 0], segments[:, 1]] = 1
        owner = (starts.flatten().cumsum(0) - 1).clamp(min=0)
        sums = kept.new_zeros(len(segments), hidden.shape[-1]).index_add(0, owner, kept.flatten(0, 1))
        counts = kept.new_zeros(len(segments)).index_add(0, owner, mask.flatten().to(kept.dtype))
        return {"embedding": sums / counts[:, None]}


EMBEDDING = Head("custom", 0, {"embedding": ("sequence", "hidden")}, build=lambda config: MeanOfTokens())


class TorchRunner(Runner):
    """Abilities `Forwards`, `Embeds` and, of models that give text, `Generates`, of decoders with their task `Scores`. head: None for the backbone alone, whose `forward` gives
    "embedding", and the model's own language head. Weights are read at once where there is one thing to do with them, else for what
    is first asked."""

    admission: Literal["continuous", "batch"] = "continuous"

    def __init__(self, artifact: Artifact, head: Head | None, device: torch.device, options: RuntimeOptions) -> None:
        self.artifact, self.head, self.options, self.device = artifact, head or EMBEDDING, options, device
        self.provider = str(device)
        # On a CPU hidden states stay in its cache, a GPU wants to be filled.
        self.batch_tokens = options.batch_tokens or (2048 if device.type == "cpu" else 8192)
        self.compute = None if options.dtype == "float32" else torch.bfloat16
        self._whole = head is None
        self._embedder = self if head is None else None
        self._loading = threading.RLock()
        ready()
        if "generate" not in self.capabilities:
            _ = self.module

    @functools.cached_property
    def capabilities(self) -> frozenset[str]:  # type: ignore[override]
        """See `Runner.capabilities`. Raises RefusalError for a model with which nothing can be done."""
        if not generating.writes(self.artifact.model, None if self._whole else self.head):
            _ = self.flat
            return frozenset({"forward", "embed"})
        try:
            _ = self.flat
        except RefusalError:  # an encoder-decoder without a task: no hidden states of one stack
            return frozenset({"generate"})
        scores = not self._whole and self.artifact.model.anatomy(self.head).encoder_layers is None
        return frozenset({"forward", "embed", "generate"} | ({"score"} if scores else set()))

    @functools.cached_property
    def flat(self) -> bool:
        """Whether batches are fed as one row without padding."""
        return self.artifact.model.anatomy(self.head).packs and self.device.type == "cpu"

    @functools.cached_property
    def module(self) -> torch.nn.Module:
        """What `forward` runs."""
        with self._loading, plainly():
            if "module" in self.__dict__:  # another thread was here first
                return self.__dict__["module"]
            module = frozen(self.artifact.model, self.head, self.device, trained=not self._whole)
            kernels.install(module, self.compute, self.device, steps="generate" in self.capabilities)
            return module

    @functools.cached_property
    def _loop(self) -> DecodingLoop:
        """What generates. Its module is `forward`'s where that computes alike."""
        with self._loading, plainly():
            if "_loop" in self.__dict__:
                made: DecodingLoop = self.__dict__["_loop"]
                return made
            model, compute, device = self.artifact.model, self.compute, self.device
            if "generate" not in self.capabilities:
                raise RefusalError(f"{model.source or model.family!r}: gives labels or numbers, and no text")
            head = generating.LANGUAGE if self._whole else self.head
            if compute is None and not self._whole:
                module, itself = self.module, True
            else:
                module, itself = generating.language_module(model, head, device, compute)
            return generating.loop_over(
                model, module, self.options, lambda: self._computing(None if itself else compute)
            )

    def submit(self, request: GenerationRequest) -> int:
        """See `Generates.submit`. Raises RefusalError for a model that gives no text."""
        return self._loop.submit(request)

    def events(self) -> Iterator[Token]:
        """See `Generates.events`: for one thread at a time (`spcore.sharing`)."""
        return self._loop.events()

    def cancel(self, request: int, sample: int | None = None) -> None:
        """See `Generates.cancel`."""
        self._loop.cancel(request, sample)

    def forward(self, batch: Batch) -> dict[str, np.ndarray]:
        """See `Forwards.forward`."""
        flat, module = self.flat and can_flatten(batch), self.module
        with self._computing(self.compute):
            outputs = {name: value.float().cpu().numpy() for name, value in self._outputs(module, batch, flat).items()}
        return unflatten(outputs, batch, self.head) if flat else outputs

    def score(self, batch: Batch, places: np.ndarray, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `Scores.score`."""
        flat, module = self.flat and can_flatten(batch), self.module
        rows, at = places.T
        if flat:  # one row, a text's tokens behind those of the texts before it
            lengths = batch.inputs["attention_mask"].sum(1)
            rows, at = np.zeros_like(rows), at + (np.cumsum(lengths) - lengths)[rows]
        with self._computing(self.compute):
            logits = self._outputs(module, batch, flat)["logits"]
            found = {"logits": logits[torch.as_tensor(rows), torch.as_tensor(at)].float()}
            labels = torch.as_tensor(tokens, device=self.device)
            ops = WholeOps()
            logprobs, likeliest = ops.token_logprobs(found, labels), ops.argmax(found) == labels
            return logprobs.cpu().numpy(), likeliest.cpu().numpy()

    def _outputs(self, module: torch.nn.Module, batch: Batch, flat: bool) -> Mapping[str, torch.Tensor]:
        outputs: Mapping[str, torch.Tensor] = module(
            **as_tensors((flatten(batch, self.head) if flat else batch).inputs, self.device)
        )
        return outputs

    @contextlib.contextmanager
    def _computing(self, compute: torch.dtype | None) -> Iterator[None]:
        with self._undisturbed(), plainly(), torch.inference_mode(), autocast(self.device, compute):
            yield

    def _undisturbed(self) -> contextlib.AbstractContextManager[Any]:
        """Alone on a GPU, whose fp32 products an engine may set. On a CPU beside engines, until one changes what this relies on."""
        if self.device.type == "cpu" and torch.backends.mkldnn.matmul.fp32_precision in ("none", "ieee"):
            return sharing()
        return computing(matmul="ieee")

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """See `Embeds.embed`. A runner loaded with a task reads the backbone a second time when first asked."""
        with self._loading:
            if self._embedder is None:
                self._embedder = TorchRunner(self.artifact, None, self.device, self.options)
            embedder = self._embedder
        return embedder._embedded(texts)

    def _embedded(self, texts: Sequence[str]) -> np.ndarray:
        """Batches of neighbours in length, longest first; vectors in the order of the texts."""
        processor = self.artifact.model.processor
        rows = [processor.encode(text, max_length=processor.max_length).arrays for text in texts]
        lengths = np.array([len(row["input_ids"]) for row in rows])
        if not lengths.all():
            raise DataError(f"text {int(lengths.argmin())} gives no token: there is nothing to embed")
        order, found, at = np.argsort(-lengths, kind="stable"), [], 0
        while at < len(order):
            chosen = order[at : at + max(1, self.batch_tokens // int(lengths[order[at]]))]
            found.append(self.forward(self._batch([rows[n] for n in chosen]))["embedding"])
            at += len(chosen)
        if not found:
            return np.zeros((0, 0), np.float32)
        vectors = np.concatenate(found)
        return vectors[np.argsort(order)]

    def _batch(self, rows: Sequence[Mapping[str, np.ndarray]]) -> Batch:
        """Rows, longest first, padded."""
        fill, length = self.artifact.model.processor.fill, len(rows[0]["input_ids"])
        inputs = {name: np.full((len(rows), length), fill[name], np.int64) for name in rows[0]}
        inputs["attention_mask"] = np.zeros((len(rows), length), np.int64)
        for n, row in enumerate(rows):
            for name, values in row.items():
                inputs[name][n, : len(values)] = values
            inputs["attention_mask"][n, : len(row["input_ids"])] = 1
        none = np.arange(len(rows))[:, None]
        return Batch(inputs, {}, none, none, {})

    def close(self) -> None:
        """See `Runner.close`."""
        self.module = torch.nn.Module()
        self._embedder = None
        self.__dict__.pop("_loop", None)
