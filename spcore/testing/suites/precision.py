"""Kind `precision`."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from spcore.interfaces.precision import Dtype, Fp8Recipe, PrecisionPolicy
from spcore.testing.checks import Check, Where, Wrong, check, run_checks, shown
from spcore.testing.report import Report


@dataclass
class PrecisionCase:
    """A policy under test and the name of its component."""

    policy: Any
    name: str | None


@check("precision.policy", "it is a PrecisionPolicy, which is frozen", gate=True)
def precision_policy(case: PrecisionCase) -> Iterator[Wrong]:
    """Also for what a function of options returns."""
    if not isinstance(case.policy, PrecisionPolicy):
        yield Wrong(shown(case.policy), "a spcore.interfaces.precision.PrecisionPolicy")
        return
    try:
        hash(case.policy)
    except TypeError as error:
        yield Wrong(f"a policy that is not hashable: {error}", "plain frozen values in every field")
    try:
        case.policy.name = case.policy.name  # type: ignore[misc]
    except dataclasses.FrozenInstanceError:
        return
    yield Wrong("a policy that can be changed", "a frozen value")


@check("precision.formats", "every format is one of those the contract names")
def precision_formats(case: PrecisionCase) -> Iterator[Wrong]:
    """Fields by their Literal types."""
    known = typing.get_args(Dtype)
    for name in ("parameter", "compute", "reduction", "state"):
        if getattr(case.policy, name) not in known:
            yield Wrong(f"{name}={getattr(case.policy, name)!r}", f"one of {', '.join(known)}")
    if case.policy.matmul not in ("ieee", "tf32"):
        yield Wrong(f"matmul={case.policy.matmul!r}", "'ieee' or 'tf32'")
    if case.name is not None and case.policy.name != case.name:
        yield Wrong(f"name={case.policy.name!r}", f"the component's, {case.name!r}")
    if case.policy.fp8 is not None and not isinstance(case.policy.fp8, Fp8Recipe):
        yield Wrong(f"fp8={shown(case.policy.fp8)}", "an Fp8Recipe or None")


@check("precision.scaling", "loss scaling goes with float16, and its numbers make sense")
def precision_scaling(case: PrecisionCase) -> Iterator[Wrong]:
    """Micikevicius et al., 2018."""
    scaling = case.policy.loss_scaling
    half = case.policy.compute == "float16"
    if half and scaling is None:
        yield Wrong("compute='float16' without loss_scaling", "LossScaling: small gradients underflow in float16")
    if scaling is None:
        return
    if not half:
        yield Wrong(f"loss_scaling with compute={case.policy.compute!r}", "none: its range is that of float32")
    rules = {
        "initial": 0 < scaling.initial < math.inf, "growth": scaling.growth > 1, "backoff": 0 < scaling.backoff < 1,
        "interval": scaling.interval >= 1,
    }  # fmt: skip
    for name, good in rules.items():
        if not good:
            yield Wrong(
                f"loss_scaling.{name}={getattr(scaling, name)}",
                "initial > 0, growth > 1, 0 < backoff < 1, interval >= 1",
            )


CHECKS: tuple[Check, ...] = (precision_policy, precision_formats, precision_scaling)


def check_precision(policy: Any, *, name: str | None = None, where: Where = Where()) -> Report:  # noqa: B008 -- frozen
    """Check a policy. name: of its component."""
    return run_checks(CHECKS, PrecisionCase(policy, name), where)
