"""Components and the registry that finds them.

A `Component` is a line of data: kind, name, and where the implementation lies. The `Registry` discovers plugins through
entry points, isolates those that are broken, and imports an implementation when it is first used. There is no global
state: `default_registry()` builds one on first call, and an embedder may build others.
"""

from __future__ import annotations

import functools
import importlib.metadata
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import TYPE_CHECKING, Any

from spcore.errors import ComponentError, unknown
from spcore.imports import attribute, importable, reached, undisturbed

if TYPE_CHECKING:
    from pydantic import BaseModel

KINDS = (
    "model", "task", "dataset", "precision", "strategy", "runtime", "adapter", "optimizer", "schedule", "logger",
    "launcher", "bridge", "constraint", "harness", "command",
)  # fmt: skip
GROUP = "spcore"


@dataclass(frozen=True)
class Component:
    """One exchangeable part.

    kind: one of KINDS, or a plugin's own. name: as in recipes; lower case, digits, hyphens. target: "package.module:attribute",
    imported on first use; a class or function is called with the options (or nothing), anything else is the part itself.
    summary: one line for `plugins list`. options: "package.module:Model" of a pydantic model in a light module.
    requires: distributions it needs, as pip writes them ("numpy>=2"), alternatives with | between. aliases: other names. schemes: source
    prefixes it claims ("hf" for "hf:..."). default: what a recipe has that names none of the kind (of loggers, all that are
    so); of models and data sets, what takes sources that nothing else claims. suffixes: ends of sources that it claims (".idx"), where no
    scheme stands before them.
    extra: the extra of its distribution that brings `requires`.
    """

    kind: str
    name: str
    target: str
    summary: str
    options: str | None = None
    requires: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    schemes: tuple[str, ...] = ()
    default: bool = False
    extra: str | None = None
    suffixes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", self.name):
            raise ComponentError(f"component name {self.name!r}: lower-case letters, digits, '.', '_' and '-' only")
        for what in (self.target, *([self.options] if self.options else [])):
            if not re.fullmatch(r"[\w.]+:[\w.]+", what):
                raise ComponentError(
                    f"{self.kind} {self.name!r}: {what!r} is not of the form 'package.module:attribute'"
                )


@dataclass(frozen=True)
class Plugin:
    """A plugin as found. error: why it is broken, None where it works. found: the imported module."""

    name: str
    module: str
    distribution: str | None = None
    version: str | None = None
    error: str | None = None
    components: tuple[Component, ...] = ()
    found: Any = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class RegistrySpec:
    """A registry as data, so that a child process builds the same one. modules: (plugin name, module path) registered by
    hand. local: names of what has no import path; a launcher of child processes refuses those. parts: added one by one."""

    entry_points: bool = True
    modules: tuple[tuple[str, str], ...] = ()
    blocked: tuple[str, ...] = ()
    local: tuple[str, ...] = ()
    parts: tuple[Component, ...] = ()


@dataclass
class _Found:
    plugins: dict[str, Plugin] = field(default_factory=dict)
    by_name: dict[tuple[str, str], list[tuple[str, Component]]] = field(default_factory=dict)


