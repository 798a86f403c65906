"""Recipe files: YAML (1.2's scalars), TOML and JSON with the line of every key, and paths relative to their file."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from spcore.errors import RecipeError, nearest

if TYPE_CHECKING:
    from spcore.components import Registry

KeyPath = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    """PyYAML reads YAML 1.1, where `no` is false and `1e-4` is text. Recipes use the core schema of YAML 1.2."""

    yaml_implicit_resolvers: dict[str, Any] = {}

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Keys are text, whatever they look like: `1:` and `true:` too."""
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                key.tag = "tag:yaml.org,2002:str"
        return super().construct_mapping(node, deep)


for _tag, _pattern, _first in (
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"^[-+]?[0-9][0-9_]*$", list("-+0123456789")),
    ("float", r"^(?:[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$", list("-+0123456789.")),
):  # fmt: skip
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), _first)
_Loader.add_constructor(
    "tag:yaml.org,2002:int", lambda _, node: int(node.value.replace("_", ""))
)  # 010 is ten, not eight


@dataclass(frozen=True)
class Text:
    """A recipe as read. file: None for a mapping. lines: path of a key -> its line, from 1. overridden: paths
    whose values are not the file's."""

    file: Path | None
    tree: dict[str, Any]
    lines: Mapping[KeyPath, int]
    overridden: frozenset[KeyPath] = frozenset()

    @classmethod
    def read(cls, file: Path) -> Text:
        """Read a file by its suffix. Raises RecipeError."""
        try:
            content = file.read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            near = nearest(file.name, [p.name for p in file.parent.glob("*")] if file.parent.is_dir() else [])
            raise RecipeError(
                f"recipe {str(file)!r} does not exist" + (f"; did you mean {near!r}?" if near else "")
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"recipe {str(file)!r} cannot be read: {error}") from error
        try:
            if file.suffix == ".toml":
                tree: Any = tomllib.loads(content)
                lines = _toml_lines(content)
            elif file.suffix == ".json":
                tree = json.loads(content)
                lines = _lines(content.replace("\t", " "), file)  # JSON is a part of YAML, but for tabs
            else:
                tree = yaml.load(content, Loader=_Loader)  # a SafeLoader
                lines = _lines(content, file)
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else "?"
            raise RecipeError(f"{file}:{line}: not YAML: {error.problem}") from error
        except json.JSONDecodeError as error:
            raise RecipeError(f"{file}:{error.lineno}: not JSON: {error.msg}") from error
        except (yaml.YAMLError, tomllib.TOMLDecodeError) as error:
            raise RecipeError(f"{file}: cannot be parsed: {str(error).splitlines()[0]}") from error
        if not isinstance(tree, dict):
            raise RecipeError(
                f"{file}: found {type(tree).__name__}, expected a mapping with `model`, `task`, `data`, ..."
            )
        return cls(file, tree, lines)

    @staticmethod
    def parse_value(value: str) -> Any:
        """The value of an override."""
        return yaml.load(value, Loader=_Loader)  # a SafeLoader

    def with_override(self, path: KeyPath) -> Text:
        """The same, knowing that this path's value is not the file's."""
        return replace(self, overridden=self.overridden | {path})

    def at(self, path: KeyPath) -> str:
        """ "file:line: " of the nearest enclosing key, "" for a mapping or for what an override gave."""
        if self.file is None:
            return ""
        while path and path not in self.lines and path not in self.overridden:
            path = path[:-1]
        if path in self.overridden:
            return ""
        return f"{self.file}:{self.lines[path]}: " if path else f"{self.file}: "


def _lines(content: str, file: Path) -> dict[KeyPath, int]:
    node = yaml.compose(content, Loader=_Loader)
    return dict(_yaml_lines(node, (), file)) if node else {}


def _yaml_lines(node: Any, path: KeyPath, file: Path, around: tuple[Any, ...] = ()) -> Any:
    if node in around:
        raise RecipeError(f"{file}:{node.start_mark.line + 1}: {'.'.join(map(str, path))} contains itself")
    around = (*around, node)
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.value in seen:
                raise RecipeError(
                    f"{file}:{line}: {'.'.join(map(str, (*path, key.value)))} is given twice, first in line {seen[key.value]}"
                )
            seen[key.value] = line
            yield (*path, key.value), line
            yield from _yaml_lines(value, (*path, key.value), file, around)
    elif isinstance(node, yaml.SequenceNode):
        for n, value in enumerate(node.value):
            yield (*path, n), value.start_mark.line + 1
            yield from _yaml_lines(value, (*path, n), file, around)


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


def place_paths(tree: dict[str, Any], base: Path, registry: Registry | None = None) -> dict[str, Any]:
    """Paths made absolute: `output`, and sources that exist below `base` or are written as paths; names stay names, those
    of components too where `registry` tells them."""

    def sourced(value: Any, kind: str = "") -> Any:
        if isinstance(value, str):
            component = bool(kind) and registry is not None and registry.has(kind, value)
            return _absolute(value, base) if not component and _is_path(value, base) else value
        if isinstance(value, list):
            return [sourced(item) for item in value]
        if isinstance(value, dict):
            return {k: sourced(v) if k in ("source", "folder") else v for k, v in value.items()}
        return value

    kinds = {"model": "model", "data": "dataset"}
    placed = {k: sourced(v, kinds[k]) if k in kinds else v for k, v in tree.items()}
    if isinstance(placed.get("eval"), dict) and "data" in placed["eval"]:
        placed["eval"] = {**placed["eval"], "data": sourced(placed["eval"]["data"], "dataset")}
    if isinstance(placed.get("output"), str):
        placed["output"] = _absolute(placed["output"], base)
    return placed


def _is_path(value: str, base: Path) -> bool:
    if value.startswith(("./", "../", "~", "/")):
        return True
    if not value:
        return False
    try:
        return (base / value).exists() or (
            any(c in value for c in "*?[") and next(iter(base.glob(value)), None) is not None
        )
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
