"""Whether an object has all members of a contract, with parameters that callers can use."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from spcore.testing.checks import Wrong

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def members(contract: type) -> tuple[dict[str, Any], list[str]]:
    """Public methods and data members of a contract, its own bases among them."""
    methods: dict[str, Any] = {}
    data: list[str] = []
    for base in reversed(contract.__mro__):
        if not base.__module__.startswith("spcore.interfaces"):
            continue
        methods.update({n: f for n, f in vars(base).items() if inspect.isfunction(f) and not n.startswith("_")})
        data += [n for n in vars(base).get("__annotations__", {}) if not n.startswith("_")]
    return methods, list(dict.fromkeys(data))


def against(part: Any, contract: type, subject: str) -> Iterator[Wrong]:
    """What is missing or cannot be called as the contract says."""
    methods, data = members(contract)
    for name in data:
        if not hasattr(part, name):
            yield Wrong(f"{subject} {type(part).__name__} has no {name!r}", f"the members of {contract.__name__}")
    for name, promised in methods.items():
        found = getattr(part, name, None)
        if not callable(found):
            yield Wrong(f"{subject} {type(part).__name__} has no {name}()", f"{name}{inspect.signature(promised)}")
            continue
        reason = _incompatible(inspect.signature(promised), inspect.signature(found))
        if reason:
            yield Wrong(
                f"{subject} {type(part).__name__}.{name}: {reason}",
                f"{name}{_without_self(inspect.signature(promised))}",
            )


def _without_self(signature: inspect.Signature) -> inspect.Signature:
    parameters = [p.replace(annotation=inspect.Parameter.empty) for n, p in signature.parameters.items() if n != "self"]
    return signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty)


def _incompatible(promised: inspect.Signature, found: inspect.Signature) -> str | None:
    """Why a call that the contract allows would fail; None where it would not."""
    wanted = [p for n, p in promised.parameters.items() if n != "self"]
    have = dict(found.parameters)
    kinds = {p.kind for p in have.values()}
    in_order = [p.name for p in have.values() if p.kind in _POSITIONAL]
    for n, parameter in enumerate(wanted):
        if parameter.kind in _POSITIONAL:
            if n < len(in_order) and in_order[n] == parameter.name:
                continue
            if n >= len(in_order) and inspect.Parameter.VAR_POSITIONAL in kinds:
                continue
            other = (
                f"parameter {n + 1} is {in_order[n]!r}" if n < len(in_order) else f"it takes {len(in_order)} parameters"
            )
            return f"{other}, not {parameter.name!r}"
        if parameter.name not in have and inspect.Parameter.VAR_KEYWORD not in kinds:
            return f"it has no parameter {parameter.name!r}"
    known = {p.name for p in wanted}
    for name, p in have.items():
        variable = p.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        if name not in known and not variable and p.default is inspect.Parameter.empty:
            return f"its parameter {name!r} is not the contract's and has no default"
    return None
