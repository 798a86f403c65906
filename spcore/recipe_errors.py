"""What is wrong with a setting, in one line: path, what was found, what is allowed, the nearest name.

What is allowed is read from the JSON schema of the pydantic model that declares the setting, so a line states all of it
(type, bounds, choices), whatever was the matter. A field's `json_schema_extra={"known_as": [...]}` are names that it has
elsewhere: who types one is told ours.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from spcore.errors import RecipeError, nearest, short, unknown
from spcore.recipe_syntax import KeyPath, Unreadable, dotted

Model = TypeVar("Model", bound=BaseModel)
Schema = Mapping[str, Any]
Known = Mapping[str, Schema]
"""Dotted path of a setting -> its JSON schema."""
_BOUNDS = {
    "minimum": "at least", "ge": "at least", "exclusiveMinimum": "above", "gt": "above", "maximum": "at most", "le": "at most",
    "exclusiveMaximum": "below", "lt": "below",
}  # fmt: skip
_TYPES = {
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
    "array": "a list",
}
_TRUTH = {"yes": "true", "on": "true", "true": "true", "no": "false", "off": "false", "false": "false"}


def shown(value: Any) -> str:
    """A value as a recipe would have it, on one line and not too long."""
    try:
        text = json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else repr(value)
    except (TypeError, ValueError):
        text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"


def allowed(schema: Schema, whole: Schema | None = None) -> str:
    """What a JSON schema allows, in words. whole: the document that its references are to."""
    whole = whole or schema
    schema = _resolved(schema, whole)
    if "anyOf" in schema:
        words = list(dict.fromkeys(allowed({**part, **_bounds(schema)}, whole) for part in schema["anyOf"]))
        words = [w for w in words if not (w.startswith("a whole number") and w.replace("whole ", "") in words)]
        return " or ".join(words)
    if "enum" in schema or "const" in schema:
        return " or ".join(shown(value) for value in schema.get("enum", [schema.get("const")]))
    bounds = " and ".join(
        f"{_BOUNDS[key]} {int(value) if value == value // 1 else value}" for key, value in _bounds(schema).items()
    )
    kind = schema.get("type")
    if kind == "string":
        return _of_text(schema)
    if kind == "object":
        return _of_mapping(schema, whole)
    if kind == "array":
        return _of_list(schema, whole)
    word = _TYPES.get(str(kind), "a value")
    return f"{word} {bounds}" if bounds and kind in ("integer", "number") else word


@functools.lru_cache(maxsize=64)
def _schema(model: type[BaseModel]) -> Schema:
    return model.model_json_schema()


def _resolved(schema: Schema, whole: Schema) -> Schema:
    reference = schema.get("$ref")
    return whole.get("$defs", {}).get(reference.rpartition("/")[2], {}) if reference else schema


def _bounds(schema: Schema) -> dict[str, Any]:
    return {key: schema[key] for key in _BOUNDS if key in schema}


def _of_text(schema: Schema) -> str:
    if "pattern" in schema:
        return str(schema.get("description") or f"text like {schema['pattern']}")
    least, most = schema.get("minLength"), schema.get("maxLength")
    if least is not None and least == most:
        return f"text of {least} character{'s' if least > 1 else ''}"
    return "text that is not empty" if least else "text"


def _of_mapping(schema: Schema, whole: Schema) -> str:
    if "properties" in schema:
        return f"a mapping with {', '.join(schema['properties'])}"
    values = schema.get("additionalProperties")
    return f"a mapping of names to {allowed(values, whole)}" if isinstance(values, Mapping) else "a mapping"


def _of_list(schema: Schema, whole: Schema) -> str:
    if "prefixItems" in schema:
        return f"a list of {len(schema['prefixItems'])}: {', '.join(allowed(p, whole) for p in schema['prefixItems'])}"
    items = schema.get("items")
    return f"a list, each {allowed(items, whole)}" if items else "a list"


def _at(schema: Schema, whole: Schema, place: Sequence[str | int]) -> Schema | None:
    """The schema of what lies at a place inside."""
    schema = _resolved(schema, whole)
    if not place:
        return schema
    key, rest = place[0], place[1:]
    inner: list[Any] = list(schema.get("anyOf", []))
    if inner:
        return next((found for part in inner if (found := _at(part, whole, place)) is not None), None)
    if isinstance(key, int):
        several = schema.get("prefixItems", [])
        below = several[key] if key < len(several) else schema.get("items")
    else:
        below = schema.get("properties", {}).get(key, schema.get("additionalProperties"))
    return _at(below, whole, rest) if isinstance(below, Mapping) else None


def finding(error: ValidationError, model: type[BaseModel], given: Any) -> tuple[KeyPath, str | None, str]:
    """The first of pydantic's findings: (its place in `given`, the key that is unknown or None, what is the matter).

    given: what was checked. A key that is unknown comes before one that is missing: it is the missing one, misspelt.
    """
    order = {"extra_forbidden": 0, "missing": 2}
    found = min(error.errors(include_url=False), key=lambda one: order.get(one["type"], 1))
    place = _place(found["loc"], given, missing=found["type"] == "missing")
    whole = _schema(model)
    if found["type"] == "extra_forbidden":
        return place, str(place[-1]), ""
    schema = _at(whole, whole, place) or {}
    if found["type"] == "missing" and isinstance(found["loc"][-1], str):
        return place, None, f"missing, expected: {allowed(schema, whole)}{_meaning(schema)}"
    if found["type"] in ("value_error", "assertion_error"):
        return place, None, re.sub(r"^(Value error|Assertion failed), ", "", found["msg"])
    value, words = found["input"], allowed(schema, whole)
    if found["type"] == "finite_number":
        words = f"a finite number, {words}"
    elif found["type"] not in _SCHEMA_TELLS and not found["type"].endswith(("_type", "_parsing", "_schema")):
        words = found["msg"]
    return place, None, f"found {shown(value)}, expected: {words}{_hint(value, words, schema, whole)}"


_SCHEMA_TELLS = (
    "greater_than", "greater_than_equal", "less_than", "less_than_equal", "literal_error", "string_pattern_mismatch", "too_long",
    "too_short", "missing", "string_too_short", "string_too_long", "int_from_float", "enum",
)  # fmt: skip


def checked(model: type[Model], given: Mapping[str, Any], what: str) -> Model:
    """Settings that stand in no recipe, as `model` has them; types are as they are written. what: whose they are. Raises RecipeError
    of one line."""
    for name, value in given.items():
        _encodable(value, f"{what}: {name}")
    try:
        return model.model_validate_json(json.dumps(dict(given)), strict=True)
    except ValidationError as error:
        place, strange, text = finding(error, model, given)
        if strange is not None:
            raise RecipeError(f"{what}: {unknown('option', dotted(place), model.model_fields)}") from None
        raise RecipeError(f"{what}: {dotted(place)}: {text}") from None
    except TypeError as error:  # no JSON
        raise RecipeError(f"{what}: {error}") from error


def _encodable(value: Any, what: str) -> None:
    """Raise RecipeError for text that UTF-8 cannot hold: bytes typed that are none of it, halves of surrogate pairs."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise RecipeError(f"{what}: character {error.start} is no text in UTF-8") from error
    elif isinstance(value, Mapping | list | tuple):
        for one in value.values() if isinstance(value, Mapping) else value:
            _encodable(one, what)


