"""A module on the meta device given its values: stored tensors where there are any, else seeded initialisation.

New parameters have an address: each leaf module is initialised whole, on the CPU, from (seed, module path), so the values are
the same on every engine and at every layout, and the global generator is untouched.
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch

from spcore.errors import ArtifactError
from spcore.interfaces.model import Anatomy, Head, LanguageModel


@dataclass
class LoadReport:
    """Names: taken from the model's weights, initialised anew, stored but not used."""

    loaded: list[str] = field(default_factory=list)
    initialised: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)


def materialise(module: torch.nn.Module, model: LanguageModel, head: Head, seed: int, device: torch.device | str = "cpu") -> LoadReport:
    """Give a meta module storage on `device` and values; ties are kept. Raises ArtifactError where the model has weights and a
    tensor of its backbone is missing or has another shape."""
    anatomy = model.anatomy(head)
    module.to_empty(device=device)
    tie(module, anatomy)
    own = named_tensors(module, anatomy)
    report = LoadReport()
    with torch.no_grad():
        for name, tensor in model.weights():
            mine = own.get(name)
            if mine is not None and mine.shape == tensor.shape:
                mine.copy_(tensor)
                report.loaded.append(name)
            elif name in anatomy.tied:
                continue
            elif mine is not None and not belongs_to_head(name, anatomy):
                raise ArtifactError(f"{model.source}: {name} is {tuple(tensor.shape)} there, the configuration says {tuple(mine.shape)}")
            else:
                report.unused.append(name)
        missing = set(own).difference(report.loaded)
        for name, tensor in initial(module, model, seed, missing.__contains__):
            own[name].copy_(tensor)
            report.initialised.append(name)
    parameters = {name for name, _ in module.named_parameters()}
    lost = [n for n in report.initialised if n in parameters and not belongs_to_head(n, anatomy)] if report.loaded else []
    if lost:
        more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
        raise ArtifactError(f"{model.source}: its weights lack {lost[0]}{more}; the file is incomplete or for another model")
    return report


def belongs_to_head(name: str, anatomy: Anatomy) -> bool:
    """Whether a tensor may be new when a model is given a head: the head's own, and a pooler that pretraining did not keep."""
    return not name.startswith(f"{anatomy.base}.") or name.startswith(f"{anatomy.base}.pooler.")


def initial(
    module: torch.nn.Module, model: LanguageModel, seed: int, only: Callable[[str], bool]
) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, whole CPU tensor) of parameters and buffers that `only` names, leaf by leaf, from (seed, module path)."""
    for path, leaf in module.named_modules():
        names = [n for n, _ in (*leaf.named_parameters(recurse=False), *leaf.named_buffers(recurse=False))]
        wanted = [n for n in names if only(f"{path}.{n}" if path else n)]
        if not wanted:
            continue
        twin = _alone(leaf)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(zlib.crc32(f"{seed}/{path}".encode()))
            model.initialise(twin, path)
        values = {**dict(twin.named_parameters(recurse=False)), **dict(twin.named_buffers(recurse=False))}
        for n in wanted:
            yield (f"{path}.{n}" if path else n), values[n].detach()


def _alone(leaf: torch.nn.Module) -> torch.nn.Module:
    """A copy of a module on the CPU, without its children and without values."""
    twin = copy.copy(leaf)
    twin.__dict__ = dict(leaf.__dict__)
    twin._modules = {}
    twin._parameters = {n: None if p is None else torch.nn.Parameter(torch.empty_like(p, device="cpu"), p.requires_grad) for n, p in leaf._parameters.items()}
    twin._buffers = {n: None if b is None else torch.empty_like(b, device="cpu") for n, b in leaf._buffers.items()}
    return twin


def tie(module: torch.nn.Module, anatomy: Anatomy) -> None:
    """Make each alias the owner's very parameter."""
    for alias, owner in anatomy.tied.items():
        path, _, leaf = alias.rpartition(".")
        setattr(module.get_submodule(path), leaf, module.get_parameter(owner))


def named_tensors(module: torch.nn.Module, anatomy: Anatomy) -> dict[str, torch.Tensor]:
    """Parameters and buffers by name; aliases left out."""
    every = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {name: tensor for name, tensor in every.items() if name not in anatomy.tied}
