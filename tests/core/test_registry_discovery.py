"""Plugins as installed packages have them: a dist-info folder with entry points beside a module."""

from __future__ import annotations

import importlib.metadata
import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from spcore.components import Plugin, Registry
from spcore.errors import ComponentError

GOOD = """
from spcore.components import Component
from spcore.hooks import hookimpl
SPCORE_API = "1.0"
@hookimpl
def spcore_components():
    return [Component("strategy", "{part}", "{module}_heavy:Thing", "a strategy")]
"""
Install = Callable[..., str]
_numbers = itertools.count()


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Put a package on sys.path: install(body, plugin=..., part=...) -> the plugin's name. `{part}` and `{module}` in the body
    are filled in."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)

    def write(body: str, plugin: str | None = None, part: str = "mine", dist: str | None = None) -> str:
        module = f"sp_fake_{next(_numbers)}"
        plugin, dist = plugin or module, dist or module.replace("_", "-")
        (tmp_path / f"{module}.py").write_text(body.replace("{part}", part).replace("{module}", module))
        info = tmp_path / f"{dist.replace('-', '_')}-2.5.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist}\nVersion: 2.5\n")
        (info / "entry_points.txt").write_text(f"[spcore]\n{plugin} = {module}\n")
        return plugin

    yield write
    for name in set(sys.modules) - before:
        if name.startswith("sp_fake_"):
            del sys.modules[name]


def the(name: str, registry: Registry | None = None) -> Plugin:
    """The plugin of this name as a registry finds it."""
    return next(p for p in (registry or Registry()).plugins() if p.name == name)


def test_installed_plugin_is_found_with_its_distribution(install: Install) -> None:
    name = install(GOOD, part="mine", dist="my-strategies")
    plugin = the(name)
    assert (plugin.error, plugin.distribution, plugin.version) == (None, "my-strategies", "2.5")
    assert [c.name for c in plugin.components] == ["mine"]
    registry = Registry()
    assert (name, plugin.components[0]) in registry.components("strategy")
    assert registry.has("strategy", "mine")
    assert registry.has("strategy", f"{name}:mine")
    assert not registry.has("strategy", "other:mine")
    assert registry.owner("strategy", "mine") == plugin


def test_the_same_entry_point_on_the_path_twice_is_one_plugin(install: Install, tmp_path: Path) -> None:
    """As after an editable install over an older one."""
    name = install(GOOD, dist="twice-installed")
    copy = tmp_path / "twice_installed_copy-2.5.dist-info"
    copy.mkdir()
    for file in (tmp_path / "twice_installed-2.5.dist-info").iterdir():
        (copy / file.name).write_text(file.read_text().replace("twice-installed", "twice-installed-copy"))
    assert [p.name for p in Registry().plugins()].count(name) == 1
    assert Registry().find("strategy", "mine").name == "mine"


def test_a_distribution_may_hold_several_plugins_of_one_name(install: Install) -> None:
    install(GOOD, plugin="same", part="first")
    install(GOOD, plugin="same", part="second")
    found = [p.name for p in Registry().plugins() if p.name.startswith("same")]
    assert found == ["same", "same-2"]
    assert Registry().find("strategy", "second").name == "second"


