"""`check_plugin`: components of all sorts, plugins that are broken, and what its report says."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from pydantic import BaseModel, ConfigDict, Field

from spcore.components import Component, Registry
from spcore.errors import ComponentError
from spcore.hooks import hookimpl
from spcore.testing import Finding, Report, Skipped, check_plugin

FACTOR = "spcore.testing.fakes.training:FakeSchedule"
SCHEDULE = {"kind": "schedule", "name": "mine", "target": FACTOR, "summary": "My schedule"}


class _Inner(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    bare: int = 0


class Open(BaseModel):
    """Neither frozen nor closed, and a field without a description."""

    lr: float = 0.1
    inner: _Inner = _Inner()


class Needy(BaseModel):
    """A field without a default."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    source: str = Field(description="a name")


def checked(*components: Component, **options: dict[str, object]) -> Report:
    registry = Registry(entry_points=False)

    @hookimpl
    def spcore_components() -> list[Component]:
        return list(components)

    registry.register(
        SimpleNamespace(SPCORE_API="1.0", spcore_components=spcore_components, __name__="mine"), name="mine"
    )
    return check_plugin(registry, "mine", options={key.replace("_", "/"): value for key, value in options.items()})


def component(**more: object) -> Component:
    return Component(**{**SCHEDULE, **more})  # type: ignore[arg-type]


def test_a_sound_component_has_no_findings() -> None:
    report = checked(component())
    assert report.ok, str(report)
    assert ("schedule/mine", "schedule.pure") in report.ran
    assert report.skipped == [
        Skipped("mine", "plugin", "plugin.light", "the plugin was registered by hand and has no import path")
    ]


@pytest.mark.parametrize("summary", ["", "two\nlines", "x" * 121])
def test_a_summary_is_one_line(summary: str) -> None:
    assert checked(component(summary=summary)).checks() == {"component.summary"}


def test_options_are_frozen_closed_and_described() -> None:
    report = checked(component(target="builtins:dict", kind="mine", options=f"{__name__}:Open"))
    found = [finding.found for finding in report.findings if finding.check == "component.options"]
    assert found == [
        "Open can be changed", "Open takes keys it does not know", "Open.lr has no description", "Open.inner has no description",
        "_Inner.bare has no description",
    ]  # fmt: skip


def test_options_that_are_no_model_are_found() -> None:
    assert "component.options" in checked(component(options="builtins:dict")).checks()
    assert "component.options" in checked(component(options="no.such:Model")).checks()


def test_requirements_are_written_as_pip_writes_them() -> None:
    report = checked(component(requires=("not a requirement!",)))
    assert "component.requires" in report.checks()


def test_a_requirement_that_is_missing_is_a_reason_and_no_finding() -> None:
    report = checked(component(requires=("no-such-distribution>=9",)))
    assert report.ok, str(report)
    why = {item.check: item.why for item in report.skipped}
    assert why["component.target"] == "it needs no-such-distribution>=9, which is not installed"


def test_a_target_that_cannot_be_imported_is_found_and_ends_the_checks() -> None:
    report = checked(component(target="no.such.module:Thing"))
    assert report.checks() == {"component.target"}
    assert "No module named 'no'" in report.findings[0].found
    assert {item.check for item in report.skipped} == {"plugin.light", "component.creates"}


def test_a_target_that_raises_is_found() -> None:
    assert checked(component(target="spcore.errors:RankError")).checks() == {"component.creates"}


def test_a_part_of_the_wrong_kind_is_found() -> None:
    report = checked(component(kind="task"))
    assert report.checks() == {"task.contract"}
    assert "task FakeSchedule has no bind()" in [finding.found for finding in report.findings]


def test_a_part_that_needs_options_is_left_out_with_the_reason() -> None:
    needy = component(kind="dataset", target="builtins:dict", options=f"{__name__}:Needy")
    report = checked(needy)
    assert report.ok, str(report)
    why = [item.why for item in report.skipped if item.check == "component.creates"]
    assert why == ["it cannot be made without options: source; give them as options={'dataset/mine': ...}"]
    assert "component.creates" in checked(needy, dataset_mine={"other": 1}).checks()


def test_a_kind_of_the_plugins_own_is_left_out_with_the_reason() -> None:
    report = checked(component(kind="quantiser", target="builtins:dict"))
    assert report.ok, str(report)
    assert report.skipped[-1].why == "there is no suite for kind 'quantiser': a plugin's own"


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A plugin whose module imports numpy."""
    import importlib

    (tmp_path / "heavy_plugin_for_a_test.py").write_text(
        "import numpy\nfrom spcore.components import Component\nfrom spcore.hooks import hookimpl\nSPCORE_API = '1.0'\n"
        f"@hookimpl\ndef spcore_components():\n    return [Component(**{SCHEDULE!r})]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "heavy_plugin_for_a_test", raising=False)
    return importlib.import_module("heavy_plugin_for_a_test")


def test_a_plugin_that_imports_numpy_is_found(module: ModuleType) -> None:
    registry = Registry(entry_points=False)
    registry.register(module, name="heavy")
    (finding,) = check_plugin(registry).findings
    assert finding == Finding(
        "heavy",
        "plugin",
        "plugin.light",
        "importing heavy_plugin_for_a_test imports numpy",
        "nothing heavy before a part is used",
    )
    assert str(finding) == (
        "plugin 'heavy', plugin, plugin.light: found importing heavy_plugin_for_a_test imports numpy, "
        "expected nothing heavy before a part is used"
    )


def test_a_plugin_that_does_not_open_is_found_and_the_others_are_checked() -> None:
    registry = Registry(entry_points=False)
    registry.register(SimpleNamespace(spcore_components=lambda: []), name="broken")
    registry.add(component(), lambda: __import__("spcore.testing.fakes.training", fromlist=["x"]).FakeSchedule())
    report = check_plugin(registry)
    assert [(f.plugin, f.check) for f in report.findings] == [("broken", "plugin.opens")]
    assert "states no SPCORE_API" in report.findings[0].found
    assert ("schedule/mine", "schedule.finite") in report.ran


def test_an_unknown_plugin_is_an_error_with_the_nearest_name() -> None:
    registry = Registry(entry_points=False)
    registry.add(component(), object)
    with pytest.raises(
        ComponentError, match="unknown plugin 'by-hand-schedule-mime'; did you mean 'by-hand-schedule-mine'"
    ):
        check_plugin(registry, "by-hand-schedule-mime")


def test_the_report_is_readable_and_json() -> None:
    report = checked(component(summary=""))
    assert str(report).splitlines() == [
        "plugin 'mine', schedule/mine, component.summary: found summary '', expected one line of 3 to 120 characters that says what it is",
        "plugin 'mine', plugin, plugin.light: not checked: the plugin was registered by hand and has no import path",
        "8 checks of 1 parts: 1 findings, 1 not checked",
    ]
    data = json.loads(json.dumps(report.to_json()))
    assert (data["checks"], len(data["findings"]), len(data["skipped"])) == (8, 1, 1)
    assert data["findings"][0]["check"] == "component.summary"
