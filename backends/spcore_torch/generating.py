"""Text from a model that runtime `torch` has loaded: the core's decoding loop over the model's own decoder."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch

from spcore.errors import RefusalError, RunError
from spcore.generation import DecodingLoop
from spcore.interfaces.model import Head, LanguageModel, Steps
from spcore.interfaces.runtime import Crops, Decodes
from spcore.tensors.exhaustion import out_of_memory
from spcore.tensors.materialise import frozen
from spcore_torch import kernels
from spcore_torch.options import RuntimeOptions

LANGUAGE = Head("vocabulary", 0, {"logits": ("sequence", "position", "vocabulary")})
_UNBOUNDED = 2048
"""Tokens of a slot where neither the model nor the user sets a limit."""


def writes(model: LanguageModel, head: Head | None) -> bool:
    """Whether a model gives text: by this head, None: by its own."""
    if not isinstance(model, Steps) or (head is not None and head.kind != "vocabulary"):
        return False
    try:
        return model.anatomy(head or LANGUAGE).causal
    except RefusalError:  # a family without a head on the vocabulary
        return False


def loop_over(
    model: LanguageModel,
    module: torch.nn.Module,
    options: RuntimeOptions,
    running: Callable[[], AbstractContextManager[Any]],
) -> DecodingLoop:
    """A loop with the slots and the length that the options say. running: what each call of the decoder is made in. Raises
    RefusalError."""
    assert isinstance(model, Steps), "`writes` was asked"
    decoder = model.decoder(module, *capacity(model, options))
    return DecodingLoop(_Guarded(decoder, running), decoder_start=model.generation().get("decoder_start"))


def capacity(model: LanguageModel, options: RuntimeOptions) -> tuple[int, int, int]:
    """See `Runtime.capacity`."""
    most = model.processor.max_length
    if options.context is not None and most is not None and options.context > most:
        raise RefusalError(f"runtime.context {options.context}: model {model.source!r} has {most} positions")
    length = options.context or most or _UNBOUNDED
    encodes = isinstance(model, Steps) and "decoder_start" in model.generation()
    return options.slots, length, length if encodes else 0


def language_module(
    model: LanguageModel, head: Head, device: torch.device, compute: torch.dtype | None
) -> tuple[torch.nn.Module, bool]:
    """A module that gives text, and whether it computes in the format asked for by itself, and not under autocast: its weights are then
    held in that format. A processor that does not multiply it has it emulated, weight by weight."""
    if compute is not None and (device.type != "cpu" or kernels.has_units(compute)):
        return frozen(model, head, device, dtype=str(compute).removeprefix("torch.")), True
    module = frozen(model, head, device)
    kernels.install(module, compute, device, steps=True)
    return module, compute is None


class _Guarded(Decodes):
    """A decoder each of whose calls is made in a context. Memory that runs out is one line."""

    def __init__(self, decoder: Decodes, running: Callable[[], AbstractContextManager[Any]]) -> None:
        self._decoder, self._running, self.capacity = decoder, running, decoder.capacity
        if isinstance(decoder, Crops):  # an ability that not all have
            self.crop = self._cropped

    @contextlib.contextmanager
    def _calling(self) -> Any:
        try:
            with self._running():
                yield
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            slots, length, _ = self.capacity
            said = f"not enough memory to generate in {slots} slots of up to {length} tokens"
            raise RunError(
                said, hint="Give the runtime fewer slots or a shorter context, or lower max_new_tokens"
            ) from error

    def prefill(self, rows: Sequence[Mapping[str, np.ndarray]], slots: Sequence[int]) -> np.ndarray:
        with self._calling():
            return self._decoder.prefill(rows, slots)

    def decode(self, ids: Sequence[int], slots: Sequence[int]) -> np.ndarray:
        with self._calling():
            return self._decoder.decode(ids, slots)

    def copy(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        with self._calling():
            self._decoder.copy(sources, targets)

    def _cropped(self, slots: Sequence[int], lengths: Sequence[int]) -> None:
        assert isinstance(self._decoder, Crops), "where it was found"
        with self._calling():
            self._decoder.crop(slots, lengths)

    def free(self, slots: Sequence[int]) -> None:
        with self._calling():
            self._decoder.free(slots)
