"""Runtime `onnx`."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from spcore.artifact import Artifact, verified
from spcore.errors import ArtifactError, RefusalError
from spcore.interfaces.runtime import PrepareReport, Runner, Runtime, Samples
from spcore.interfaces.task import BoundTask
from spcore_onnx.options import FILES, FOLDER, ExportOptions, RuntimeOptions


class OnnxRuntime(Runtime):
    """Runs what `prepare` has exported. `load` imports neither torch nor transformers."""

    portable = True

    def __init__(self, options: RuntimeOptions) -> None:
        self.options = options

    def prepare(
        self,
        artifact: Artifact,
        task: BoundTask,
        options: Mapping[str, Any],
        data: Mapping[str, Samples] = MappingProxyType({}),
    ) -> PrepareReport:
        """See `Runtime.prepare`; options: `ExportOptions`. Raises RefusalError, ArtifactError for a graph whose numbers are not the
        eager model's (nothing is left of it then), OutputError."""
        from spcore.recipe_errors import checked
        from spcore_onnx.export import export

        return export(artifact, task, checked(ExportOptions, options, "export to 'onnx'"), data)

    def variants(self, artifact: Artifact) -> Sequence[Mapping[str, Any]]:
        """One a precision that was exported."""
        known = artifact.manifest.get(FOLDER, {}).get("files", {})
        return tuple({"precision": precision} for precision in FILES if precision in known)

    def load(self, artifact: Artifact, task: BoundTask | None, device: str) -> Runner:
        """See `Runtime.load`. Raises ArtifactError for what is not exported or damaged, RefusalError for a provider that is not
        there, and without a task: of a backbone alone nothing is exported."""
        from spcore_onnx import sessions
        from spcore_onnx.runner import OnnxRunner

        if task is None:
            raise RefusalError(
                "runtime 'onnx' gives no embeddings: what is exported has the task's head; use runtime 'torch'"
            )
        place = sessions.placed(device, self.options.provider, self.options.allow_fallback)
        precision = self.options.precision
        known = artifact.manifest.get(FOLDER, {}).get("files", {})
        if precision not in known:
            there = f"exported are {', '.join(known)}" if known else "nothing is exported"
            raise ArtifactError(f"{artifact.folder}: no {precision} for runtime 'onnx', {there}", hint=_how(precision))
        file = artifact.folder / FOLDER / FILES[precision]
        with contextlib.ExitStack() as stack:
            for path in sorted(file.parent.glob(f"{file.name}*")):  # tensors of large models lie beside
                stack.enter_context(verified(path, artifact.folder))
            return OnnxRunner(
                file, task.head, place, threads=self.options.threads, batch_tokens=self.options.batch_tokens
            )


def _how(precision: str) -> str:
    more = {"int8": " --quantise dynamic", "float32": ""}.get(precision, f" --dtype {precision}")
    return f"Export it: slimpajama export MODEL --runtime onnx{more}"
