"""Looking parts up, making them, and registries as objects and as data."""

from __future__ import annotations

import importlib
import sys
import threading
import types
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from core_fakes import fake, registry

from spcore.components import Component, Registry, RegistrySpec, default_registry, describe
from spcore.errors import ComponentError
from spcore.hooks import hookimpl


def plugin(*components: Component, name: str = "handmade") -> types.ModuleType:
    """A plugin module made here."""
    module = types.ModuleType(name)
    module.SPCORE_API = "1.0"  # type: ignore[attr-defined]

    def spcore_components() -> list[Component]:
        return list(components)

    module.spcore_components = hookimpl(spcore_components)  # type: ignore[attr-defined]
    return module


def made(*components: Component) -> Registry:
    found = Registry(entry_points=False)
    found.register(plugin(*components))
    return found


@pytest.mark.parametrize("name", ["Adam", "my part", "", "-x", "a/b", "ä"])
def test_component_names_are_checked(name: str) -> None:
    with pytest.raises(ComponentError, match="lower-case letters"):
        Component("task", name, "a:b", "")


@pytest.mark.parametrize("target", ["module", "module.attribute", "a:b:c", "a b:c", ":c", "a:"])
def test_targets_and_options_are_checked(target: str) -> None:
    with pytest.raises(ComponentError, match=r"task 'x': .* is not of the form 'package.module:attribute'"):
        Component("task", "x", target, "")
    with pytest.raises(ComponentError, match="not of the form"):
        Component("task", "x", "a:b", "", options=target)


def test_unknown_name_says_nearest_and_what_there_is() -> None:
    with pytest.raises(ComponentError) as caught:
        registry().find("optimizer", "adamv")
    assert str(caught.value) == "unknown optimizer 'adamv'; did you mean 'adamw'? known: adamw, sgd"
    with pytest.raises(ComponentError, match="unknown runtime 'torch'; known: none"):
        registry().find("runtime", "torch")
    with pytest.raises(ComponentError, match="unknown optimizer 'nobody:adamw'"):
        registry().find("optimizer", "nobody:adamw")


def test_aliases_lead_to_the_component_and_are_listed_once() -> None:
    parts = registry()
    assert parts.find("optimizer", "adam").name == "adamw"
    assert parts.names("optimizer") == ["adamw", "sgd"]
    assert parts.load("optimizer", "adam") is object


def test_sources_are_claimed_by_scheme_else_by_default() -> None:
    parts = registry()
    assert parts.claiming("model", "gguf:folder/x.gguf").name == "gguf"
    assert parts.claiming("model", "hf:org/name").name == "hub"
    assert parts.claiming("model", "org/name").name == "hub"
    assert parts.claiming("model", "C:else").name == "hub", "a scheme that nobody claims is the default's"
    assert parts.claiming("model", "gguf").name == "hub", "a scheme has a colon"
    with pytest.raises(ComponentError, match="unknown task 'x:y'; known: text-classification"):
        parts.claiming("task", "x:y")


def test_sources_are_claimed_by_suffix_where_no_scheme_stands_before_them() -> None:
    parts = registry()
    parts.add(fake("dataset", "grid", "FilesOptions", suffixes=(".grid", ".grd")), object)
    assert parts.claiming("dataset", "folder/x.grd").name == "grid"
    assert parts.claiming("dataset", "x.grid.csv").name == "files"
    parts.add(fake("dataset", "table", "FilesOptions", schemes=("table",)), object)
    assert parts.claiming("dataset", "table:x.grid").name == "table", "who asks by name is heard first"


def test_missing_distributions_give_the_command_to_type() -> None:
    parts = made(
        Component("strategy", "big", "json:dumps", "", requires=("no-such-engine>=0.16", "pydantic>=2")),
        Component("strategy", "future", "json:dumps", "", requires=("pydantic>=99",)),
        Component("strategy", "elsewhere", "json:dumps", "", requires=("no-such-engine; python_version < '3'",)),
        Component("strategy", "small", "json:dumps", "", requires=("pydantic>=2",)),
    )
    with pytest.raises(
        ComponentError, match=r"strategy 'big' needs no-such-engine>=0\.16: pip install \"no-such-engine>=0\.16\"$"
    ):
        parts.load("strategy", "big")
    assert parts.missing(parts.find("strategy", "future")) == ["pydantic>=99"]
    assert parts.missing(parts.find("strategy", "elsewhere")) == []
    assert callable(parts.load("strategy", "small"))
    assert describe(parts, "strategy", "big")["missing"] == ["no-such-engine>=0.16"]


