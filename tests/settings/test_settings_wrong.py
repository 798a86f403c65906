"""Every wrong recipe gives the same one line: from a file of each format, as an override, and from Python. Nothing starts."""

from __future__ import annotations

import contextlib
import io
import json
import math
import multiprocessing.process
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from recipe_writers import WRITERS, Unwritable
from wrong_recipes import BASE, MISSING, WRONG, Wrong, keys_of

from spcore import components, running, session
from spcore.cli import main
from spcore.cli.finetune import finetune
from spcore.cli.run import run
from spcore.components import Component, Registry
from spcore.errors import UserError
from spcore.recipe import load_recipe

CASES = [pytest.param(wrong, id=f"{n} {wrong.path}={wrong.value!r:.20}") for n, wrong in enumerate(WRONG)]


@pytest.fixture(scope="module")
def parts() -> Registry:
    """What is installed, and a strategy whose package is not."""
    made = Registry()
    made.add(Component("strategy", "giant", "a:b", "for giants", requires=("no-such-engine>=3",)), object)
    return made


@pytest.fixture
def nothing_starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, parts: Registry) -> Any:
    """A folder to be in. After the test: nothing was assembled, run, forked or written."""
    started: list[str] = []

    def noted(name: str) -> Any:
        return lambda *args, **more: started.append(name)

    monkeypatch.setattr(components, "default_registry", lambda: parts)
    for where, name in (
        (session, "assemble"), (running, "execute"), (running, "assemble"), (subprocess.Popen, "__init__"), (os, "fork"),
        (os, "posix_spawn"), (multiprocessing.process.BaseProcess, "start"), (Registry, "load"), (Registry, "create"),
    ):  # fmt: skip
        monkeypatch.setattr(where, name, noted(name))
    (tmp_path / "rows.csv").write_text("review,label\nfine,1\n")
    monkeypatch.chdir(tmp_path)
    before = set(os.listdir())
    yield tmp_path
    assert started == []
    assert {name for name in os.listdir() if not name.startswith("recipe.")} == before, "no folder was made"


def typed(*args: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The one line that the command line gives, which exits with 2."""
    monkeypatch.setattr("sys.argv", ["slimpajama", *args])
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as end:
        main()
    line = err.getvalue()
    assert (end.value.code, out.getvalue()) == (2, ""), line
    assert line.startswith("error: ")
    assert line.endswith("\n")
    assert line.count("\n") == 1, "one line"
    assert "Traceback" not in line
    return line.removeprefix("error: ").removesuffix("\n")


def called(command: Callable[..., None], *args: Any, **more: Any) -> str:
    """The line that a command's function gives, without a shell around it."""
    with pytest.raises(UserError) as caught:
        command(*args, **more)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    return str(caught.value)


def refused(tree: dict[str, Any], changes: Any, parts: Registry) -> str:
    """The text of the exception that Python code gets."""
    with pytest.raises(UserError) as caught:
        load_recipe(tree, changes, registry=parts)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_the_base_is_right(nothing_starts: Path, parts: Registry) -> None:
    recipe = load_recipe(BASE, registry=parts)
    for kind, write in WRITERS.items():
        Path(f"recipe.{kind}").write_text("\n".join(write(BASE).text))
        assert load_recipe(f"recipe.{kind}", registry=parts) == recipe


def test_there_are_enough() -> None:
    assert len(WRONG) >= 60
    assert len({(w.path, repr(w.value)) for w in WRONG}) == len(WRONG)


@pytest.mark.parametrize("wrong", CASES)
@pytest.mark.parametrize("kind", WRITERS)
def test_in_a_file(wrong: Wrong, kind: str, nothing_starts: Path, parts: Registry, monkeypatch: Any) -> None:
    try:
        written = WRITERS[kind](wrong.tree())
    except Unwritable:
        pytest.skip("TOML has no null")
    Path(f"recipe.{kind}").write_text("\n".join(written.text) + "\n")
    place = keys_of(wrong.path if wrong.place is None else wrong.place)
    number = (
        written.lines[place] if place else next(n for n, line in enumerate(written.text, 1) if line and line[0] != "#")
    )
    line = (
        typed("run", "recipe.yaml", monkeypatch=monkeypatch) if kind == "yaml" else called(run, Path(f"recipe.{kind}"))
    )
    assert line.startswith(f"recipe.{kind}:{number}: {wrong.says}")
    said = refused(wrong.tree(), (), parts)
    assert said.startswith(wrong.says)
    assert line == f"recipe.{kind}:{number}: {said}", "the same text apart from the place"


@pytest.mark.parametrize(
    "wrong", [case for case in CASES if case.values[0].override and case.values[0].value is not MISSING]
)
def test_as_an_override(wrong: Wrong, nothing_starts: Path, parts: Registry) -> None:
    Path("recipe.yaml").write_text("\n".join(WRITERS["yaml"](BASE).text))
    infinite = isinstance(wrong.value, float) and not math.isfinite(wrong.value)
    override = f"{wrong.path}={f'.{wrong.value}' if infinite else json.dumps(wrong.value)}"
    line = called(run, Path("recipe.yaml"), [override])
    text = refused(BASE, {wrong.path: wrong.value}, parts)
    assert text.startswith(wrong.says)
    assert line.startswith(f"override {override!r:.30}"[:-1]), "the override is named, not the file"
    assert line.endswith(f": {text}")
    assert line.count(wrong.path) >= 2
    assert line == called(finetune, recipe=Path("recipe.yaml"), sets=[override])
