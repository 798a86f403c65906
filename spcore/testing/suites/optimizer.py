"""Kinds `optimizer` and `schedule`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from spcore.interfaces.optimizer import GroupKey, Optimizer, Schedule
from spcore.testing.checks import Check, Where, Wrong, check, run_checks, shown
from spcore.testing.contracts import against
from spcore.testing.report import Report

_TOTALS = (1, 2, 7, 100)
_LARGEST = 10.0
_PARAMETERS = {
    "model.embed.weight": (12, 4), "model.layers.0.mix.weight": (4, 4), "model.layers.0.mix.bias": (4,),
    "model.final.weight": (4,), "model.final.bias": (4,), "classifier.weight": (2, 4),
}  # fmt: skip


@check("schedule.contract", "it has the members of Schedule", gate=True)
def schedule_contract(schedule: Any) -> Iterator[Wrong]:
    """Subclass or not."""
    yield from against(schedule, Schedule, "schedule")


@check(
    "schedule.finite",
    "the factor is a finite number of 0 or more at every step of a run, and above 0 at some",
    gate=True,
)
def schedule_finite(schedule: Schedule) -> Iterator[Wrong]:
    """A factor multiplies the learning rate; above 10 it is no factor."""
    for total in _TOTALS:
        factors = [schedule.factor(step, total) for step in range(total)]
        for step, value in enumerate(factors):
            if not isinstance(value, int | float) or not math.isfinite(value) or not 0 <= value <= _LARGEST:
                yield Wrong(
                    f"factor({step}, {total}) = {shown(value)}",
                    f"a finite number from 0 to about 1 (at most {_LARGEST:g})",
                )
                break
        if total > 2 and not any(factors):
            yield Wrong(f"0 at all {total} steps of a run", "a factor that trains")


@check("schedule.pure", "the factor depends on step and total alone")
def schedule_pure(schedule: Schedule) -> Iterator[Wrong]:
    """Asked forwards, backwards, and with another run's steps between."""
    asked = [(step, total) for total in _TOTALS for step in range(total)]
    first = {at: schedule.factor(*at) for at in asked}
    second = {at: schedule.factor(*at) for at in reversed(asked)}
    for at in asked:
        if first[at] != second[at]:
            yield Wrong(f"factor{at} = {first[at]}, asked again {second[at]}", "the same answer each time")
            return


@check("optimizer.contract", "it has the members of Optimizer", gate=True)
def optimizer_contract(optimizer: Any) -> Iterator[Wrong]:
    """Subclass or not; lr is a learning rate, family a name."""
    yield from against(optimizer, Optimizer, "optimizer")
    lr = getattr(optimizer, "lr", 1.0)
    if not isinstance(lr, int | float) or not 0 < lr < math.inf:
        yield Wrong(f"lr = {shown(lr)}", "a finite number above 0")
    family = getattr(optimizer, "family", None)
    if family is not None and not isinstance(family, str):
        yield Wrong(f"family = {shown(family)}", "a name or None")


@check("optimizer.groups", "the group of a parameter depends on its name and whole shape alone", gate=True)
def optimizer_groups(optimizer: Optimizer) -> Iterator[Wrong]:
    """Keys are frozen values that can be compared."""
    first = {name: optimizer.groups(name, shape) for name, shape in _PARAMETERS.items()}
    for name, shape in reversed(_PARAMETERS.items()):
        key = first[name]
        if not isinstance(key, GroupKey):
            yield Wrong(f"groups({name!r}, {shape}) gives {shown(key)}", "a GroupKey")
        elif optimizer.groups(name, shape) != key:
            yield Wrong(f"groups({name!r}, {shape}) changes from one call to the next", "the same answer each time")
        elif not (math.isfinite(key.weight_decay) and key.weight_decay >= 0 and 0 <= key.lr_scale < math.inf):
            yield Wrong(f"groups({name!r}, {shape}) gives {shown(key)}", "weight_decay and lr_scale of 0 or more")


@check("optimizer.builds", "it builds a torch optimizer over the groups it is given, with their settings", gate=True)
def optimizer_builds(optimizer: Optimizer) -> Iterator[Wrong]:
    """Groups keep number, order, weight decay and lr_scale."""
    import torch

    groups, _ = _groups(optimizer)
    given = [(group["weight_decay"], group["lr_scale"], len(group["params"])) for group in groups]
    built = optimizer.build(groups)
    if not isinstance(built, torch.optim.Optimizer):
        yield Wrong(shown(built), "a torch.optim.Optimizer")
        return
    kept = [(g.get("weight_decay"), g.get("lr_scale"), len(g["params"])) for g in built.param_groups]
    if kept != given:
        yield Wrong(f"groups of (weight_decay, lr_scale, parameters) {kept}", f"{given}, as they were given")


