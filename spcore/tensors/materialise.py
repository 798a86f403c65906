"""A module on the meta device given its values: stored tensors where there are any, else seeded initialisation.

New parameters have an address: each leaf module is initialised whole, on the CPU, from (seed, module path), so the values are
the same on every engine and at every layout, and the process's generator is untouched.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field

import torch

from spcore.errors import ArtifactError
from spcore.interfaces.model import Anatomy, Head, LanguageModel
from spcore.tensors import pages, rng
from spcore.tensors.pieces import Cutting
from spcore.tensors.sharding import put


@dataclass
class LoadReport:
    """Names: taken from the model's weights, initialised anew, stored but not used."""

    loaded: list[str] = field(default_factory=list)
    initialised: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)


def materialise(
    module: torch.nn.Module,
    model: LanguageModel,
    head: Head,
    seed: int,
    device: torch.device | str = "cpu",
    *,
    cuttings: Mapping[str, Cutting] | None = None,
    rank: int = 0,
    together: bool = False,
) -> LoadReport:
    """Give a meta module storage on `device` and values; ties and dtypes are kept. Of a parameter that is sharded already, this rank's
    part alone is stored: one whole tensor at a time passes through. cuttings: by name, of plain tensors of which the module has the
    shapes of `rank`'s pieces. together: on the CPU the tensors lie side by side (`pages.lay_out`). Raises ArtifactError where the model has
    weights and a parameter of its backbone is missing or has another shape."""
    pieces = Pieces(cuttings or {}, rank)
    anatomy = model.anatomy(head)
    module.to_empty(device=device)
    tie(module, anatomy)
    own = named_tensors(module, anatomy.tied)
    if together:
        pages.lay_out(own.values())
    report = LoadReport()
    with torch.no_grad():
        for name, tensor in _stored(report, {n: pieces.whole(n, t) for n, t in own.items()}, model, anatomy):
            put(own[name], pieces.of(name, tensor))
        missing = set(own).difference(report.loaded)
        whole = model.build(head) if cuttings else module  # what is cut is drawn whole, from a module of whole shapes
        for name, tensor in _leaves(whole, model, seed, missing.__contains__):
            put(own[name], pieces.of(name, tensor))
            report.initialised.append(name)
    _check_lost(report, named_parameters(module, anatomy.tied), model, anatomy)
    return report


def _check_lost(
    report: LoadReport, parameters: Mapping[str, torch.nn.Parameter], model: LanguageModel, anatomy: Anatomy
) -> None:
    """Raise ArtifactError where a model that has weights lacks some that it must have."""
    # What is not trained is computed (Marian's positions), and a family need not store it.
    lost = [
        n for n in report.initialised if n in parameters and parameters[n].requires_grad and not may_be_new(n, anatomy)
    ]
    if lost and (report.loaded or report.unused):
        more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
        raise ArtifactError(
            f"{model.source}: its weights lack {lost[0]}{more}; the file is incomplete or for another model"
        )


def values(
    model: LanguageModel, head: Head, seed: int, report: LoadReport, needed: Collection[str]
) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, whole CPU tensor) of what `materialise` puts into a module, owners of tied ones alone: for engines whose modules have names
    and shapes of their own. One at a time; what is stored comes all, of what is new only `needed` is made. Raises as `materialise`."""
    module, anatomy = model.build(head), model.anatomy(head)
    shapes = {name: tuple(tensor.shape) for name, tensor in named_tensors(module, anatomy.tied).items()}
    yield from _stored(report, shapes, model, anatomy)
    report.initialised += [name for name in shapes if name not in report.loaded]
    _check_lost(report, named_parameters(module, anatomy.tied), model, anatomy)
    yield from _leaves(module, model, seed, set(report.initialised).intersection(needed).__contains__)


@dataclass(frozen=True)
class Pieces:
    """What one rank holds of each tensor: pieces of those in `cuttings`, the others whole."""

    cuttings: Mapping[str, Cutting]
    rank: int

    def of(self, name: str, whole: torch.Tensor) -> torch.Tensor:
        """The rank's part of a whole tensor."""
        return self.cuttings[name].take(whole, self.rank) if name in self.cuttings else whole

    def whole(self, name: str, mine: torch.Tensor) -> tuple[int, ...]:
        """The shape of the whole."""
        return self.cuttings[name].shape if name in self.cuttings else tuple(mine.shape)


