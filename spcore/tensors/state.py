"""An engine's training state as one safetensors file: parameters, optimizer state by parameter name, scaler, random generators."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from spcore.errors import CheckpointError

if TYPE_CHECKING:
    from spcore.tensors.engine import Scaler


class Done:
    """A `Pending` that is over."""

    def wait(self) -> None:
        """Return at once."""


def save(file: Path, module: torch.nn.Module, optimizer: torch.optim.Optimizer | None, scaler: Scaler, random: dict[str, torch.Tensor]) -> None:
    """Write everything. The optimizer's state tensors go under "optimizer/NAME/KEY", its plain numbers into the header."""
    tensors: dict[str, torch.Tensor] = {}
    numbers: dict[str, Any] = {"scaler": {"scale": scaler.scale, "good": scaler.good}, "optimizer": {}}
    for name, value in (*module.named_parameters(), *module.named_buffers()):
        tensors[f"model/{name}"] = value.detach()
    for name, value in random.items():
        tensors[f"random/{name}"] = value
    if optimizer is not None:
        for name, parameter in module.named_parameters():
            for key, value in optimizer.state.get(parameter, {}).items():
                if isinstance(value, torch.Tensor):
                    tensors[f"optimizer/{name}/{key}"] = value.detach()
                else:
                    numbers["optimizer"][f"{name}/{key}"] = value
    save_file({k: v.cpu().contiguous().clone() for k, v in tensors.items()}, file, metadata={"numbers": json.dumps(numbers)})


def load(file: Path, module: torch.nn.Module, optimizer: torch.optim.Optimizer | None, scaler: Scaler, random: dict[str, torch.Tensor]) -> None:
    """Read what `save` wrote, in place. Raises CheckpointError where it is for another model."""
    with safe_open(file, framework="pt") as opened, torch.no_grad():
        names = set(opened.keys())
        numbers = json.loads(opened.metadata()["numbers"])
        own = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        missing = [name for name in own if f"model/{name}" not in names]
        if missing:
            raise CheckpointError(f"{file}: has no {missing[0]!r}: it is another model's")
        for name, value in own.items():
            value.copy_(opened.get_tensor(f"model/{name}"))
        for name in random:
            random[name] = opened.get_tensor(f"random/{name}")
        if optimizer is not None:
            for name, parameter in module.named_parameters():
                prefix = f"optimizer/{name}/"
                state = {key[len(prefix) :]: _placed(opened.get_tensor(key), parameter) for key in names if key.startswith(prefix)}
                short = f"{name}/"
                state.update({key[len(short) :]: v for key, v in numbers["optimizer"].items() if key.startswith(short)})
                if state:
                    optimizer.state[parameter] = state
    scaler.scale, scaler.good = numbers["scaler"]["scale"], numbers["scaler"]["good"]


def _placed(tensor: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """Moments go where the parameter is; counters (0-d) stay on the CPU unless a fused kernel wants them beside it."""
    return tensor.to(parameter.device) if tensor.dim() or parameter.device.type == "cuda" else tensor