BROKEN = {
    "import": ("import no_such_module_anywhere", ["ModuleNotFoundError", "no_such_module_anywhere"]),
    "syntax": ("def broken(:\n  pass", ["SyntaxError", "line 1"]),
    "exit": ("import sys\nsys.exit(3)", ["SystemExit: 3"]),
    "own base exception": ("class Halt(BaseException): pass\nraise Halt('stop here')", ["Halt: stop here"]),
    "attribute": ("import os\nos.no_such", ["AttributeError", "no_such"]),
    "no api": (GOOD.replace('SPCORE_API = "1.0"', ""), ["states no SPCORE_API", '"1.0"']),
    "api as a number": (GOOD.replace('"1.0"', "1.0"), ["states no SPCORE_API"]),
    "newer minor": (GOOD.replace('"1.0"', '"1.7"'), ["written for API 1.7", "this is API 1.0"]),
    "other major": (GOOD.replace('"1.0"', '"2.0"'), ["written for API 2.0", "this is API 1.0"]),
    "older major": (GOOD.replace('"1.0"', '"0.9"'), ["written for API 0.9", "this is API 1.0"]),
    "no component": (GOOD.replace("return [", "return ['text'] + ["), ["'text'", "no Component"]),
    "not a list": (GOOD.replace("return [", "return 5 or ["), ["TypeError", "int"]),
    "raising hook": (
        GOOD.replace("    return", "    raise RuntimeError('no licence')\n    return"),
        ["RuntimeError: no licence"],
    ),
    "exiting hook": (GOOD.replace("    return", "    raise SystemExit('bye')\n    return"), ["SystemExit: bye"]),
    "misspelt hook": (GOOD.replace("spcore_components", "spcore_component"), ["unknown hook 'spcore_component'"]),
    "misspelt argument": (GOOD.replace("components()", "components(registri)"), ["spcore_components", "registri"]),
    "forgotten marker": (GOOD.replace("@hookimpl\n", ""), ["@hookimpl"]),
    "bad component name": (GOOD.replace("{part}", "My Part"), ["'My Part'", "lower-case"]),
    "bad target": (GOOD.replace("_heavy:Thing", "_heavy.Thing"), ["_heavy.Thing", "package.module:attribute"]),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plugin_says_why_and_hurts_nobody(case: str, install: Install) -> None:
    body, words = BROKEN[case]
    broken, fine = install(body), install(GOOD, part="fine")
    registry = Registry()
    plugin = the(broken, registry)
    assert plugin.components == ()
    assert plugin.error is not None
    assert "\n" not in plugin.error
    for word in words:
        assert word in plugin.error
    assert the(fine, registry).error is None
    assert registry.find("strategy", "fine").name == "fine"
    with pytest.raises(ComponentError) as caught:  # whoever misses the part learns that its plugin is broken
        registry.find("strategy", "elsewhere")
    assert broken in str(caught.value)
    assert plugin.error in str(caught.value)


def test_misspelt_hook_names_plugin_and_hook(install: Install) -> None:
    name = install(GOOD.replace("components()", "components(registri)"), plugin="speller")
    error = the(name).error or ""
    assert all(word in error for word in ("speller", "spcore_components", "registri"))


def test_ctrl_c_while_plugins_load_is_not_swallowed(install: Install) -> None:
    install("raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        Registry().plugins()


def test_two_of_one_name_are_refused_and_both_named(install: Install) -> None:
    install(GOOD, plugin="left", part="twin")
    install(GOOD, plugin="right", part="twin")
    registry = Registry()
    with pytest.raises(ComponentError, match=r"'twin' is offered by 2 plugins\. Write 'left:twin' or 'right:twin'"):
        registry.find("strategy", "twin")
    assert registry.owner("strategy", "right:twin").name == "right"
    assert registry.find("strategy", "left:twin").target != registry.find("strategy", "right:twin").target


def test_an_alias_that_is_anothers_name_is_refused_too(install: Install) -> None:
    install(GOOD, plugin="left", part="twin")
    install(GOOD.replace('"a strategy")', '"a strategy", aliases=("twin",))'), plugin="right", part="other")
    with pytest.raises(ComponentError, match="'left:twin' or 'right:other'"):
        Registry().find("strategy", "twin")
    assert Registry().find("strategy", "right:twin").name == "other"
    assert Registry().find("strategy", "other").name == "other"


def test_a_blocked_plugin_is_not_even_imported(install: Install) -> None:
    name = install(GOOD, plugin="blocked-one", part="mine")
    other = install(GOOD, part="other")
    module = the(name).module
    del sys.modules[module]
    registry = Registry(blocked=["blocked-one"])
    assert not registry.has("strategy", "mine")
    assert registry.has("strategy", "other")
    assert the(other, registry).error is None
    assert module not in sys.modules
    again = Registry.from_spec(registry.spec())
    assert not again.has("strategy", "mine")


def test_building_a_registry_imports_nothing_and_listing_no_implementation(install: Install, tmp_path: Path) -> None:
    name = install(GOOD, part="mine")
    module = next(tmp_path.glob("sp_fake_*.py")).stem
    (tmp_path / f"{module}_heavy.py").write_text("class Thing: pass")
    registry = Registry()
    assert module not in sys.modules, "discovery waits for the first question"
    assert registry.components()
    assert registry.find("strategy", "mine")
    assert the(name, registry).found is sys.modules[module]
    assert f"{module}_heavy" not in sys.modules
    assert registry.load("strategy", "mine").__name__ == "Thing"
    assert f"{module}_heavy" in sys.modules


def test_entry_points_are_left_alone_where_they_are_not_wanted(install: Install) -> None:
    install(GOOD, part="mine")
    assert Registry(entry_points=False).plugins() == []


def test_facts_come_from_plugins_and_a_failing_one_tells_its_error(install: Install) -> None:
    install(GOOD + '\n@hookimpl\ndef spcore_facts():\n    return {"device": "none"}\n')
    broken = install(GOOD + "\n@hookimpl\ndef spcore_facts():\n    raise OSError('no driver')\n", part="other")
    others = {p.name for p in importlib.metadata.entry_points(group="spcore") if not p.value.startswith("sp_fake_")}
    facts = Registry(blocked=others).facts()
    assert facts["device"] == "none"
    assert facts[f"plugin {broken}"] == "failed to tell: OSError: no driver"


def test_components_of_every_installed_plugin_are_listed_without_heavy_imports() -> None:
    """In a process of its own: what is installed here, in-tree plugins included."""
    script = """
import sys
from spcore.components import Registry
found = Registry().components()
owners = {c.target.partition(":")[0] for _, c in found}
loaded = [m for m in ("torch", "numpy", "transformers", "datasets", "pyarrow", "sklearn") if m in sys.modules]
assert not loaded, loaded
implementations = owners & set(sys.modules) - {"spcore.components"}
assert not implementations, implementations
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