def frozen(
    model: LanguageModel,
    head: Head,
    device: torch.device | str = "cpu",
    *,
    trained: bool = True,
    dtype: str = "float32",
) -> torch.nn.Module:
    """A module with its weights, to be run and not trained. trained: the weights have the head's too. dtype: of the parameters. Raises
    ArtifactError where they lack a part."""
    module = model.build(head, dtype)
    report = materialise(module, model, head, 0, device, together=True)
    known = named_parameters(module, model.anatomy(head).tied)
    lost = [name for name in report.initialised if trained and name in known and known[name].requires_grad]
    if lost:
        raise ArtifactError(f"{model.source}: its weights lack {lost[0]}; the model was not trained for this task")
    return module.eval().requires_grad_(False)


def _stored(
    report: LoadReport, wanted: Mapping[str, tuple[int, ...]], model: LanguageModel, anatomy: Anatomy
) -> Iterator[tuple[str, torch.Tensor]]:
    """(owner's name, tensor) of the stored tensors that have a place, in `wanted` by name and shape. An alias counts as its owner: some
    files hold a tied tensor under the alias, others under both."""
    for name, tensor in model.weights():
        owner = anatomy.tied.get(name, name)
        shape = wanted.get(owner)
        if shape == tuple(tensor.shape):
            if owner == name or owner not in report.loaded:
                yield owner, tensor
            if owner not in report.loaded:
                report.loaded.append(owner)
        elif shape is None or may_be_new(owner, anatomy):
            report.unused.append(name)
        else:
            raise ArtifactError(
                f"{model.source}: {name} is {tuple(tensor.shape)} there, the configuration says {shape}"
            )


def may_be_new(name: str, anatomy: Anatomy) -> bool:
    """Whether a tensor may be new when a model is given a head: the head's own, and a pooler that pretraining did not keep."""
    if not anatomy.base and anatomy.head:
        return name.startswith(tuple(f"{path}." for path in anatomy.head))
    return not name.startswith(f"{anatomy.base}.") or name.startswith(f"{anatomy.base}.pooler.")


def _leaves(
    module: torch.nn.Module, model: LanguageModel, seed: int, only: Callable[[str], bool]
) -> Iterator[tuple[str, torch.Tensor]]:
    for path, leaf in module.named_modules():
        names = {f"{path}.{n}" if path else n: n for n in _direct(leaf)}
        wanted = {name: n for name, n in names.items() if only(name)}
        if not wanted:
            continue
        twin = _alone(leaf)
        with rng.drawing(rng.address(seed, path)), torch.no_grad():
            model.initialise(twin, path)
        values = _direct(twin)
        for name, n in wanted.items():
            value = values[n].detach()
            empty = value.is_floating_point() and bool(value.isnan().any())
            assert not empty, (
                f"model family {model.family!r}: initialise() gives {name} no value ({type(leaf).__name__})"
            )
            yield name, value


def _direct(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A module's own parameters and buffers, not its children's."""
    return {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False))}


def _alone(leaf: torch.nn.Module) -> torch.nn.Module:
    """A copy of a module on the CPU, without its children. Floats are NaN, so that one left without a value shows."""

    def empty(tensor: torch.Tensor) -> torch.Tensor:
        made = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
        return made.fill_(torch.nan if made.is_floating_point() else 0)

    twin = object.__new__(type(leaf))  # past what a class does when one is made, or copied, as a sharded one does
    twin.__dict__ = dict(leaf.__dict__)
    twin._modules = {}
    twin._parameters = {
        n: None if p is None else torch.nn.Parameter(empty(p), p.requires_grad) for n, p in leaf._parameters.items()
    }
    twin._buffers = {n: None if b is None else empty(b) for n, b in leaf._buffers.items()}
    return twin


def tie(module: torch.nn.Module, anatomy: Anatomy) -> None:
    """Make an owner and its aliases one parameter: of those they have, the first in the module's order, which a module that is sharded
    keeps as its own. One that a stage of a pipeline has not is left out."""
    order = {name: n for n, (name, _) in enumerate(module.named_parameters(remove_duplicate=False))}
    groups: dict[str, list[str]] = {}
    for alias, owner in anatomy.tied.items():
        if alias in order:
            groups.setdefault(owner, [owner]).append(alias)
    for names in groups.values():
        first = module.get_parameter(min(names, key=order.__getitem__))
        for name in names:
            path, _, leaf = name.rpartition(".")
            setattr(module.get_submodule(path), leaf, first)


def named_parameters(module: torch.nn.Module, tied: Mapping[str, str]) -> dict[str, torch.nn.Parameter]:
    """Parameters by name, each once: of tied ones the owner, wherever it stands."""
    return {n: p for n, p in module.named_parameters(remove_duplicate=False) if n not in tied}


def named_tensors(module: torch.nn.Module, tied: Mapping[str, str]) -> dict[str, torch.Tensor]:
    """`named_parameters` and all buffers."""
    return {**named_parameters(module, tied), **dict(module.named_buffers())}