@check("optimizer.learns", "it lowers a quadratic, and sets no learning rate of its own")
def optimizer_learns(optimizer: Optimizer) -> Iterator[Wrong]:
    """Thirty steps at the rate that the engine sets; at rate 0 nothing moves."""
    groups, parameters = _groups(optimizer)
    built = optimizer.build(groups)
    still = [p.detach().clone() for p in parameters]
    _steps(built, parameters, 3, lr=0.0)
    if any(not p.equal(q) for p, q in zip(parameters, still, strict=True)):
        yield Wrong("parameters that move at lr 0", "steps proportional to the lr that the engine sets in every group")
    before = _value(parameters)
    _steps(built, parameters, 30, lr=0.01)
    after = _value(parameters)
    if not after < before:
        yield Wrong(f"a quadratic of {before:.4g} that is {after:.4g} after 30 steps at lr 0.01", "a smaller one")


@check("optimizer.resumes", "with its state_dict loaded, another one goes on as if it had never stopped")
def optimizer_resumes(optimizer: Optimizer) -> Iterator[Wrong]:
    """What a checkpoint relies on."""
    import copy

    import torch

    groups, parameters = _groups(optimizer)
    first = optimizer.build(groups)
    _steps(first, parameters, 5, lr=0.01)
    other_groups, others = _groups(optimizer)
    second = optimizer.build(other_groups)
    with torch.no_grad():
        for own, trained in zip(others, parameters, strict=True):
            own.copy_(trained)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    _steps(first, parameters, 3, lr=0.01)
    _steps(second, others, 3, lr=0.01)
    if any(not p.equal(q) for p, q in zip(parameters, others, strict=True)):
        yield Wrong("other parameters after a restart from state_dict()", "the same ones, to the bit")


@check(
    "optimizer.elementwise",
    "where it says that it is elementwise, parts of parameters become what the whole's parts do",
)
def optimizer_elementwise(optimizer: Optimizer) -> Iterator[Wrong]:
    """What engines that shard parameters rely on: cut into their rows and each row a parameter, they end as uncut."""
    import torch

    if not optimizer.elementwise:
        return
    groups, parameters = _groups(optimizer)
    rows = [[torch.nn.Parameter(row.detach().clone()) for row in p] for p in parameters]
    of = {id(p): own for p, own in zip(parameters, rows, strict=True)}
    cut = [{**group, "params": [row for p in group["params"] for row in of[id(p)]]} for group in groups]
    _steps(optimizer.build(groups), parameters, 5, lr=0.01)
    _steps(optimizer.build(cut), [row for own in rows for row in own], 5, lr=0.01)
    for p, own in zip(parameters, rows, strict=True):
        if not torch.allclose(torch.stack(list(own)), p, rtol=1e-5, atol=1e-7):
            yield Wrong(
                f"a parameter of {tuple(p.shape)} that ends otherwise when it is cut into rows", "elementwise = False"
            )
            return


def _groups(optimizer: Optimizer) -> tuple[list[dict[str, Any]], list[Any]]:
    """Param groups as an engine makes them, over seeded parameters."""
    import torch

    random = torch.Generator().manual_seed(0)
    held: dict[GroupKey, list[Any]] = {}
    for name, shape in _PARAMETERS.items():
        parameter = torch.nn.Parameter(torch.randn(shape, generator=random))
        held.setdefault(optimizer.groups(name, shape), []).append(parameter)
    lr = optimizer.lr
    groups = [key.group(params, lr) for key, params in held.items()]
    return groups, [p for params in held.values() for p in params]


def _quadratic(parameters: list[Any]) -> Any:
    return sum(0.5 * ((p - 0.5) ** 2).sum() for p in parameters)


def _value(parameters: list[Any]) -> float:
    return float(_quadratic(parameters).detach())


def _steps(built: Any, parameters: list[Any], count: int, lr: float) -> None:
    for _ in range(count):
        for group in built.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)
        built.zero_grad()
        _quadratic(parameters).backward()
        built.step()


SCHEDULE_CHECKS: tuple[Check, ...] = (schedule_contract, schedule_finite, schedule_pure)
OPTIMIZER_CHECKS: tuple[Check, ...] = (
    optimizer_contract, optimizer_groups, optimizer_builds, optimizer_learns, optimizer_resumes,
    optimizer_elementwise,
)  # fmt: skip


def check_schedule(schedule: Any, *, where: Where = Where()) -> Report:  # noqa: B008 -- frozen
    """Check a schedule."""
    return run_checks(SCHEDULE_CHECKS, schedule, where)


def check_optimizer(optimizer: Any, *, where: Where = Where()) -> Report:  # noqa: B008 -- frozen
    """Check an optimizer; torch on the CPU."""
    return run_checks(OPTIMIZER_CHECKS, optimizer, where)