class Registry:
    """Finds components. Building one costs nothing; discovery happens on the first question."""

    def __init__(self, *, entry_points: bool = True, blocked: Iterable[str] = ()) -> None:
        self._entry_points = entry_points
        self._blocked = tuple(blocked)
        self._by_hand: list[tuple[str, Any]] = []
        self._found: _Found | None = None
        self._lock = threading.RLock()

    @classmethod
    def from_spec(cls, spec: RegistrySpec) -> Registry:
        """The registry that `spec` describes. Raises ComponentError where it holds parts without an import path."""
        if spec.local:
            raise ComponentError(
                f"registered by hand and without an import path: {', '.join(spec.local)}",
                hint="Put them into a module that child processes can import, or run in one process",
            )
        registry = cls(entry_points=spec.entry_points, blocked=spec.blocked)
        for name, module in spec.modules:
            registry.register(attribute(module, f"plugin {name!r}"), name=name)
        for part in spec.parts:
            registry.add(part, attribute(part.target, f"{part.kind} {part.name!r}"))
        return registry

    def spec(self) -> RegistrySpec:
        """This registry as data."""
        modules = tuple((n, m.__name__) for n, m in self._by_hand if isinstance(m, ModuleType) and importable(m))
        parts = tuple(m.components[0] for _, m in self._by_hand if isinstance(m, _Handmade) and m.importable)
        known = {n for n, _ in modules} | {_by_hand_name(part) for part in parts}
        local = tuple(n for n, _ in self._by_hand if n not in known)
        return RegistrySpec(self._entry_points, modules, self._blocked, local, parts)

    def register(self, plugin: Any, *, name: str | None = None) -> None:
        """Add a plugin module (or an object with `spcore_components`) by hand."""
        with self._lock:
            self._by_hand.append((name or str(getattr(plugin, "__name__", type(plugin).__name__)), plugin))
            self._found = None

    def add(self, component: Component, target: Any) -> None:
        """Add one part by hand, `target` being the class or value itself: for notebooks and tests. Child processes have it too where
        the component's own target is where it can be imported from."""
        with self._lock:
            self._by_hand.append((_by_hand_name(component), _Handmade((component,), target)))
            self._found = None

    def plugins(self) -> list[Plugin]:
        """All plugins, broken ones too, by name."""
        return sorted(self._discover().plugins.values(), key=lambda p: p.name)

    def components(self, kind: str | None = None) -> list[tuple[str, Component]]:
        """(plugin, component), by kind and name."""
        every = [pc for found in self._discover().by_name.values() for pc in found]
        unique = {(p, c.kind, c.name): (p, c) for p, c in every if kind in (None, c.kind)}
        return [unique[key] for key in sorted(unique, key=lambda k: (k[1], k[2], k[0]))]

    def names(self, kind: str) -> list[str]:
        """Names of a kind."""
        return [component.name for _, component in self.components(kind)]

    def has(self, kind: str, name: str) -> bool:
        """Whether there is such a component."""
        plugin, _, bare = name.rpartition(":")
        return any(not plugin or plugin == p for p, _ in self._discover().by_name.get((kind, bare), []))

    def find(self, kind: str, name: str) -> Component:
        """The component; `name` may be "plugin:name". Raises ComponentError."""
        return self._find(kind, name)[1]

    def owner(self, kind: str, name: str) -> Plugin:
        """The plugin that a component is from."""
        return self._discover().plugins[self._find(kind, name)[0]]

    def claiming(self, kind: str, source: str) -> Component:
        """The component of a kind that takes `source`: by scheme, else by suffix, else the kind's default. Raises ComponentError."""
        scheme, colon, _ = source.partition(":")
        for _, component in self.components(kind):
            if colon and scheme in component.schemes:
                return component
        for _, component in self.components(kind):
            if component.suffixes and source.endswith(component.suffixes):
                return component
        for _, component in self.components(kind):
            if component.default:
                return component
        raise ComponentError(unknown(kind, source, self.names(kind)))

    def bare(self, kind: str, name: str, source: str) -> str:
        """A source without its scheme, where that is one the component claims: "gguf:a.gguf" is "a.gguf"."""
        scheme, colon, rest = source.partition(":")
        return rest if colon and scheme in self.find(kind, name).schemes else source

    def defaults(self, kind: str) -> list[str]:
        """Names of the kind's defaults, "plugin:name" where two plugins offer one."""
        found = [(plugin, c.name) for plugin, c in self.components(kind) if c.default]
        return [name if self.names(kind).count(name) == 1 else f"{plugin}:{name}" for plugin, name in found]

    def load(self, kind: str, name: str) -> Any:
        """The implementation, imported now. Raises ComponentError where it, or a distribution it needs, is missing."""
        plugin, component = self._find(kind, name)
        made = self._discover().plugins[plugin].found
        if isinstance(made, _Handmade):
            return made.target
        self.check_requirements(component)
        return attribute(component.target, f"{kind} {name!r} of plugin {plugin!r}")

    def options_model(self, kind: str, name: str) -> type[BaseModel] | None:
        """The pydantic model of a component's options, None where it has none."""
        plugin, component = self._find(kind, name)
        if component.options is None:
            return None
        model: type[BaseModel] = attribute(component.options, f"options of {kind} {name!r} of plugin {plugin!r}")
        if not hasattr(model, "model_fields"):
            raise ComponentError(
                f"{kind} {name!r} of plugin {plugin!r}: options {component.options} is no pydantic model"
            )
        return model

    def create(self, kind: str, name: str, options: BaseModel | None = None) -> Any:
        """The part: a class or function called with its options, or the value itself."""
        target = self.load(kind, name)
        if not callable(target):
            return target
        return target(options) if self.find(kind, name).options is not None else target()

    def missing(self, component: Component) -> list[str]:
        """Requirements of a component that are not met."""
        return [need for need in component.requires if not _satisfied(need)]

    def facts(self) -> dict[str, str]:
        """What plugins tell `doctor` through the hook `spcore_facts`; one that fails tells its error."""
        facts: dict[str, str] = {}
        for plugin in self.plugins():
            ask = getattr(plugin.found, "spcore_facts", None)
            if ask is not None:
                try:
                    facts.update(ask())
                except (Exception, SystemExit) as error:  # a plugin must not take `doctor` down
                    facts[f"plugin {plugin.name}"] = f"failed to tell: {type(error).__name__}: {error}"
        return facts

    def check_requirements(self, component: Component) -> None:
        """Raise ComponentError with the pip command where a distribution is missing or too old."""
        missing = self.missing(component)
        if missing:
            plugin = self._find(component.kind, component.name)[0]
            distribution = self._discover().plugins[plugin].distribution
            what = f"{distribution}[{component.extra}]" if component.extra and distribution else " ".join(missing)
            raise ComponentError(
                f"{component.kind} {component.name!r} needs {', '.join(missing)}: pip install {_quoted(what)}"
            )

    def _find(self, kind: str, name: str) -> tuple[str, Component]:
        plugin, _, bare = name.rpartition(":")
        found = [pc for pc in self._discover().by_name.get((kind, bare), []) if plugin in ("", pc[0])]
        if len(found) == 1:
            return found[0]
        if found:
            both = " or ".join(f"'{p}:{c.name}'" for p, c in found)
            raise ComponentError(f"{kind} {name!r} is offered by {len(found)} plugins", hint=f"Write {both}")
        broken = [p for p in self.plugins() if p.error]
        hint = "; ".join(f"plugin {p.name!r} is broken: {p.error}" for p in broken) or None
        raise ComponentError(unknown(kind, name, self.names(kind)), hint=hint)

    def _discover(self) -> _Found:
        with self._lock:
            if self._found is None:
                found = _Found()
                for plugin in self._load_plugins():
                    key, n = plugin.name, 1
                    while key in found.plugins:
                        n += 1
                        key = f"{plugin.name}-{n}"
                    found.plugins[key] = replace(plugin, name=key)
                    for component in plugin.components:
                        for name in (component.name, *component.aliases):
                            found.by_name.setdefault((component.kind, name), []).append((key, component))
                self._found = found
            return self._found

    def _load_plugins(self) -> Iterable[Plugin]:
        if self._entry_points:
            points = {(p.name, p.value): p for p in importlib.metadata.entry_points(group=GROUP)}
            for point in sorted(points.values(), key=lambda p: (p.name, p.value)):
                if point.name not in self._blocked:
                    dist = point.dist
                    yield _open_plugin(
                        point.name, point.value, point.load, dist.name if dist else None, dist.version if dist else None
                    )
        for name, plugin in self._by_hand:
            if name not in self._blocked:
                module = getattr(plugin, "__name__", name)
                yield _open_plugin(name, module, functools.partial(_same, plugin), None, None)


