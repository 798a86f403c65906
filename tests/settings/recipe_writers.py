"""A recipe written as YAML, TOML and JSON, a line a key, with the line of each: not by the code that is tested."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

Path = tuple[str | int, ...]


class Unwritable(ValueError):
    """The format has no such value."""


class Writer:
    """Collects lines. lines: path -> line, from 1. comment, false_start: each file begins with some, so that lines count."""

    def __init__(self) -> None:
        self.text: list[str] = []
        self.lines: dict[Path, int] = {}

    def put(self, line: str, *paths: Path) -> None:
        """A line, and what stands in it."""
        self.text.append(line)
        for path in paths:
            self.lines[path] = len(self.text)


def scalar(value: Any, kind: str) -> str:
    """A scalar, or a mapping or list on one line."""
    if isinstance(value, float) and not math.isfinite(value):
        name = "nan" if math.isnan(value) else "inf"
        json_name = {"nan": "NaN", "inf": "Infinity"}[name]
        return {"yaml": f".{name}", "toml": name, "json": json_name}[kind]
    if kind == "toml" and value is None:
        raise Unwritable("TOML has no null")
    if isinstance(value, Mapping):
        equals = " = " if kind == "toml" else ": "
        return "{" + ", ".join(f"{json.dumps(k)}{equals}{scalar(v, kind)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(scalar(v, kind) for v in value) + "]"
    return json.dumps(value)


def write_yaml(tree: Mapping[str, Any]) -> Writer:
    """Block style; keys in quotes only where they need them."""
    out = Writer()
    out.put("# a recipe: it has a comment")
    out.put("")

    def block(tree: Mapping[str, Any], path: Path, indent: str) -> None:
        for key, value in tree.items():
            here = (*path, key)
            name = key if key.replace("_", "").isalnum() else json.dumps(key)
            if isinstance(value, Mapping) and value:
                out.put(f"{indent}{name}:", here)
                block(value, here, indent + "  ")
            elif isinstance(value, list) and value:
                out.put(f"{indent}{name}:", here)
                for n, entry in enumerate(value):
                    inside = [(*here, n, k) for k in entry] if isinstance(entry, Mapping) else []
                    out.put(f"{indent}  - {scalar(entry, 'yaml')}", (*here, n), *inside)
            else:
                out.put(f"{indent}{name}: {scalar(value, 'yaml')}", here)

    block(tree, (), "")
    return out


def write_toml(tree: Mapping[str, Any]) -> Writer:
    """Tables, with a list an entry a line."""
    out = Writer()
    out.put('# a recipe: with "quotes = 1" in a comment')

    def table(tree: Mapping[str, Any], path: Path) -> None:
        for key, value in tree.items():
            here = (*path, key)
            if isinstance(value, list) and value:
                out.put(f"{json.dumps(key)} = [", here)
                for n, entry in enumerate(value):
                    inside = [(*here, n, k) for k in entry] if isinstance(entry, Mapping) else []
                    out.put(f"  {scalar(entry, 'toml')},", (*here, n), *inside)
                out.put("]")
            elif not isinstance(value, Mapping):
                out.put(f"{key if key.isidentifier() else json.dumps(key)} = {scalar(value, 'toml')}", here)
        for key, value in tree.items():
            if isinstance(value, Mapping):
                here = (*path, key)
                out.put(f"[{'.'.join(json.dumps(str(k)) for k in here)}]", here)
                table(value, here)

    table(tree, ())
    return out


def write_json(tree: Mapping[str, Any]) -> Writer:
    """A key a line."""
    out = Writer()

    def block(tree: Any, path: Path, before: str, after: str) -> None:
        if isinstance(tree, Mapping | list) and tree:
            pairs = list(tree.items() if isinstance(tree, Mapping) else enumerate(tree))
            out.put(before + ("{" if isinstance(tree, Mapping) else "["), path)
            for n, (key, value) in enumerate(pairs):
                name = f"{json.dumps(key)}: " if isinstance(tree, Mapping) else ""
                block(value, (*path, key), "\t" * (len(path) + 1) + name, "," if n + 1 < len(pairs) else "")
            out.put("\t" * len(path) + ("}" if isinstance(tree, Mapping) else "]") + after)
        else:
            out.put(before + scalar(tree, "json") + after, path)

    block(tree, (), "", "")
    return out


WRITERS = {"yaml": write_yaml, "toml": write_toml, "json": write_json}
