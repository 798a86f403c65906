"""The syntax of recipes: TOML and JSON, and YAML in `recipe_yaml`, each with the line of every key.

Whatever cannot be read is `Unreadable`, with line and column. A key that is there twice is refused in all three.
"""

from __future__ import annotations

import json
import re
import tomllib
from bisect import bisect_right
from collections.abc import Callable, Mapping
from typing import Any

from spcore.errors import short

KeyPath = tuple[str | int, ...]
Read = tuple[Any, dict[KeyPath, int]]
"""What was read, and the line of each key and list entry, from 1; () is where the whole begins."""


class Unreadable(ValueError):
    """What cannot be read. line, column: from 1, None where the parser does not tell."""

    def __init__(self, text: str, line: int | None = None, column: int | None = None) -> None:
        super().__init__(text)
        self.text, self.line, self.column = text, line, column


def once(seen: dict[str, int], path: KeyPath, line: int) -> None:
    key = str(path[-1])
    if key in seen:
        raise Unreadable(f"{dotted(path)} is given twice, first in line {seen[key]}", line)
    seen[key] = line


def read_json(content: str) -> Read:
    """Read JSON. Raises Unreadable."""
    try:
        return json.loads(content), _Lines(content, toml=False).document()
    except json.JSONDecodeError as error:
        raise Unreadable(f"not JSON: {error.msg}", error.lineno, error.colno) from error
    except RecursionError as error:
        raise Unreadable("not JSON: nested too deeply") from error
    except ValueError as error:
        if isinstance(error, Unreadable):
            raise
        raise Unreadable(f"not JSON: {error}") from error  # a number of more digits than Python reads


def read_toml(content: str) -> Read:
    """Read TOML. Raises Unreadable."""
    try:
        return tomllib.loads(content), _Lines(content, toml=True).document()
    except tomllib.TOMLDecodeError as error:
        text, _, place = str(error).rpartition(" (at ")
        found = re.match(r"line (\d+), column (\d+)", place)
        at = (int(found[1]), int(found[2])) if found else (content.count("\n") + 1, None)
        raise Unreadable(f"not TOML: {text or error}", *at) from error
    except RecursionError as error:
        raise Unreadable("not TOML: nested too deeply") from error
    except ValueError as error:
        raise Unreadable(f"not TOML: {error}") from error


_TEXT = re.compile(r'"""(?:[^\\]|\\.)*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\'', re.DOTALL)
_WHITE = {True: re.compile(r"(?:[ \t\r\n,]|#[^\n]*)*"), False: re.compile(r"[ \t\r\n,]*")}
_PLAIN = re.compile(r"[^,\]}\n#]*")
_BARE = re.compile(r"[A-Za-z0-9_-]+")


class _Lines:
    """Lines of keys in TOML or JSON that is known to be well formed: their parsers keep none."""

    def __init__(self, content: str, *, toml: bool) -> None:
        self.text, self.toml, self.at = content, toml, 0
        self.starts = [0, *(m.end() for m in re.finditer("\n", content))]
        self.lines: dict[KeyPath, int] = {}
        self.last: dict[KeyPath, int] = {}  # of a TOML array of tables: its last index

    def document(self) -> dict[KeyPath, int]:
        """The lines of a whole document."""
        self._white()
        self.lines[()] = self._line()
        if not self.toml:
            self._value(())
            return self.lines
        table: KeyPath = ()
        while self.at < len(self.text):
            if self.text[self.at] == "[":
                table = self._header()
            else:
                self._pair(table)
            self._white()
        return self.lines

    def _header(self) -> KeyPath:
        line, many = self._line(), self.text.startswith("[[", self.at)
        self.at += 2 if many else 1
        *parents, name = self._keys()
        path: KeyPath = ()
        for key in parents:
            path = self._inside((*path, key))
        path = (*path, name)
        self.lines.setdefault(path, line)
        if many:
            self.last[path] = self.last.get(path, -1) + 1
        path = self._inside(path)
        self.lines.setdefault(path, line)
        self.at = self.text.index("]", self.at) + (2 if many else 1)
        return path

    def _inside(self, path: KeyPath) -> KeyPath:
        return (*path, self.last[path]) if path in self.last else path

    def _pair(self, path: KeyPath, seen: dict[str, int] | None = None) -> None:
        line = self._line()
        for key in self._keys():
            path = (*path, key)
            self.lines.setdefault(path, line)
        if seen is not None:
            once(seen, path, line)
        self.at += 1  # "=" or ":"
        self._value(path)

    def _keys(self) -> list[str]:
        """A key, in TOML a dotted one; then stands at what follows it."""
        keys: list[str] = []
        while True:
            self._white()
            quoted = _TEXT.match(self.text, self.at)
            found = quoted or _BARE.match(self.text, self.at)
            assert found, "well formed: the parser read it"
            self.at = found.end()
            keys.append(_unquoted(found[0]) if quoted else found[0])
            self._white()
            if not self.toml or self.text[self.at] != ".":
                return keys
            self.at += 1

    def _value(self, path: KeyPath) -> None:
        self._white()
        opening = self.text[self.at]
        if opening in "{[":
            self.at += 1
            seen: dict[str, int] = {}
            for n in range(len(self.text)):
                self._white()
                if self.text[self.at] in "}]":
                    break
                if opening == "{":
                    self._pair(path, None if self.toml else seen)
                else:
                    self.lines[(*path, n)] = self._line()
                    self._value((*path, n))
            self.at += 1
        else:
            found = _TEXT.match(self.text, self.at) or _PLAIN.match(self.text, self.at)
            assert found, "well formed: the parser read it"
            self.at = found.end()

    def _white(self) -> None:
        found = _WHITE[self.toml].match(self.text, self.at)
        assert found, "matches nothing too"
        self.at = found.end()

    def _line(self) -> int:
        return bisect_right(self.starts, self.at)


def _unquoted(text: str) -> str:
    if text.startswith("'"):
        return text[1:-1]
    return str(tomllib.loads(f"x={text}")["x"]) if "\\U" in text else str(json.loads(text, strict=False))


READERS: Mapping[str, Callable[[str], Read]] = {".toml": read_toml, ".json": read_json}
"""Suffix -> reader; every other suffix is YAML."""


def dotted(path: KeyPath) -> str:
    """A path as people write it."""
    return ".".join(key if key.isprintable() else repr(key) for key in (short(str(key)) for key in path))