@dataclass(frozen=True)
class RegistryBridges:
    """See `spcore.interfaces.bridge.Bridges`: those of a registry."""

    registry: Registry

    def find(self, name: str) -> Any | None:
        """The bridge, None where no plugin has it. Raises ComponentError where two have."""
        return self.registry.load("bridge", name) if self.registry.has("bridge", name) else None

    def names(self, prefix: str) -> list[str]:
        """Names and aliases that begin so."""
        every = {name for _, c in self.registry.components("bridge") for name in (c.name, *c.aliases)}
        return sorted(name for name in every if name.startswith(prefix))


@dataclass(frozen=True)
class _Handmade:
    """A plugin made of one component, for `Registry.add`."""

    components: tuple[Component, ...]
    target: Any

    @property
    def importable(self) -> bool:
        """Whether the component's own paths lead to what was added."""
        component = self.components[0]
        has_options = component.options is None or reached(component.options) is not None
        return has_options and reached(component.target) is self.target


def _by_hand_name(component: Component) -> str:
    return f"by-hand-{component.kind}-{component.name}"


def _same(plugin: Any) -> Any:
    return plugin


def _open_plugin(name: str, module: str, load: Any, dist: str | None, version: str | None) -> Plugin:
    """Import a plugin, check its API version, ask for its components. Whatever it raises is kept as its error: a plugin of
    somebody else's must not take the tool down, so this is the one place where everything is caught (not Ctrl-C)."""
    try:
        with undisturbed():
            plugin = load()
        components = plugin.components if isinstance(plugin, _Handmade) else _ask(name, plugin)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit, a test library's "skip" and the like
        return Plugin(name, module, dist, version, error=" ".join(f"{type(error).__name__}: {error}".split()))
    return Plugin(name, module, dist, version, components=components, found=plugin)