def _meaning(schema: Schema) -> str:
    return f" ({schema['description']})" if schema.get("description") else ""


def _hint(value: Any, words: str, schema: Schema, whole: Schema) -> str:
    """What to write instead, where that is plain."""
    choices = [str(c) for c in _choices(schema, whole)]
    if isinstance(value, bool) or value is None:
        return "; put it into quotes" if words.startswith("text") and value is not None else ""
    if isinstance(value, str):
        if "true or false" in words and value.lower() in _TRUTH:
            return f"; write {_TRUTH[value.lower()]}, without quotes"
        if choices:
            near = nearest(value, choices)
            return f"; did you mean {near!r}?" if near else ""
        from spcore.recipe_yaml import read_yaml

        try:
            plain = read_yaml(value)[0]
        except Unreadable:
            plain = value
        if "number" in words and isinstance(plain, int | float) and not isinstance(plain, bool):
            return f"; write {plain}, without quotes"
        return f"; write [{value}]" if words.startswith("a list") else ""
    if isinstance(value, float) and "whole number" in words and value == value // 1 and abs(value) < 2**53:
        return f"; write {int(value)}"
    if isinstance(value, int | float):
        if str(value) in choices:
            return "; put it into quotes"
        return "; put it into quotes" if words.startswith("text") else ""
    return ""


