"""What holds for a plugin's module and for every component, whatever its kind."""

from __future__ import annotations

import os
import subprocess
import sys
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from pydantic import BaseModel, ValidationError

from spcore.components import Component, Plugin, Registry
from spcore.testing.checks import CannotCheck, Check, Wrong, check, shown

HEAVY = ("torch", "numpy", "transformers", "pyarrow", "datasets", "onnxruntime", "jax", "tensorflow")
"""What a plugin's module and its options' modules must not import."""


@dataclass
class ComponentCase:
    """A component under test. part: what `component.creates` made, None before and where it could not."""

    registry: Registry
    plugin: str
    component: Component
    options: Mapping[str, Any] | None = None
    part: Any = field(default=None)

    @property
    def name(self) -> str:
        """The name that tells it from others'."""
        return f"{self.plugin}:{self.component.name}"


@check("plugin.light", "importing the plugin's module and its options' modules imports no heavy library")
def plugin_light(plugin: Plugin) -> Iterator[Wrong]:
    """In a process of its own."""
    if not isinstance(plugin.found, ModuleType):
        raise CannotCheck("the plugin was registered by hand and has no import path")
    modules = [plugin.found.__name__, *(c.options.partition(":")[0] for c in plugin.components if c.options)]
    lines = "\n".join(f"import {module}" for module in dict.fromkeys(modules))
    code = f"{lines}\nimport sys\nprint(' '.join(m for m in {HEAVY!r} if m in sys.modules))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        yield Wrong(
            f"{', '.join(modules)} cannot be imported in a fresh process: {last}", "modules that import by themselves"
        )
    for heavy in done.stdout.split():
        yield Wrong(
            f"importing {', '.join(dict.fromkeys(modules))} imports {heavy}", "nothing heavy before a part is used"
        )


@check("component.summary", "the summary is one line of 3 to 120 characters")
def component_summary(case: ComponentCase) -> Iterator[Wrong]:
    """What `plugins list` prints."""
    summary = case.component.summary
    if "\n" in summary or not 3 <= len(summary.strip()) <= 120:
        yield Wrong(f"summary {shown(summary)}", "one line of 3 to 120 characters that says what it is")


@check("component.requires", "requirements are written as pip writes them")
def component_requires(case: ComponentCase) -> Iterator[Wrong]:
    """Parsed by `packaging`."""
    from packaging.requirements import InvalidRequirement, Requirement

    for need in case.component.requires:
        try:
            Requirement(need)
        except InvalidRequirement:
            yield Wrong(f"requires {need!r}", 'a requirement as pip writes it ("numpy>=1.26")')


@check("component.options", "the options' model is frozen and closed, and every field is described")
def component_options(case: ComponentCase) -> Iterator[Wrong]:
    """Models within it, too."""
    model = case.registry.options_model(case.component.kind, case.name)
    if model is None:
        return
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        yield Wrong(f"options {case.component.options} is {shown(model)}", "a pydantic model")
        return
    for part in _models(model, set()):
        if not part.model_config.get("frozen"):
            yield Wrong(f"{part.__name__} can be changed", 'model_config = ConfigDict(frozen=True, extra="forbid")')
        if part.model_config.get("extra") != "forbid":
            yield Wrong(
                f"{part.__name__} takes keys it does not know", 'model_config = ConfigDict(frozen=True, extra="forbid")'
            )
        for name, info in part.model_fields.items():
            if not (info.description or "").strip():
                yield Wrong(
                    f"{part.__name__}.{name} has no description", "Field(..., description=...) that gives the unit"
                )


def _models(annotation: Any, seen: set[Any]) -> Iterator[type[BaseModel]]:
    """The pydantic models in an annotation, each once."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel) and annotation not in seen:
        seen.add(annotation)
        yield annotation
        for info in annotation.model_fields.values():
            yield from _models(info.annotation, seen)
    for argument in typing.get_args(annotation):
        yield from _models(argument, seen)


@check("component.target", "the target can be imported", gate=True)
def component_target(case: ComponentCase) -> Iterator[Wrong]:
    """With every distribution that it needs."""
    missing = case.registry.missing(case.component)
    if missing:
        raise CannotCheck(f"it needs {', '.join(missing)}, which is not installed")
    case.registry.load(case.component.kind, case.name)
    yield from ()


@check("component.creates", "the target, called with its options, gives a part", gate=True)
def component_creates(case: ComponentCase) -> Iterator[Wrong]:
    """Bridges and commands are used as they are."""
    registry, kind, name = case.registry, case.component.kind, case.name
    if registry.missing(case.component):
        raise CannotCheck("its target was not imported")
    if kind in ("bridge", "command"):
        return
    model = registry.options_model(kind, name)
    options = None
    if model is not None:
        try:
            options = model.model_validate(dict(case.options or {}))
        except ValidationError as error:
            needed = ", ".join(".".join(map(str, e["loc"])) or e["msg"] for e in error.errors())
            if case.options is None:
                raise CannotCheck(
                    f"it cannot be made without options: {needed}; give them as options={{'{kind}/{case.component.name}': ...}}"
                ) from error
            raise
    elif case.options:
        yield Wrong(f"options {shown(dict(case.options))} for a component that declares none", "no options")
        return
    case.part = registry.create(kind, name, options)


PLUGIN_CHECKS: tuple[Check, ...] = (plugin_light,)
COMPONENT_CHECKS: tuple[Check, ...] = (
    component_summary, component_requires, component_options, component_target, component_creates,
)  # fmt: skip
