"""Parts of a recipe checked against the options models of the components that they name."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from spcore.components import Registry
from spcore.errors import ComponentError, RecipeError, SlimPajamaError, nearest
from spcore.recipe_errors import Known, finding, settings_of, shown, unknown_key
from spcore.recipe_files import Places
from spcore.recipe_syntax import KeyPath, dotted
from spcore.recipe_tree import PART_KEYS, SOURCED, inside

Model = TypeVar("Model", bound=BaseModel)
MIXTURE = "mixture"
"""`use` of data that is several sources."""


def located(error: SlimPajamaError, words: str) -> SlimPajamaError:
    """The same error, its line beginning with these words."""
    error.placed = True
    error.message = words + error.message
    error.args = (f"{error.message}. {error.hint}" if error.hint else error.message,)
    return error


class Checks:
    """Checks a recipe's tree, part by part. core: the core's own settings, asked for where a name is not known."""

    def __init__(
        self, tree: Mapping[str, Any], places: Places, registry: Registry, core: Callable[[], dict[str, Any]]
    ) -> None:
        self.tree, self.places, self.registry, self._core = tree, places, registry, core

    def part(self, value: Any, kind: str, path: KeyPath, core: tuple[str, ...] = ()) -> dict[str, Any]:
        """A part in full: {"use": ..., option: value, ...}, options checked and defaults filled in. core: keys of the core's
        that stand beside the options; they are left as they are. Raises RecipeError, ComponentError."""
        value = self._named(value, kind, path)
        name = value["use"]
        place = (*path, "use") if self.places.has((*path, "use")) else path
        if not isinstance(name, str):
            raise self._error(place, f"found {shown(name)}, expected: the {kind}'s name{self._names(kind, name)}")
        try:
            self.registry.check_requirements(self.registry.find(kind, name))
            model = self.registry.options_model(kind, name)
        except ComponentError as error:
            raise located(error, f"{self.places.at(place)}{dotted(place)}: ") from error
        own = {k: v for k, v in value.items() if k != "use" and k not in core}
        if model is None:
            for key in own:
                raise self.unknown((*path, key))
            options = {}
        else:
            options = self.validated(model, own, path).model_dump(mode="json")
        return {"use": name, **{k: v for k, v in value.items() if k in core}, **options}

    def data(self, value: Any, path: KeyPath, core: tuple[str, ...], each: tuple[str, ...]) -> dict[str, Any]:
        """A data set, or a mixture, in full. core: keys of the core's; each: those that each source of a mixture has in their place.
        Raises RecipeError, ComponentError."""
        if not (isinstance(value, Mapping) and (value.get("sources") is not None or value.get("use") == MIXTURE)):
            return self.part(value, "dataset", path, core)
        sources = value.get("sources")
        if value.get("use", MIXTURE) != MIXTURE:
            raise self._error((*path, "use"), f"found {shown(value['use'])} beside `sources`, expected: one of them")
        if not isinstance(sources, Mapping) or not sources:
            wanted = "name -> data set, as {web: {source: web.jsonl, weight: 0.7}, books: {source: books, weight: 0.3}}"
            raise self._error((*path, "sources"), f"found {shown(sources)}, expected: {wanted}")
        for key, found in value.items():
            if key not in ("use", *core) and key not in each:
                if key == "source":
                    raise self._error((*path, key), f"found {shown(found)} beside `sources`, expected: one of them")
                raise self.unknown((*path, key))
            if key in each and found:  # a resolved recipe has them all, empty
                text = f"found {shown(found)}, expected: nothing, it is said of each source: {dotted((*path, 'sources'))}.NAME.{key}"
                raise self._error((*path, key), text)
        if wrong := next((name for name in sources if not re.fullmatch(r"[A-Za-z0-9_-]+", name)), None):
            raise self._error((*path, "sources"), f"found the name {shown(wrong)}, expected: letters, digits, - and _")
        parts = {name: self.part(one, "dataset", (*path, "sources", name), each) for name, one in sources.items()}
        return {"use": MIXTURE, **{k: v for k, v in value.items() if k in core}, "sources": parts}

    def missing(self, key: str, kind: str) -> RecipeError:
        """For a part that must be there."""
        defaults = [] if kind in SOURCED else self.registry.defaults(kind)
        if defaults:
            return self._error(
                (key,), f"missing, and {len(defaults)} are the default: name one of {', '.join(defaults)}"
            )
        if kind in SOURCED:
            return self._error((key,), f"missing, expected: a source, or one of {self._known(kind)}")
        return self._error((key,), f"missing, expected: the {kind}'s name; known: {self._known(kind)}")

    def validated(self, model: type[Model], given: Any, path: KeyPath) -> Model:
        """What a model makes of settings. Types are as they are written: a text is no number. Raises RecipeError."""
        try:
            return model.model_validate_json(json.dumps(given), strict=True)
        except ValidationError as error:
            place, unknown, text = finding(error, model, given)
            full = (*path, *place)
            raise self.unknown(full) if unknown is not None else self._error(full, text) from None

    def unknown(self, path: KeyPath) -> RecipeError:
        """For a key that is not known: where it belongs."""
        known: dict[str, Any] = self._core()
        for key, kind in self._parts():
            component = inside(self.tree, key)
            name = component.get("use") if isinstance(component, Mapping) else None
            if name is None and isinstance(component, Mapping) and kind in SOURCED:
                name = self._implied(component, kind)
            if isinstance(name, str) and self.registry.has(kind, name):
                known[f"{dotted(key)}.use"] = {}
                known |= self._options(kind, name, dotted(key))
        return RecipeError(self.places.at(path) + unknown_key(path, known, self._elsewhere(path)))

    def _named(self, value: Any, kind: str, path: KeyPath) -> Mapping[str, Any]:
        """The part as a mapping with `use`."""
        if isinstance(value, Mapping) and "use" not in value and kind in SOURCED:
            try:
                implied = self._implied(value, kind)
            except ComponentError as error:
                raise located(error, f"{self.places.at(path)}{dotted(path)}: ") from error
            value = value if implied is None else {"use": implied, **value}
        if isinstance(value, Mapping) and "use" in value:
            return value
        source = ", a source," if kind in SOURCED else ""
        wanted = f"the {kind}'s name{source} or a mapping with `use`"
        if isinstance(value, Mapping) and kind in SOURCED:
            wanted = "`use` or `source` in it"
        raise self._error(path, f"found {shown(value)}, expected: {wanted}{self._names(kind, value)}")

    def _implied(self, part: Mapping[str, Any], kind: str) -> str | None:
        """The component that a part means which names none: the one that claims its source; without a source, the kind's default, if
        that needs none and knows any of the part's keys."""
        if "source" in part:
            return self.registry.claiming(kind, str(part["source"])).name
        defaults = self.registry.defaults(kind)
        options = self.registry.options_model(kind, defaults[0]) if len(defaults) == 1 else None
        fields = options.model_fields if options is not None else {}
        needs = "source" not in fields or fields["source"].is_required()
        return None if needs or fields.keys().isdisjoint(part) else defaults[0]

    def _names(self, kind: str, value: Any) -> str:
        near = nearest(str(value), self.registry.names(kind)) if isinstance(value, str | int | float) else None
        return f"; did you mean {near!r}? known: {self._known(kind)}" if near else f"; known: {self._known(kind)}"

    def _known(self, kind: str) -> str:
        return ", ".join(self.registry.names(kind)) or "none"

    def _error(self, path: KeyPath, text: str) -> RecipeError:
        return RecipeError(f"{self.places.at(path)}{dotted(path)}: {text}")

    def _parts(self) -> list[tuple[KeyPath, str]]:
        """Where the parts of a recipe stand, with their kinds."""
        loggers = self.tree.get("loggers")
        entries = range(len(loggers)) if isinstance(loggers, list) else ()
        several = [(("loggers", n), "logger") for n in entries]
        alone = {kind: kind for kind in ("runtime", "constraint")}  # which are in no recipe
        keys = {**PART_KEYS, **alone}
        datas: list[KeyPath] = [("data",), ("eval", "data")]
        mixed = [((*path, "sources", name), "dataset") for path in datas for name in self._names_in((*path, "sources"))]
        return [*(((key,), kind) for key, kind in keys.items()), (("eval", "data"), "dataset"), *mixed, *several]

    def _names_in(self, path: KeyPath) -> list[str]:
        found = inside(self.tree, path)
        return list(found) if isinstance(found, Mapping) else []

    def _options(self, kind: str, name: str, path: str) -> Known:
        try:
            model = self.registry.options_model(kind, name)
        except ComponentError:
            return {}  # a broken one is told where it is used
        return settings_of(model, path) if model else {}

    def _elsewhere(self, path: KeyPath) -> str:
        """Which components of the part's kind do have such an option."""
        kind = dict(self._parts()).get(path[:-1])
        if kind is None:
            return ""
        having = [n for n in self.registry.names(kind) if f"x.{path[-1]}" in self._options(kind, n, "x")]
        return f"it is an option of {kind} {' and '.join(map(repr, having[:3]))}" if having else ""