def _choices(schema: Schema, whole: Schema) -> Iterator[Any]:
    schema = _resolved(schema, whole)
    for part in schema.get("anyOf", [schema]):
        part = _resolved(part, whole)
        yield from (c for c in part.get("enum", [part["const"]] if "const" in part else []) if isinstance(c, str))


def _place(loc: Sequence[str | int], given: Any, *, missing: bool) -> KeyPath:
    """pydantic's place of an error without its names for the members of a union, which nobody typed."""
    place: list[str | int] = []
    for n, key in enumerate(loc):
        if isinstance(given, Mapping) and (key in given or (missing and n == len(loc) - 1)):
            place.append(key)
            given = given.get(key)
        elif isinstance(given, list | tuple) and isinstance(key, int) and key < len(given):
            place.append(key)
            given = given[key]
    return tuple(place)


def settings_of(model: type[BaseModel], path: str = "", without: Iterable[str] = ()) -> dict[str, Schema]:
    """Dotted path -> schema of every setting of a model, nested ones too."""
    whole = _schema(model)
    return dict(_settings(whole, whole, path, frozenset(without)))


def _settings(schema: Schema, whole: Schema, path: str, without: frozenset[str]) -> Iterator[tuple[str, Schema]]:
    for name, below in schema.get("properties", {}).items():
        inner = f"{path}.{name}" if path else name
        if inner not in without:
            yield inner, below
            for part in below.get("anyOf", [below]):
                yield from _settings(_resolved(part, whole), whole, inner, without)


def unknown_key(path: KeyPath, known: Known, elsewhere: str = "") -> str:
    """The text for a key that is not known: the name meant, beside it or at another place, and what there is beside it.

    known: every setting of this recipe. elsewhere: a remark in place of a nearest name at another place.
    """
    name, parent = str(path[-1]), dotted(path[:-1])
    beside = {p.rpartition(".")[2]: schema for p, schema in known.items() if p.rpartition(".")[0] == parent}
    near = _called(name, beside)
    if near:
        guess = f"; did you mean {near[0]!r}?"
    elif name in known:
        outer, _, inner = name.partition(".")
        guess = f"; keys do not have dots here: write {outer}: {{{inner}: ...}}"
    elif far := _called(
        name, {p: known[p] for p in known if p.rpartition(".")[0] != parent and not p.startswith("eval.data.")}
    ):
        guess = f"; did you mean {' or '.join(map(repr, far[:3]))}?"
    elif elsewhere:
        guess = f"; {elsewhere};"
    elif close := nearest(name, beside):
        guess = f"; did you mean {close!r}?"
    else:
        guess = ";"
    return f"{dotted(path)}: unknown key {short(name)!r}{guess} known: {', '.join(sorted(beside)) or 'none'}"


def _called(name: str, settings: Known) -> list[str]:
    """The settings that have this name but for case and dashes, else those known by it elsewhere."""
    wanted = _plain(name)
    same = [path for path in settings if _plain(path.rpartition(".")[2]) == wanted]
    return same or [path for path, schema in settings.items() if wanted in map(_plain, schema.get("known_as", ()))]


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def known_as(*names: str) -> dict[str, Any]:
    """For a field's `json_schema_extra`: what other programs call the setting."""
    return {"known_as": list(names)}
