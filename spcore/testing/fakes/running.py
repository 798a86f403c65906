"""A runtime whose runner has every ability."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from spcore.errors import RefusalError
from spcore.generation import DecodingLoop
from spcore.interfaces.model import Head, LanguageModel
from spcore.interfaces.runtime import GenerationRequest, PrepareReport, Runner, Runtime, Samples, Token
from spcore.interfaces.task import Batch, BoundTask
from spcore.testing.fakes.decoder import FakeDecoder
from spcore.testing.fakes.outputs import fake_outputs

if TYPE_CHECKING:
    from spcore.artifact import Artifact


class FakeRuntime(Runtime):
    """Kind `runtime`."""

    generates = True

    def prepare(
        self,
        artifact: Artifact,
        task: BoundTask,
        options: Mapping[str, Any],
        data: Mapping[str, Samples] = MappingProxyType({}),
    ) -> PrepareReport:
        """Write a file with the names of the outputs."""
        file = artifact.folder / "fake_runtime.json"
        file.write_text(json.dumps(sorted(task.head.outputs)))
        return PrepareReport((file.name,), {"bytes": float(file.stat().st_size)}, ("nothing was exported",))

    def load(self, artifact: Artifact, task: BoundTask | None, device: str) -> FakeRunner:
        """A runner. Raises RefusalError for a device that is not the CPU."""
        if device not in ("auto", "cpu"):
            raise RefusalError(f"runtime 'fake': device {device!r}, it runs on the CPU")
        return FakeRunner(artifact.model, task.head if task is not None else None)


class FakeRunner(Runner):
    """`Forwards`, `Embeds`, `Generates`, `Decodes` and, with a head on the vocabulary, `Scores`, all pure functions of the tokens. head: None
    gives no `forward`."""

    provider = "numpy"
    admission: Literal["continuous", "batch"] = "continuous"
    batch_tokens = 256

    def __init__(self, model: LanguageModel, head: Head | None) -> None:
        self.model, self.head = model, head
        own = {"forward"} if head is not None else set()
        own |= {"score"} if head is not None and head.kind == "vocabulary" else set()
        self.capabilities = frozenset({"embed", "generate", "decode"} | own)
        self._size = model.processor.vocabulary_size
        self._decoder = FakeDecoder(length=model.processor.max_length or 32, vocabulary=self._size)
        self._loop = DecodingLoop(self._decoder, prefill_tokens=8)
        self.capacity = self._decoder.capacity
        self.closed = False

    def forward(self, batch: Batch) -> dict[str, np.ndarray]:
        """Outputs by the names of the head."""
        assert self.head is not None, "loaded without a task"
        return fake_outputs(batch, self.head, self._size)

    def score(self, batch: Batch, places: np.ndarray, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of what `forward` gives."""
        logits = self.forward(batch)["logits"][tuple(places.T)].astype(np.float64)
        logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        return logprobs[np.arange(len(tokens)), tokens].astype(np.float32), logits.argmax(-1) == tokens

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """[rows, 8]: mean over the tokens of a vector that stands for a token."""
        table = np.random.default_rng(0).standard_normal((self._size, 8))
        ids = [self.model.processor.encode(text).arrays["input_ids"] for text in texts]
        rows = [table[i].mean(0) for i in ids]
        return np.stack(rows).astype(np.float32) if rows else np.empty((0, 8), np.float32)

    def submit(self, request: GenerationRequest) -> int:
        """Queue a request."""
        return self._loop.submit(request)

    def events(self) -> Iterator[Token]:
        """Tokens as they come."""
        return self._loop.events()

    def cancel(self, request: int, sample: int | None = None) -> None:
        """End a request, or a sample of it."""
        self._loop.cancel(request, sample)

    def prefill(self, rows: Sequence[Mapping[str, np.ndarray]], slots: Sequence[int]) -> np.ndarray:
        """As the decoder."""
        return self._decoder.prefill(rows, slots)

    def decode(self, ids: Sequence[int], slots: Sequence[int]) -> np.ndarray:
        """As the decoder."""
        return self._decoder.decode(ids, slots)

    def copy(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """As the decoder."""
        self._decoder.copy(sources, targets)

    def crop(self, slots: Sequence[int], lengths: Sequence[int]) -> None:
        """As the decoder."""
        self._decoder.crop(slots, lengths)

    def free(self, slots: Sequence[int]) -> None:
        """As the decoder."""
        self._decoder.free(slots)

    def close(self) -> None:
        """Forget all requests."""
        self._loop.close()
        self.closed = True
