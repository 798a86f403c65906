"""Files opened by ONNX Runtime: which provider, how many threads, and its errors in one line."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as raised

from spcore.errors import ArtifactError, RefusalError
from spcore.files import reason
from spcore_onnx import machine

ERRORS: tuple[type[Exception], ...] = tuple(
    {error for error in vars(raised).values() if isinstance(error, type) and issubclass(error, Exception)}
    | {RuntimeError, ValueError}
)
"""What ONNX Runtime raises; its own errors have no common base."""
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
_SLOWER: dict[str, list[str]] = {"cpu": ["SkipLayerNormFusion"], "cuda": [], "tensorrt": []}
"""Optimisers of ONNX Runtime whose operator is slower there than what it replaces (measured: 3.4 times)."""
AGAIN = "Export it: slimpajama export MODEL --runtime onnx"
SMALLEST = 64
"""Bytes; no model is smaller."""


@dataclass(frozen=True)
class Place:
    """Where a session runs. provider: "cpu", "cuda", "tensorrt". number: of the GPU."""

    provider: str
    number: int = 0
    allow_fallback: bool = False


def placed(device: str, provider: str, allow_fallback: bool) -> Place:
    """The place for a device ("auto", "cpu", "cuda", "cuda:1") and a provider ("auto" or a key of PROVIDERS). Raises RefusalError
    where they contradict each other or the installed ONNX Runtime has no such provider."""
    kind, _, number = device.partition(":")
    gpu = kind == "cuda" or provider in ("cuda", "tensorrt")
    if (kind == "cuda" and provider == "cpu") or (kind == "cpu" and provider in ("cuda", "tensorrt")):
        raise RefusalError(
            f"runtime 'onnx': provider {provider!r} does not run on device {device!r}; leave one of them out"
        )
    available = ort.get_available_providers()
    if kind == "auto" and provider == "auto":
        gpu = PROVIDERS["cuda"] in available and machine.gpus() > 0
    wanted = provider if provider != "auto" else "cuda" if gpu else "cpu"
    if PROVIDERS[wanted] not in available:
        if allow_fallback:
            return Place("cpu")
        raise RefusalError(
            f"runtime 'onnx': the installed ONNX Runtime has no provider {wanted!r}; it has {_names(available)}",
            hint="pip install 'slimpajama[onnx-gpu]', use device=cpu, or allow_fallback=true",
        )
    return Place(wanted, int(number or 0), allow_fallback)


def _names(available: list[str]) -> str:
    known = {full: short for short, full in PROVIDERS.items()}
    return ", ".join(known.get(name, name) for name in available)


def open_session(file: Path, place: Place, threads: int | None = None) -> ort.InferenceSession:
    """A session on an .onnx file. Raises ArtifactError for a file that is none, or that reaches outside its folder; RefusalError
    where the provider asked for is not the one that runs."""
    _looked_at(file)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads or machine.threads()
    options.inter_op_num_threads = 1

    def opened(providers: list[Any]) -> ort.InferenceSession:
        # Its own way of falling back prints.
        return ort.InferenceSession(
            str(file), options, providers=providers, disabled_optimizers=_SLOWER[place.provider], enable_fallback=0
        )

    why = ""
    with translated(file):
        try:
            session = opened(_chain(place))
        except ERRORS as error:
            if place.provider == "cpu":
                raise
            session, why = opened(_chain(Place("cpu"))), f" ({told(error)})"  # raises where it is the file's fault
    in_use = session.get_providers()[0]
    if in_use != PROVIDERS[place.provider] and not place.allow_fallback:
        raise RefusalError(
            f"runtime 'onnx': provider {place.provider!r} did not start{why}, ONNX Runtime would run on {_names([in_use])!r} instead",
            hint="See `slimpajama doctor`; use device=cpu, or allow_fallback=true",
        )
    return session


def _chain(place: Place) -> list[Any]:
    """Providers in order of preference; what one lacks the next computes."""
    cuda = (PROVIDERS["cuda"], {"device_id": str(place.number)})
    chains: dict[str, list[Any]] = {
        "cpu": [],
        "cuda": [cuda],
        "tensorrt": [(PROVIDERS["tensorrt"], {"device_id": str(place.number)}), cuda],
    }
    there = ort.get_available_providers()  # it warns of others
    return [*(link for link in chains[place.provider] if link[0] in there), PROVIDERS["cpu"]]


def provider_of(session: ort.InferenceSession) -> str:
    """The provider that really runs, for people: "cpu", "cuda", ..."""
    return _names(session.get_providers()[:1])


def _looked_at(file: Path) -> None:
    try:
        size = file.stat().st_size
    except FileNotFoundError:
        raise ArtifactError(f"{file}: not there", hint=AGAIN) from None
    except OSError as error:
        raise ArtifactError(f"{file}: cannot be read: {reason(error)}") from error
    if size < SMALLEST:
        raise ArtifactError(f"{file}: {size} bytes are no ONNX model", hint=AGAIN)


@contextlib.contextmanager
def translated(file: Path) -> Iterator[None]:
    """ONNX Runtime's errors about a file as one line."""
    try:
        yield
    except MemoryError as error:
        raise ArtifactError(f"{file}: not run: it asks for more memory than there is") from error
    except ERRORS as error:
        found = told(error)
        if "Protobuf parsing failed" in found:
            raise ArtifactError(f"{file}: no ONNX model, or a truncated one", hint=AGAIN) from error
        raise ArtifactError(f"{file}: ONNX Runtime refuses it: {found}") from error


def told(error: Exception) -> str:
    """The gist of an error of ONNX Runtime: its texts begin with a code and end with a stack or a source place."""
    text = re.sub(r"\S+\.(cc|h):\d+ \S+ ", "", " ".join(str(error).split()))
    if text.startswith("[ONNXRuntimeError]"):
        text = text.split(" : ", 3)[-1]
    return text if len(text) <= 200 else f"{text[:200]}..."
