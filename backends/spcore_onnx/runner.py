"""An exported model at work."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from spcore.errors import ArtifactError, RefusalError, RunError
from spcore.interfaces.model import Head
from spcore.interfaces.runtime import Runner
from spcore.interfaces.task import Batch
from spcore_onnx import sessions

TOKENS = {True: 512, False: 16384}
"""Padded tokens of a batch where nobody says: on a CPU hidden states stay in its cache, a GPU wants to be filled."""
USUAL = {"token_type_ids": 0, "attention_mask": 1}
"""What models take for an input that a batch does not have."""


class OnnxRunner(Runner):
    """Ability `Forwards`. One session, which threads may share. Raises ArtifactError for a file whose outputs are not the head's."""

    capabilities = frozenset({"forward"})

    def __init__(
        self,
        file: Path,
        head: Head,
        session: ort.InferenceSession,
        *,
        batch_tokens: int | None = None,
    ) -> None:
        self.file, self._outputs = file, list(head.outputs)
        self._session: Any = session
        self.provider = sessions.provider_of(session)
        self.batch_tokens = batch_tokens or TOKENS[self.provider == "cpu"]
        self._inputs = [value.name for value in session.get_inputs()]
        found = [value.name for value in session.get_outputs()]
        if not set(self._outputs) <= set(found):
            raise ArtifactError(
                f"{file}: its outputs are {', '.join(found)}, the task's {', '.join(self._outputs)}; export it again"
            )

    def forward(self, batch: Batch) -> dict[str, np.ndarray]:
        """See `Forwards.forward`."""
        return self.run(batch.inputs)

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """inputs: int64 [S, L] each, by the names of the graph's inputs; others are left out. Raises RunError."""
        shape = inputs["input_ids"].shape
        usual = {name: np.full(shape, value, np.int64) for name, value in USUAL.items() if name not in inputs}
        inputs = {**inputs, **usual}
        lacking = [name for name in self._inputs if name not in inputs]
        if lacking:
            raise RefusalError(f"runtime 'onnx': the batch has no {lacking[0]!r}; it has {', '.join(inputs)}")
        session = self._session
        assert session is not None, "a runner that is closed"
        try:
            found = session.run(self._outputs, {name: inputs[name] for name in self._inputs})
        except sessions.ERRORS as error:
            raise RunError(f"{self.file}: {sessions.told(error)}") from error
        return dict(zip(self._outputs, (value.astype(np.float32, copy=False) for value in found), strict=True))

    def close(self) -> None:
        """See `Runner.close`."""
        self._session = None
