"""Recipe files: what was read, where each setting was given, and paths relative to the file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spcore.errors import RecipeError, nearest
from spcore.recipe_syntax import READERS, KeyPath, Read, Unreadable

if TYPE_CHECKING:
    from spcore.components import Registry

_PATHS = ("source", "folder", "tokenizer", "chat_template")
"""Options of models and data sets that may be paths."""
__all__ = ["KeyPath", "Places", "Text", "place_paths"]


@dataclass(frozen=True)
class Places:
    """Where the settings of a recipe were given. Two are always equal: where a recipe came from is no part of what it says.

    given: path -> (0 for the file, else the override's number; words to begin a line with, as "recipe.yaml:3").
    """

    given: Mapping[KeyPath, tuple[int, str]] = field(default_factory=dict, compare=False)

    @classmethod
    def of_file(cls, file: Path, lines: Mapping[KeyPath, int]) -> Places:
        """Those of a file."""
        return cls({path: (0, f"{file}:{line}") for path, line in lines.items()})

    @classmethod
    def of_tree(cls, tree: Any) -> Places:
        """Those of a program's own mapping: known, and without words."""
        return cls(dict.fromkeys(_paths(tree, ()), (0, "")))

    def at(self, *paths: KeyPath) -> str:
        """The beginning of a line about these settings: file and line of the first, or the override that came last; "" where
        a program gave them. What was not given itself is where that lies which it is part of."""
        found = [self.given.get(self._nearest(path), (0, "")) for path in paths]
        words = max(found, key=lambda place: place[0])[1]
        return f"{words}: " if words else ""

    def has(self, path: KeyPath) -> bool:
        """Whether this very setting was given."""
        return path in self.given

    def changed(self, number: int, words: str, path: KeyPath, value: Any, same: Callable[[KeyPath], bool]) -> Places:
        """The same after an override. number: from 1, in order. same: whether what lies at a path is as it was before."""
        kept = {p: place for p, place in self.given.items() if p[: len(path)] != path or same(p)}
        kept |= dict.fromkeys([path, *_paths(value, path)], (number, words))
        for n in range(1, len(path)):
            kept.setdefault(path[:n], (number, words))
        return Places(kept)

    def _nearest(self, path: KeyPath) -> KeyPath:
        while path and path not in self.given:
            path = path[:-1]
        return path


def _paths(value: Any, path: KeyPath) -> list[KeyPath]:
    """Paths of everything inside a value."""
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    return [p for key, inner in items for p in ((*path, key), *_paths(inner, (*path, key)))]


@dataclass(frozen=True)
class Text:
    """A recipe's file as read."""

    tree: dict[str, Any]
    places: Places

    @classmethod
    def read(cls, file: Path) -> Text:
        """Read a file by its suffix. Raises RecipeError."""
        content = _content(file)
        try:
            tree, lines = READERS.get(file.suffix.lower(), _read_yaml)(content)
        except Unreadable as error:
            place = ":".join(str(part) for part in (file, error.line, error.column) if part is not None)
            raise RecipeError(f"{place}: {error.text}") from error
        if not isinstance(tree, dict):
            found = {None: "nothing", list: "a list"}.get(None if tree is None else type(tree), f"{tree!r:.60}")
            raise RecipeError(
                f"{file}:{lines[()]}: found {found}, expected: a mapping with `model`, `task`, `data`, ..."
            )
        return cls(tree, Places.of_file(file, lines))

    @staticmethod
    def parse_value(value: str) -> Any:
        """The value of an override. Raises Unreadable."""
        return _read_yaml(value)[0]


def _read_yaml(content: str) -> Read:
    from spcore.recipe_yaml import read_yaml

    return read_yaml(content)


def _content(file: Path) -> str:
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        there = [p.name for p in file.parent.glob("*")] if file.parent.is_dir() else []
        near = nearest(file.name, there)
        raise RecipeError(
            f"recipe {str(file)!r} does not exist" + (f"; did you mean {near!r}?" if near else "")
        ) from None
    except IsADirectoryError:
        hint = f"; did you mean {str(file / 'recipe.yaml')!r}?" if (file / "recipe.yaml").is_file() else ""
        raise RecipeError(f"recipe {str(file)!r} is a folder, expected: a YAML, TOML or JSON file{hint}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the name
        raise RecipeError(
            f"recipe {str(file)!r} cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from error
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line, byte = content.count(b"\n", 0, error.start) + 1, content[error.start]
        raise RecipeError(f"{file}:{line}: not UTF-8: found the byte 0x{byte:02x}; save the file as UTF-8") from error


def place_paths(tree: dict[str, Any], base: Path, registry: Registry | None = None) -> dict[str, Any]:
    """Paths made absolute: `output`, `launch.folder`, and sources that exist below `base` or are written as paths; names stay names, those
    of components too where `registry` tells them."""

    def sourced(value: Any, kind: str, named: bool = True) -> Any:
        if isinstance(value, str):
            if named and registry is not None and registry.has(kind, value):
                return value
            scheme = _scheme(value, kind, registry)
            rest = value.removeprefix(scheme)
            return scheme + _absolute(rest, base) if _is_path(rest, base) else value
        if isinstance(value, list):
            return [sourced(item, kind, False) for item in value]
        if isinstance(value, dict):
            placed = {k: sourced(v, kind, False) if k in _PATHS else v for k, v in value.items()}
            if kind == "dataset" and isinstance(value.get("sources"), dict):
                placed["sources"] = {name: sourced(one, kind) for name, one in value["sources"].items()}
            return placed
        return value

    kinds = {"model": "model", "data": "dataset"}
    placed = {k: sourced(v, kinds[k]) if k in kinds else v for k, v in tree.items()}
    if isinstance(placed.get("eval"), dict) and "data" in placed["eval"]:
        placed["eval"] = {**placed["eval"], "data": sourced(placed["eval"]["data"], "dataset")}
    launch = placed.get("launch")
    if isinstance(launch, dict) and isinstance(launch.get("folder"), str):
        placed["launch"] = {**launch, "folder": _absolute(launch["folder"], base)}
    if isinstance(placed.get("output"), str):
        placed["output"] = _absolute(placed["output"], base)
    return placed


def _scheme(value: str, kind: str, registry: Registry | None) -> str:
    """The scheme that a source begins with, where a component of the kind claims it; with its colon."""
    scheme, colon, _ = value.partition(":")
    if not colon or registry is None:
        return ""
    return f"{scheme}:" if any(scheme in c.schemes for _, c in registry.components(kind)) else ""


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
    try:
        return str((base / Path(value).expanduser()).absolute())
    except RuntimeError:  # "~nobody": no such user, so it is a file's name
        return str((base / value).absolute())
