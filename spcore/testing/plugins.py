"""`check_plugin`: every suite that fits, on every component of a plugin."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any

from spcore.components import Component, Plugin, Registry
from spcore.errors import ComponentError, unknown
from spcore.testing import suites
from spcore.testing.checks import Check, Where, run_checks
from spcore.testing.report import Finding, Report, Skipped
from spcore.testing.suites import component as component_suite

_SUITES = {
    "adapter": "adapter:check_adapter", "constraint": "constraint:check_constraint", "dataset": "dataset:check_dataset", "harness": "harness:check_harness", "launcher": "launcher:check_launcher",
    "logger": "logger:check_logger", "model": "model:check_model", "optimizer": "optimizer:check_optimizer",
    "precision": "precision:check_precision", "runtime": "runtime:check_runtime", "schedule": "optimizer:check_schedule",
    "strategy": "strategy:check_strategy", "task": "task:check_task",
}  # fmt: skip


def check_plugin(
    registry: Registry, plugin: str | None = None, *, options: Mapping[str, Mapping[str, Any]] | None = None
) -> Report:
    """Check a plugin's components, or those of all plugins. Raises ComponentError for a name that is no plugin's.

    options: "kind/name" -> the component's options, for parts that cannot be made without (the `source` of a model or a
    data set). What cannot be checked is reported with the reason.
    """
    plugins = {p.name: p for p in registry.plugins()}
    if plugin is not None and plugin not in plugins:
        raise ComponentError(unknown("plugin", plugin, plugins))
    report = Report()
    for found in plugins.values() if plugin is None else [plugins[plugin]]:
        report.add(_check_one(registry, found, options or {}))
    return report


def all_checks() -> dict[str, str]:
    """Name -> meaning of every check there is."""
    found: dict[str, str] = {}
    for module in pkgutil.iter_modules(suites.__path__, f"{suites.__name__}."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, Check):
                found[value.name] = value.meaning
    return dict(sorted(found.items()))


def _check_one(registry: Registry, plugin: Plugin, options: Mapping[str, Mapping[str, Any]]) -> Report:
    if plugin.error is not None:
        return Report(
            [("plugin", "plugin.opens")],
            [Finding(plugin.name, "plugin", "plugin.opens", plugin.error, "a plugin that opens")],
        )
    report = run_checks(component_suite.PLUGIN_CHECKS, plugin, Where(plugin.name, "plugin"))
    for component in plugin.components:
        report.add(_check_component(registry, plugin, component, options.get(f"{component.kind}/{component.name}")))
    return report


def _check_component(
    registry: Registry, plugin: Plugin, component: Component, options: Mapping[str, Any] | None
) -> Report:
    where = Where(plugin.name, f"{component.kind}/{component.name}")
    case = component_suite.ComponentCase(registry, plugin.name, component, options)
    report = run_checks(component_suite.COMPONENT_CHECKS, case, where)
    if component.kind not in _SUITES:
        if component.kind not in ("bridge", "command"):
            why = f"there is no suite for kind {component.kind!r}: a plugin's own"
            report.skipped.append(Skipped(where.plugin, where.component, f"{component.kind}.contract", why))
        return report
    if case.part is None:
        return report  # said why
    module, _, function = _SUITES[component.kind].partition(":")
    check_part = getattr(importlib.import_module(f"spcore.testing.suites.{module}"), function)
    given = (
        {"options": options}
        if component.kind == "model"
        else {"name": component.name}
        if component.kind == "precision"
        else {}
    )
    report.add(check_part(case.part, where=where, **given))
    return report