def test_missing_distributions_name_the_extra_of_the_plugins_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    component = Component("strategy", "big", "json:dumps", "", requires=("no-such-engine",), extra="big")
    module = plugin(component, name="big-plugin")

    class Point:
        name, value, dist = "big", "big_plugin", types.SimpleNamespace(name="slimpajama", version="1")

        def load(self) -> Any:
            return module

    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [Point()])
    with pytest.raises(ComponentError, match=r"needs no-such-engine: pip install \"slimpajama\[big\]\""):
        Registry().load("strategy", "big")


@pytest.mark.parametrize(
    ("target", "words"),
    [("no_such_module:X", ["ModuleNotFoundError", "no_such_module"]), ("json:Nothing", ["AttributeError", "Nothing"])],
)
def test_target_that_cannot_be_imported(target: str, words: list[str]) -> None:
    parts = made(Component("task", "lost", target, "", options=target))
    for ask in (parts.load, parts.options_model):
        with pytest.raises(ComponentError) as caught:
            ask("task", "lost")
        text = str(caught.value)
        assert all(word in text for word in ["task 'lost'", "plugin 'handmade'", f"from {target}", *words])


def test_target_that_exits_while_it_is_imported(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sp_exiting_target.py").write_text("raise SystemExit('no licence')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ComponentError, match="SystemExit: no licence"):
        made(Component("task", "lost", "sp_exiting_target:X", "")).load("task", "lost")


def test_options_that_are_no_model_are_named() -> None:
    parts = made(Component("task", "odd", "json:dumps", "", options="json:dumps"))
    with pytest.raises(
        ComponentError, match="task 'odd' of plugin 'handmade': options json:dumps is no pydantic model"
    ):
        parts.options_model("task", "odd")


def test_parts_are_made_as_their_component_says() -> None:
    class Plain:
        pass

    class WithOptions:
        def __init__(self, options: Any) -> None:
            self.options = options

    parts = Registry(entry_points=False)
    parts.add(fake("task", "plain"), Plain)
    parts.add(fake("optimizer", "rich", "SgdOptions"), WithOptions)
    parts.add(fake("bridge", "table"), {"a": 1})
    assert isinstance(parts.create("task", "plain"), Plain)
    model = parts.options_model("optimizer", "rich")
    assert model is not None
    assert parts.create("optimizer", "rich", model(momentum=0.5)).options.momentum == 0.5
    assert parts.create("bridge", "table") == {"a": 1}
    assert parts.options_model("task", "plain") is None


def test_a_part_by_hand_does_not_stand_in_for_a_plugins() -> None:
    parts = made(Component("task", "same", "json:dumps", ""))
    parts.add(fake("task", "same"), "by hand")
    with pytest.raises(ComponentError, match="offered by 2 plugins"):
        parts.load("task", "same")
    assert parts.load("task", "handmade:same").__name__ == "dumps"
    assert parts.load("task", "by-hand-task-same:same") == "by hand"


def test_nested_attributes_are_reached() -> None:
    assert made(Component("task", "x", "json:JSONDecoder.decode", "")).load("task", "x").__name__ == "decode"


def test_two_registries_side_by_side_know_nothing_of_each_other() -> None:
    left, right = made(fake("task", "left")), made(fake("task", "right"))
    assert (left.names("task"), right.names("task")) == (["left"], ["right"])
    left.register(plugin(fake("task", "late"), name="late"))
    assert left.names("task") == ["late", "left"], "a registry that was asked already takes more"
    assert right.names("task") == ["right"]
    assert default_registry() is default_registry()
    assert default_registry() is not left


