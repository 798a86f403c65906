"""Recipe files: YAML (1.2's scalars), TOML and JSON with the line of every key, and paths relative to their file."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from spcore.errors import RecipeError, nearest

KeyPath = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    """PyYAML reads YAML 1.1, where `no` is false and `1e-4` is text. Recipes use the core schema of YAML 1.2."""

    yaml_implicit_resolvers: dict[str, Any] = {}


for _tag, _pattern, _first in (
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"^[-+]?[0-9][0-9_]*$", list("-+0123456789")),
    ("float", r"^(?:[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$", list("-+0123456789.")),
):  # fmt: skip
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), _first)


@dataclass(frozen=True)
class Text:
    """A recipe as read. file: None for a mapping. lines: path of a key -> its line, from 1."""

    file: Path | None
    tree: dict[str, Any]
    lines: Mapping[KeyPath, int]

    @classmethod
    def read(cls, file: Path) -> Text:
        """Read a file by its suffix. Raises RecipeError."""
        try:
            content = file.read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            near = nearest(file.name, [p.name for p in file.parent.glob("*")] if file.parent.is_dir() else [])
            raise RecipeError(f"recipe {str(file)!r} does not exist" + (f"; did you mean {near!r}?" if near else "")) from None
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"recipe {str(file)!r} cannot be read: {error}") from error
        try:
            if file.suffix == ".toml":
                tree: Any = tomllib.loads(content)
                lines = _toml_lines(content)
            else:  # JSON is a part of YAML
                node = yaml.compose(content, Loader=_Loader)
                lines = dict(_yaml_lines(node, (), file)) if node else {}
                tree = yaml.load(content, Loader=_Loader)  # noqa: S506 -- a SafeLoader
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else "?"
            raise RecipeError(f"{file}:{line}: not YAML: {error.problem}") from error
        except (yaml.YAMLError, tomllib.TOMLDecodeError) as error:
            raise RecipeError(f"{file}: cannot be parsed: {str(error).splitlines()[0]}") from error
        if not isinstance(tree, dict):
            raise RecipeError(f"{file}: found {type(tree).__name__}, expected a mapping with `model`, `task`, `data`, ...")
        return cls(file, tree, lines)

    @staticmethod
    def parse_value(value: str) -> Any:
        """The value of an override."""
        return yaml.load(value, Loader=_Loader)  # noqa: S506 -- a SafeLoader

    def has(self, path: KeyPath) -> bool:
        """Whether the file gives this key."""
        return path in self.lines

    def at(self, path: KeyPath) -> str:
        """ "file:line: " of the nearest enclosing key, "" for a mapping or for what an override gave."""
        if self.file is None:
            return ""
        while path and path not in self.lines:
            path = path[:-1]
        return f"{self.file}:{self.lines[path]}: " if path else f"{self.file}: "


def _yaml_lines(node: Any, path: KeyPath, file: Path) -> Any:
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.value in seen:
                raise RecipeError(f"{file}:{line}: {'.'.join(map(str, (*path, key.value)))} is given twice, first in line {seen[key.value]}")
            seen[key.value] = line
            yield (*path, key.value), line
            yield from _yaml_lines(value, (*path, key.value), file)
    elif isinstance(node, yaml.SequenceNode):
        for n, value in enumerate(node.value):
            yield (*path, n), value.start_mark.line + 1
            yield from _yaml_lines(value, (*path, n), file)


def _toml_lines(content: str) -> dict[KeyPath, int]:
    """Lines of tables and keys. tomllib keeps none; a key inside an inline table is told by its line's first key."""
    lines: dict[KeyPath, int] = {}
    table: tuple[str, ...] = ()
    for number, line in enumerate(content.splitlines(), 1):
        if header := re.match(r"\s*\[\[?\s*([\w.\-\"' ]+?)\s*\]\]?", line):
            table = tuple(part.strip().strip("\"'") for part in header.group(1).split("."))
            lines.setdefault(table, number)
        elif key := re.match(r"\s*([\w.\-\"']+)\s*=", line):
            lines[(*table, *(part.strip("\"'") for part in key.group(1).split(".")))] = number
    return lines


def place_paths(tree: dict[str, Any], base: Path) -> dict[str, Any]:
    """Paths made absolute: `output`, and sources that exist below `base` or are written as paths; names stay names."""

    def sourced(value: Any) -> Any:
        if isinstance(value, str):
            return _absolute(value, base) if _is_path(value, base) else value
        if isinstance(value, list):
            return [sourced(item) for item in value]
        if isinstance(value, dict):
            return {k: sourced(v) if k in ("source", "folder") else v for k, v in value.items()}
        return value

    placed = {k: sourced(v) if k in ("model", "data") else v for k, v in tree.items()}
    if isinstance(placed.get("eval"), dict) and "data" in placed["eval"]:
        placed["eval"] = {**placed["eval"], "data": sourced(placed["eval"]["data"])}
    if isinstance(placed.get("output"), str):
        placed["output"] = _absolute(placed["output"], base)
    return placed


def _is_path(value: str, base: Path) -> bool:
    if value.startswith(("./", "../", "~", "/")):
        return True
    try:
        return (base / value).exists() or (any(c in value for c in "*?[") and next(iter(base.glob(value)), None) is not None)
    except (OSError, ValueError, NotImplementedError):
        return False


def _absolute(value: str, base: Path) -> str:
    return str((base / Path(value).expanduser()).absolute())


class _Dumper(yaml.SafeDumper):
    """Quotes what `_Loader` would not read back as text."""

    yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers


def dump_yaml(tree: Mapping[str, Any]) -> str:
    """YAML that reads back equal, keys in the order given."""
    return yaml.dump(dict(tree), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
