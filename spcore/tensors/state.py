"""An engine's training state as one safetensors file: tensors of the model, optimizer state by parameter name, scaler, random
generators. Nothing is pickled."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from spcore.errors import CheckpointError
from spcore.interfaces.strategy import Pending
from spcore.tensors.files import write_tensors
from spcore.tensors.rng import State
from spcore.tensors.stepping import Scaler


class Done:
    """A `Pending` that is over."""

    def wait(self) -> None:
        """Return at once."""


class Writing:
    """A `Pending` that goes on in a thread of its own."""

    def __init__(self, write: Callable[[], None]) -> None:
        pool = ThreadPoolExecutor(1, "checkpoint-file")
        self._written = pool.submit(write)
        pool.shutdown(wait=False)

    def wait(self) -> None:
        """See `Pending.wait`."""
        self._written.result()


def save(
    file: Path,
    tensors: Mapping[str, torch.Tensor],
    optimizer: torch.optim.Optimizer | None,
    scaler: Scaler,
    random: State,
) -> Pending:
    """Write everything. tensors: parameters and buffers by name. Optimizer state tensors go under "optimizer/NAME/KEY", its
    plain numbers into the header. What lies on a device is copied from there at once and written in a thread. Raises OutputError."""
    stored = {f"model/{name}": value for name, value in tensors.items()}
    stored.update({f"random/{name}": value for name, value in random.items()})
    numbers: dict[str, Any] = {"scaler": {"scale": scaler.scale, "good": scaler.good}, "optimizer": {}}
    for name, parameter in tensors.items():
        for key, value in optimizer.state.get(parameter, {}).items() if optimizer is not None else ():
            if isinstance(value, torch.Tensor):
                stored[f"optimizer/{name}/{key}"] = value
            else:
                numbers["optimizer"][f"{name}/{key}"] = value
    header = {"numbers": json.dumps(numbers)}
    if all(value.device.type == "cpu" for value in tensors.values()):
        write_tensors(stored, file, header)
        return Done()
    copies = {name: value.detach().to("cpu", copy=True) for name, value in stored.items()}
    return Writing(lambda: write_tensors(copies, file, header))


def load(
    file: Path,
    tensors: Mapping[str, torch.Tensor],
    optimizer: torch.optim.Optimizer | None,
    scaler: Scaler,
    random: State,
) -> None:
    """Read what `save` wrote, in place. Raises CheckpointError where the file is damaged or for another model."""
    try:
        with safe_open(file, framework="pt") as opened, torch.no_grad():
            names = set(opened.keys())
            numbers = json.loads((opened.metadata() or {}).get("numbers", "null"))
            if numbers is None:
                raise CheckpointError(f"{file}: is no training state of this engine")
            _load_model(file, opened, names, tensors)
            random.update({name: opened.get_tensor(f"random/{name}") for name in random if f"random/{name}" in names})
            if optimizer is not None:
                _load_optimizer(file, opened, names, numbers["optimizer"], tensors, optimizer)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{file}: cannot be read: {error}") from error
    scaler.scale, scaler.good = numbers["scaler"]["scale"], numbers["scaler"]["good"]


def _load_model(file: Path, opened: Any, names: set[str], tensors: Mapping[str, torch.Tensor]) -> None:
    missing = [name for name in tensors if f"model/{name}" not in names]
    if missing:
        raise CheckpointError(f"{file}: has no {missing[0]!r}: it is another model's")
    for name, value in tensors.items():
        stored = opened.get_tensor(f"model/{name}")
        if stored.shape != value.shape:
            found, own = tuple(stored.shape), tuple(value.shape)
            raise CheckpointError(f"{file}: {name!r} is {found} there, the model's is {own}: it is another model's")
        value.copy_(stored)


def _load_optimizer(
    file: Path,
    opened: Any,
    names: set[str],
    numbers: Mapping[str, Any],
    tensors: Mapping[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
) -> None:
    states: dict[str, dict[str, Any]] = {}
    for key in names:
        if key.startswith("optimizer/"):
            name, _, entry = key.removeprefix("optimizer/").rpartition("/")
            states.setdefault(name, {})[entry] = opened.get_tensor(key)
    for key, number in numbers.items():
        name, _, entry = key.rpartition("/")
        states.setdefault(name, {})[entry] = number
    strange = sorted(states.keys() - tensors.keys())
    if strange:
        raise CheckpointError(f"{file}: has the optimizer's state of {strange[0]!r}: it is another model's")
    optimizer.state.clear()
    for name, state in states.items():
        parameter = tensors[name]
        optimizer.state[parameter] = {
            key: _placed(value, parameter) if isinstance(value, torch.Tensor) else value for key, value in state.items()
        }


def _placed(tensor: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """Moments go where the parameter is; counters (0-d) too where it is on a GPU, as fused kernels want them."""
    return tensor.to(parameter.device) if tensor.dim() or parameter.device.type == "cuda" else tensor