def test_a_plugin_may_bring_a_kind_of_its_own() -> None:
    parts = made(fake("tokenizer-trainer", "bpe"))
    assert [c.kind for _, c in parts.components()] == ["tokenizer-trainer"]
    assert parts.find("tokenizer-trainer", "bpe")


PORTABLE = """
from spcore.components import Component
from spcore.hooks import hookimpl
SPCORE_API = "1.0"
class Part:
    "A part."
@hookimpl
def spcore_components():
    return [Component("task", "portable", "sp_portable_plugin:Part", "")]
"""


@pytest.fixture
def portable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A module that other processes with this sys.path have too."""
    (tmp_path / "sp_portable_plugin.py").write_text(PORTABLE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("sp_portable_plugin")
    del sys.modules["sp_portable_plugin"]


def test_a_spec_round_trip_gives_the_same_parts(portable: ModuleType) -> None:
    parts = Registry(entry_points=False, blocked=["other"])
    parts.register(portable, name="mine")
    one = Component("optimizer", "one", "sp_portable_plugin:Part", "")
    parts.add(one, portable.Part)
    spec = parts.spec()
    assert spec == RegistrySpec(False, (("mine", "sp_portable_plugin"),), ("other",), (), (one,))
    again = Registry.from_spec(spec)
    assert again.components() == parts.components()
    assert again.owner("task", "portable").name == "mine"
    assert again.load("optimizer", "one") is portable.Part
    assert again.spec() == spec


@pytest.mark.parametrize("where", ["nowhere", "another"])
def test_what_other_processes_would_not_import_is_local(
    where: str, portable: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In sys.modules by hand, or by a name under which a path leads elsewhere."""
    name = {"nowhere": "sp_by_hand", "another": "sp_portable_plugin"}[where]
    module = plugin(fake("task", "portable"), name=name)
    module.__spec__ = ModuleSpec(name, None, origin="elsewhere.py")
    module.Part = portable.Part  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, name, module)
    parts = Registry(entry_points=False)
    parts.register(module)
    parts.add(Component("optimizer", "one", f"{name}:Part", ""), portable.Part)
    assert parts.spec() == RegistrySpec(False, local=(name, "by-hand-optimizer-one"))


def test_a_module_that_is_gone_elsewhere_is_named() -> None:
    spec = RegistrySpec(False, (("mine", "sp_gone"),))
    with pytest.raises(ComponentError, match="plugin 'mine' cannot be imported from sp_gone: ModuleNotFoundError"):
        Registry.from_spec(spec)


def test_what_has_no_import_path_is_refused_by_name() -> None:
    parts = made(fake("task", "in-a-notebook"))
    parts.add(fake("optimizer", "mine"), object)
    main = plugin(fake("task", "script"), name="__main__")
    parts.register(main)
    assert parts.spec().local == ("handmade", "by-hand-optimizer-mine", "__main__")
    with pytest.raises(
        ComponentError, match=r"without an import path: handmade, by-hand-optimizer-mine, __main__\. Put them"
    ):
        Registry.from_spec(parts.spec())


def test_a_blocked_plugin_by_hand() -> None:
    parts = Registry(entry_points=False, blocked=["handmade"])
    parts.register(plugin(fake("task", "x")))
    assert parts.components() == []


def test_discovery_happens_once_in_many_threads() -> None:
    asked = []

    class Counting:
        SPCORE_API = "1.0"

        @hookimpl
        def spcore_components(self) -> list[Component]:
            asked.append(1)
            return [fake("task", "x")]

    parts = Registry(entry_points=False)
    parts.register(Counting(), name="counting")
    threads = [threading.Thread(target=parts.names, args=("task",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert asked == [1]


def test_describe_tells_options_with_types_and_defaults() -> None:
    told = describe(registry(), "optimizer", "adam")
    assert (told["name"], told["kind"], told["aliases"]) == ("adamw", "optimizer", ["adam"])
    assert told["options"]["lr"]["default"] == 2e-5
    assert told["options"]["lr"]["description"] == "per step"
