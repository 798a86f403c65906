"""A registry of the embedder's own: the same in child processes, or refused by name before they start."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import logging
import sys
import threading
import types
from typing import Any

import pytest

import slimpajama
from embed import parts
from embed.parts import HALVES, RECIPE, registry_of
from slimpajama import Component, Registry
from spcore.interfaces.logger import Step


def test_parts_by_hand_are_in_child_processes_and_their_log_lines_here(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    found, rates = registry_of(blocked=("loggers",)), list[float]()
    found.add(HALVES, parts.Halves)
    with caplog.at_level(logging.INFO, "slimpajama"):
        result = slimpajama.run(
            RECIPE, registry=found, on_event=lambda e: rates.append(e.lr) if isinstance(e, Step) else None
        )
    assert result.steps == 4
    assert rates == [1e-2, 1e-2, 5e-3, 5e-3]
    told = [(r.name, r.levelname, r.getMessage()) for r in caplog.records if r.name == "slimpajama.halves"]
    steps = [("slimpajama.halves", "INFO", f"rank 0: step {n}") for n in range(4)]
    assert told == [*steps[:2], ("slimpajama.halves", "WARNING", "rank 0: half of the way"), *steps[2:]]
    assert capfd.readouterr() == ("", "")


class Handmade(parts.Halves):
    """In a test, as in a notebook: by another path than it says."""


def local(way: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Registry, str]:
    """A registry with the schedule, registered in a way that other processes cannot follow, and what is to be named."""
    found = registry_of()
    if way == "another target":
        found.add(HALVES, Handmade)
        return found, "by-hand-schedule-halves"
    module = types.ModuleType("sp_in_memory")
    monkeypatch.setitem(sys.modules, "sp_in_memory", module)
    module.Halves = parts.Halves  # type: ignore[attr-defined]
    here = Component("schedule", "halves", "sp_in_memory:Halves", "")
    if way == "a module in memory":
        module.SPCORE_API = "1.0"  # type: ignore[attr-defined]

        def spcore_components() -> list[Component]:
            return [here]

        module.spcore_components = slimpajama.hookimpl(spcore_components)  # type: ignore[attr-defined]
        found.register(module)
        return found, "sp_in_memory"
    found.add(here, parts.Halves)
    return found, "by-hand-schedule-halves"


@pytest.mark.parametrize("way", ["another target", "a part in memory", "a module in memory"])
def test_what_they_could_not_import_is_refused_by_name(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found, name = local(way, monkeypatch)
    before = threading.active_count()
    with pytest.raises(slimpajama.RefusalError, match=f"without an import path: {name}; put them into a module") as no:
        slimpajama.run(RECIPE, registry=found)
    assert "\n" not in str(no.value)
    assert threading.active_count() == before


class _Elsewhere(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a module that only this process has."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(name, self, origin="elsewhere") if name == "sp_elsewhere" else None

    def exec_module(self, module: types.ModuleType) -> None:
        module.Halves = parts.Halves  # type: ignore[attr-defined]


def test_what_they_cannot_import_after_all_is_named_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """An importer of the embedder's own cannot be told from others before."""
    monkeypatch.setattr(sys, "meta_path", [_Elsewhere(), *sys.meta_path])
    module = importlib.import_module("sp_elsewhere")
    monkeypatch.setitem(sys.modules, "sp_elsewhere", module)
    found = registry_of()
    found.add(Component("schedule", "halves", "sp_elsewhere:Halves", ""), module.Halves)
    with pytest.raises(
        slimpajama.ComponentError, match="schedule 'halves' cannot be imported from sp_elsewhere:Halves"
    ) as no:
        slimpajama.run(RECIPE, registry=found)
    assert isinstance(no.value.__cause__, slimpajama.RankError)
    assert "ModuleNotFoundError" in no.value.__cause__.traceback
