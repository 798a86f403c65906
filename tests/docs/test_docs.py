"""The pages agree with the repository: links, translations, commands, excerpts, and everything public is mentioned."""

from __future__ import annotations

import inspect
import os
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
from doc_tools import DOCS, PAGES, README, ROOT, blocks, documented, links, prose

import spcore
from spcore import default_registry, hooks
from spcore.cli.app import app
from spcore.components import KINDS, describe

CHINESE = ROOT / "README.zh.md"
PLUGINS = ROOT / "docs" / "plugins.md"
EXAMPLE = ROOT / "docs" / "example_plugin"
COMMANDS = [
    pytest.param(line, id=f"{page.name}: {line[:60]}")
    for page in [README, *DOCS]
    for block in blocks(page, "bash")
    for line in block.splitlines()
    if line.startswith(("slimpajama ", "sp "))
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_exist(page: Path) -> None:
    targets = [target.partition("#")[0] for target in links(page) if "://" not in target]
    missing = [target for target in targets if target and not (page.parent / target).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_anchors_exist(page: Path) -> None:
    headings = {
        re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^#+ (.+)$", prose(page), re.M)
    }
    assert [target for target in links(page) if target.startswith("#") and target[1:] not in headings] == []


def test_pages_are_linked_from_the_readme() -> None:
    assert {f"docs/{page.name}" for page in DOCS} <= set(links(README))


def test_the_chinese_readme_is_the_same() -> None:
    assert blocks(CHINESE) == blocks(README)
    theirs = [target.replace("README.md", "README.zh.md") for target in links(CHINESE)]
    assert theirs == links(README)
    levels = [re.findall(r"^(#+) ", prose(page), re.M) for page in (README, CHINESE)]
    assert levels[0] == levels[1]
    rows = [len(re.findall(r"^\|", prose(page), re.M)) for page in (README, CHINESE)]
    assert rows[0] == rows[1]


def _command(words: list[str]) -> tuple[Any, list[str]]:
    """The command that words name, and its own arguments."""
    command: Any = typer.main.get_command(app)
    context = command.make_context(words[0], [], resilient_parsing=True)
    rest = words[1:]
    while hasattr(command, "get_command"):
        found = command.get_command(context, rest[0])
        assert found is not None, f"there is no command {rest[0]!r}"
        command, rest = found, rest[1:]
    return command, rest


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_parse(line: str) -> None:
    command, rest = _command(shlex.split(line, comments=True))
    with command.make_context(command.name, rest):
        pass  # unknown options, missing arguments and wrong values raise


def test_commands_are_found() -> None:
    assert len(COMMANDS) >= 12
    with pytest.raises(Exception, match="no-such-option"):
        test_commands_parse("slimpajama doctor --no-such-option")
    with pytest.raises(AssertionError, match="no command"):
        test_commands_parse("slimpajama sing")


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for page in PAGES:
        for target in re.findall(r"\bmake ([a-z][\w-]*)`", page.read_text()):
            assert re.search(rf"^{target}:", makefile, re.M), f"{page.name}: make {target}"


def _mentioned(name: str, text: str) -> bool:
    """Whether a name stands by itself in a span or block of code."""
    return re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text) is not None


def test_every_public_name_is_documented() -> None:
    text = documented()
    assert [name for name in spcore.__all__ if not _mentioned(name, text)] == []


def test_every_hook_is_documented() -> None:
    own = [n for n, f in inspect.getmembers(hooks, inspect.isfunction) if f.__module__ == hooks.__name__]
    assert "spcore_components" in own
    assert [name for name in own if f"`{name}`" not in PLUGINS.read_text()] == []


def test_every_kind_is_documented() -> None:
    assert [kind for kind in KINDS if f"`{kind}`" not in PLUGINS.read_text()] == []


def test_every_component_and_option_is_documented() -> None:
    registry, text = default_registry(), documented()
    ours = [
        c
        for plugin, c in registry.components()
        if registry.owner(c.kind, f"{plugin}:{c.name}").distribution == "slimpajama"
    ]
    assert len(ours) > 20
    assert [f"{c.kind}/{c.name}" for c in ours if f"`{c.name}" not in text and f"`{c.kind}/{c.name}`" not in text] == []
    for component in ours:
        options = describe(registry, component.kind, component.name)["options"]
        silent = [name for name, field in options.items() if not field.get("description")]
        assert not silent, f"{component.kind}/{component.name}: {silent}"


def test_excerpts_are_the_example() -> None:
    pieces: dict[str, list[str]] = {}
    for path, content in re.findall(
        r"^`docs/example_plugin/([\w./]+)`\n\n```\w+\n(.*?)^```$", PLUGINS.read_text(), re.M | re.S
    ):
        assert content.strip() in (EXAMPLE / path).read_text(), path
        pieces.setdefault(path, []).append(content)
    whole = {
        p.relative_to(EXAMPLE).as_posix()
        for p in EXAMPLE.rglob("*")
        if p.suffix in (".py", ".toml") and p.name != "__init__.py"
    }
    assert set(pieces) == whole
    for path, parts in pieces.items():
        shown = [line for part in parts for line in part.splitlines() if line]
        assert shown == [line for line in (EXAMPLE / path).read_text().splitlines() if line], path


def test_other_code_in_the_guide_runs() -> None:
    excerpts = "\n".join(p.read_text() for p in EXAMPLE.rglob("*.py"))
    others = [block for block in blocks(PLUGINS, "python") if block.strip() not in excerpts]
    assert len(others) == 3
    for block in others:
        exec(compile(block, "plugins.md", "exec"), {"__name__": "plugins_md"})


def test_data_page_has_formats_and_guesses() -> None:
    from spcore.text import LABEL, TEXT, TEXT_PAIR
    from spcore_data.formats import FORMATS
    from spcore_data.glue_tasks import TASKS
    from spcore_data.splits import SPLITS

    text = (ROOT / "docs" / "data.md").read_text()
    for suffix in FORMATS:
        assert f"`{suffix}`" in text
    for role in (TEXT, TEXT_PAIR, LABEL):
        line = " ".join(re.search(rf"^- `{role.name}`: (.*?)(?=^- |\n\n)", text, re.M | re.S)[1].split())  # type: ignore[index]
        assert line.partition(";")[0] == ", ".join((role.name, *role.guesses))
    assert ", ".join(TASKS) in text
    assert all(f"`{word}`" in text for word in SPLITS)


_PLACES = re.compile("|".join((r"/wor" r"k/", r"/tm" r"p/w\b", r"/roo" r"t/")))
_INDICES = re.compile(
    "|".join((r"pypi\.or" r"g", r"pythonhosted\.or" r"g", r"--(?:extra-)?index-ur" r"l", r"--trusted-hos" r"t"))
)
_SKIPPED = {".git", ".venv", "runs", "dist", "build", "__pycache__", "shared"}


def _files() -> list[Path]:
    found = []
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [
            f
            for f in folders
            if f not in _SKIPPED and not (f.startswith(".") and f != ".ci") and not f.endswith(".egg-info")
        ]
        found += [Path(folder, name) for name in names if name not in _SKIPPED]
    return found


@pytest.mark.parametrize("pattern", [_PLACES, _INDICES], ids=["machine paths", "package indices"])
def test_no_file_names_a_machine(pattern: re.Pattern[str]) -> None:
    named = []
    for path in _files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        named += [f"{path.relative_to(ROOT)}: {hit.group(0)}" for hit in pattern.finditer(text)]
    assert not named
