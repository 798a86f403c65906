"""Recipes in YAML, with 1.2's scalars and the line of every key. Apart, as nobody who opens a model needs PyYAML."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import yaml

from spcore.recipe_syntax import KeyPath, Read, Unreadable, dotted, once

MOST_KEYS = 300_000


class _Loader(yaml.SafeLoader):
    """PyYAML reads YAML 1.1, where `no` is false and `1e-4` is text. Recipes use the core schema of YAML 1.2."""

    yaml_implicit_resolvers: dict[str, Any] = {}

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Keys are text, whatever they look like: `1:` and `true:` too."""
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                key.tag = "tag:yaml.org,2002:str"
        return super().construct_mapping(node, deep)


_TAG = "tag:yaml.org,2002:"
_BOOLS = {"true": True, "false": False}


def _scalar(what: str, convert: Callable[[str], Any]) -> Any:
    def construct(_: Any, node: Any) -> Any:
        try:
            return convert(node.value.replace("_", "").lower())
        except (ValueError, KeyError, AttributeError):
            problem = f"{str(node.value)[:40]!r} is no {what}, or one that is too long"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from None

    return construct


for _name, _pattern, _first in (
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"^[-+]?[0-9][0-9_]*$", list("-+0123456789")),
    ("float", r"^(?:[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$", list("-+0123456789.")),
):  # fmt: skip
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(_pattern), _first)
_Loader.yaml_constructors = {  # no other tag: a date, bytes or a set is no setting
    tag: maker for tag, maker in yaml.SafeLoader.yaml_constructors.items() if tag in (None, *(_TAG + t for t in ("null", "str", "seq", "map")))
}  # fmt: skip
_Loader.add_constructor(_TAG + "bool", _scalar("boolean", _BOOLS.__getitem__))
_Loader.add_constructor(_TAG + "int", _scalar("whole number", int))  # 010 is ten, not eight
_Loader.add_constructor(_TAG + "float", _scalar("number", lambda text: float(re.sub(r"\.(inf|nan)", r"\1", text))))


def read_yaml(content: str) -> Read:
    """Read YAML. Raises Unreadable."""
    try:
        loader = _Loader(content)
        node: Any = loader.get_single_node()
        if node is None:
            return None, {(): 1}
        lines: dict[KeyPath, int] = {(): node.start_mark.line + 1}
        for path, line in _yaml_lines(node, (), ()):
            lines[path] = line
            if len(lines) > MOST_KEYS:
                raise Unreadable(f"more than {MOST_KEYS} keys, anchors written out", line)
        return loader.construct_document(node), lines  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark, problem = error.problem_mark, error.problem or str(error.context)
        if problem.startswith("but "):
            problem = f"{error.context}, {problem}"
        if r"'\t'" in problem:
            problem += "; indent with spaces, not tabs"
        place = (mark.line + 1, mark.column + 1) if mark else (None, None)
        raise Unreadable(f"not YAML: {problem}", *place) from error
    except yaml.reader.ReaderError as error:
        line = content.count("\n", 0, error.position) + 1
        raise Unreadable(
            f"not YAML: the character U+{ord(error.character) if isinstance(error.character, str) else error.character:04X} must not stand there",
            line,
        ) from error
    except RecursionError as error:
        raise Unreadable("not YAML: nested too deeply") from error


def _yaml_lines(node: Any, path: KeyPath, around: tuple[Any, ...]) -> Iterator[tuple[KeyPath, int]]:
    if node in around:
        raise Unreadable(f"{dotted(path)} contains itself", node.start_mark.line + 1)
    around = (*around, node)
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise Unreadable("not YAML: a key must be a text, not a list or a mapping", line)
            if key.value == "<<" and key.style is None:
                raise Unreadable("merge keys (<<) are no part of YAML 1.2; write the keys out", line)
            once(seen, (*path, key.value), line)
            yield (*path, key.value), line
            yield from _yaml_lines(value, (*path, key.value), around)
    elif isinstance(node, yaml.SequenceNode):
        for n, value in enumerate(node.value):
            yield (*path, n), value.start_mark.line + 1
            yield from _yaml_lines(value, (*path, n), around)


class _Dumper(yaml.SafeDumper):
    """Quotes what `_Loader` would not read back as text."""

    yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers


def dump_yaml(tree: Mapping[str, Any]) -> str:
    """YAML that reads back equal, keys in the order given."""
    return yaml.dump(dict(tree), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