def _ask(name: str, plugin: Any) -> tuple[Component, ...]:
    """The components of an imported plugin, through pluggy, which checks hook names and arguments."""
    import pluggy

    from spcore import hooks

    written_for = getattr(plugin, "SPCORE_API", None)
    if not isinstance(written_for, str) or not re.fullmatch(r"\d+\.\d+", written_for):
        raise ComponentError(f'plugin module states no SPCORE_API = "{hooks.API_VERSION}"')
    ours, theirs = ([int(n) for n in v.split(".")] for v in (hooks.API_VERSION, written_for))
    if theirs[0] != ours[0] or theirs[1] > ours[1]:
        raise ComponentError(f"written for API {written_for}, this is API {hooks.API_VERSION}")
    manager = pluggy.PluginManager(hooks.PROJECT)
    manager.add_hookspecs(hooks)
    manager.register(plugin, name=name)
    manager.check_pending()
    if not manager.get_hookcallers(plugin):
        raise ComponentError("implements no hook of spcore.hooks; is @hookimpl missing?")
    answers: Sequence[Iterable[Component]] = manager.hook.spcore_components()
    components = tuple(component for answer in answers for component in answer)
    for component in components:
        if not isinstance(component, Component):
            raise ComponentError(f"spcore_components gave {component!r}, which is no Component")
    return components


def _satisfied(requirement: str) -> bool:
    """Whether an installed distribution meets a requirement, or one of its alternatives, by `packaging`."""
    return any(_installed(one.strip()) for one in requirement.split("|"))


def _installed(requirement: str) -> bool:
    from packaging.requirements import Requirement

    need = Requirement(requirement)
    if need.marker is not None and not need.marker.evaluate():
        return True
    try:
        return need.specifier.contains(importlib.metadata.version(need.name), prereleases=True)
    except importlib.metadata.PackageNotFoundError:
        return False


def _quoted(what: str) -> str:
    return f'"{what}"' if "[" in what or " " in what or ">" in what else what


@functools.lru_cache(maxsize=1)
def default_registry() -> Registry:
    """The registry of all installed plugins, built on the first call."""
    return Registry()


def describe(registry: Registry, kind: str, name: str) -> dict[str, Any]:
    """A component as JSON, its options with types, defaults and descriptions, for `plugins show`."""
    component, plugin = registry.find(kind, name), registry.owner(kind, name)
    model = registry.options_model(kind, name)
    fields: Mapping[str, Any] = model.model_json_schema().get("properties", {}) if model else {}
    return {
        "kind": kind, "name": component.name, "summary": component.summary, "plugin": plugin.name,
        "distribution": plugin.distribution, "version": plugin.version, "target": component.target,
        "aliases": list(component.aliases), "schemes": list(component.schemes), "suffixes": list(component.suffixes), "requires": list(component.requires),
        "missing": [need for need in component.requires if not _satisfied(need)], "options": fields,
    }  # fmt: skip
