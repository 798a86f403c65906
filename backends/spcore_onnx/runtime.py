"""Runtime `onnx`."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
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
        self._begun: tuple[tuple[Path, str], Any, Future[tuple[Path, Any]]] | None = None

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

    def begin(self, artifact: Artifact, device: str) -> None:
        """See `Runtime.begin`: ONNX Runtime reads and lays out the file in a thread of its own, for which Python is not needed."""
        from spcore_onnx import sessions  # ONNX Runtime is imported before anything competes for the interpreter

        pool = ThreadPoolExecutor(1, thread_name_prefix="spcore_onnx")
        opening = pool.submit(self._opened, artifact, device, sessions)
        self._begun = (artifact.folder, device), artifact.manifest.get(FOLDER), opening
        pool.shutdown(wait=False)  # ends when it is done

    def load(self, artifact: Artifact, task: BoundTask | None, device: str) -> Runner:
        """See `Runtime.load`. Raises ArtifactError for what is not exported or damaged, RefusalError for a provider that is not
        there, and without a task: of a backbone alone nothing is exported."""
        from spcore_onnx import sessions
        from spcore_onnx.runner import OnnxRunner

        if task is None:
            raise RefusalError(
                "runtime 'onnx' gives no embeddings: what is exported has the task's head; use runtime 'torch'"
            )
        begun, self._begun = self._begun, None
        # Not what was opened before it was exported anew.
        if begun is not None and begun[0] == (artifact.folder, device) and begun[1] is artifact.manifest.get(FOLDER):
            file, session = begun[2].result()
        else:
            file, session = self._opened(artifact, device, sessions)
        return OnnxRunner(file, task.head, session, batch_tokens=self.options.batch_tokens)

    def _opened(self, artifact: Artifact, device: str, sessions: Any) -> tuple[Path, Any]:
        """The file that is run, and its session."""
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
            return file, sessions.open_session(file, place, self.options.threads)


def _how(precision: str) -> str:
    more = {"int8": " --quantise dynamic", "float32": ""}.get(precision, f" --dtype {precision}")
    return f"Export it: slimpajama export MODEL --runtime onnx{more}"
