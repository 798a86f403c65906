"""megatron-core on a machine without CUDA: what it takes of `torch.cuda` is answered by the CPU.

Megatron asks for "cuda" by name wherever it makes a tensor. Here such devices become the CPU, pinned memory is plain memory, streams do
nothing and CUDA's random generator is the CPU's. That changes torch for the whole process, so it is installed only where a plan says
`device=cpu`, by the engine, which runs in processes of its own (`Megatron.inline` is False), and taken back when the engine closes. The
engine's own code is the same on either device.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any
from unittest.mock import patch

import torch
from packaging.specifiers import SpecifierSet
from torch.overrides import TorchFunctionMode

from spcore.errors import RefusalError

VERSIONS = SpecifierSet(">=0.16,<0.17")
"""Of megatron-core, whose calls of `torch.cuda` were all looked at."""
_CPU = torch.device("cpu")


def unfit() -> str:
    """Why the CPU may not stand for CUDA here, "" where it may."""
    if torch.cuda.is_available():
        return "this machine has CUDA, of which Megatron would find a part"
    found = version("megatron-core")
    return "" if found in VERSIONS else f"megatron-core {found} was not tried there, {VERSIONS} was"


@contextlib.contextmanager
def installed() -> Iterator[None]:
    """Within, the CPU stands for CUDA in this process. Raises RefusalError, see `unfit`. megatron.core is imported inside at the earliest:
    what it compiles as it is imported would need a compiler of the machine."""
    if why := unfit():
        raise RefusalError(f"strategy 'megatron' on device 'cpu': {why}; use device=cuda")
    importlib.import_module("torch._dynamo")  # which looks through torch.cuda as it is imported
    with contextlib.ExitStack() as stack:
        stack.enter_context(patch.dict(os.environ, TORCHDYNAMO_DISABLE="1"))
        stack.enter_context(patch.multiple(torch.cuda, **_CUDA))
        stack.enter_context(patch.multiple(torch.cuda.random, **_STATES))
        stack.enter_context(_OnCpu())
        from megatron.core.tensor_parallel import random
        from megatron.core.transformer.moe import token_dispatcher

        stack.enter_context(patch.multiple(random, **{f"_{n[:4]}cuda_{n[4:]}": state for n, state in _STATES.items()}))
        stack.enter_context(patch.object(token_dispatcher, "maybe_move_tensor_to_cpu", _there_already))
        quiet = logging.getLogger(random.__name__)
        quiet.addFilter(_expected)
        stack.callback(quiet.removeFilter, _expected)
        yield


class _OnCpu(TorchFunctionMode):  # type: ignore[misc]
    """Calls of torch with "cuda" in them, made on the CPU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.Tensor.cuda:
            return args[0]
        if func is torch.Tensor.type and len(args) == 1 and not kwargs:
            # The optimizers tell formats apart by these names.
            return func(args[0]).replace("torch.", "torch.cuda.", 1)
        if "device" in kwargs:
            kwargs = {**kwargs, "device": _placed(kwargs["device"])}
        if kwargs.get("pin_memory"):
            kwargs = {**kwargs, "pin_memory": False}
        if func is torch.Tensor.to and len(args) > 1 and isinstance(args[1], (str, torch.device)):
            args = (args[0], _placed(args[1]), *args[2:])
        return func(*args, **kwargs)


def _placed(device: Any) -> Any:
    if isinstance(device, int) and not isinstance(device, bool):
        return _CPU
    if isinstance(device, (str, torch.device)) and torch.device(device).type == "cuda":
        return _CPU
    return device


class _Stream:
    """Stands for a stream or an event: everything is done when it is called. What it gives is one too (`record_event`)."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __getattr__(self, name: str) -> Callable[..., _Stream]:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *_, **__: self


def _there_already(tensor: Any, as_numpy: bool = False, record_stream: bool = False) -> Any:
    """Counts of tokens for each expert are tensors on a GPU and numpy's on the CPU, from where messages are sized."""
    return tensor.numpy() if as_numpy and isinstance(tensor, torch.Tensor) else tensor


def _nothing(*_: Any, **__: Any) -> None: ...


_STATES: dict[str, Any] = {
    "get_rng_state": lambda *_, **__: torch.get_rng_state(),
    "set_rng_state": lambda state, *_, **__: torch.set_rng_state(state),
}
_CUDA: dict[str, Any] = {
    "current_device": lambda: _CPU,
    "set_device": _nothing,
    "synchronize": _nothing,
    "current_stream": _Stream,
    "default_stream": _Stream,
    "Stream": _Stream,
    "Event": _Stream,
    "stream": lambda *_: contextlib.nullcontext(),
    "manual_seed": lambda seed: torch.default_generator.manual_seed(int(seed)) and None,
    **_STATES,
}


def _expected(record: logging.LogRecord) -> bool:
    """Megatron warns where the CPU's generator moves along with CUDA's: here it is that one."""
    return "CPU RNG state changed" not in record.getMessage()
