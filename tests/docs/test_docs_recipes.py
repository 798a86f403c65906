"""The recipes in the pages are valid, the keys of the core are all described with their defaults, and refusals read as shown."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from doc_tools import DOCS, README, ROOT, blocks

from spcore import SlimPajamaError, default_registry, load_recipe
from spcore.recipe import DataPart, EvalSettings, Part, Recipe, TrainSettings
from spcore.recipe_files import Text

PAGE = ROOT / "docs" / "recipes.md"
RECIPES = [
    pytest.param(block, id=f"{page.name} {n}")
    for page in [README, *(page for page in DOCS if page.name != "generation.md")]  # which has presets, tests/docs_run
    for n, block in enumerate(blocks(page, "yaml"), 1)
]


def _load(block: str, folder: Path) -> Recipe:
    file = folder / "recipe.yaml"
    file.write_text(block)
    return load_recipe(file, registry=default_registry())


@pytest.mark.parametrize("block", RECIPES)
def test_recipes_are_valid(block: str, tmp_path: Path) -> None:
    recipe = _load(block, tmp_path)
    again = tmp_path / "resolved.yaml"
    again.write_text(recipe.to_yaml())
    assert load_recipe(again, registry=default_registry()) == recipe, "the resolved recipe is the same recipe"


@pytest.mark.parametrize("file", sorted((PAGE.parent / "recipes").glob("*.yaml")), ids=lambda file: file.name)
def test_recipe_files_are_valid(file: Path) -> None:
    """Each says in its first lines how it is run, and is run so but for the texts."""
    (line,) = re.findall(r"^#\s+slimpajama run (\S+) (\S+)$", file.read_text(), re.M)
    assert line[0] == f"docs/recipes/{file.name}"
    recipe = load_recipe(file, [line[1]], registry=default_registry())
    assert recipe.eval.data is not None
    assert recipe.eval.data.options["source"] == recipe.data.options["source"]


def test_short_and_full_forms_are_the_same(tmp_path: Path) -> None:
    _, short, full = blocks(PAGE, "yaml")
    assert _load(short, tmp_path) == _load(full, tmp_path)


def _default(key: str, default: Any) -> Any:
    """A key's default; a part's is what plugins flag."""
    named = default_registry().defaults({"loggers": "logger", "launch": "launcher"}.get(key, key))
    return default if key in ("model", "task", "data") or not named else named if key == "loggers" else named[0]


def _keys() -> dict[str, Any]:
    """Key of the core -> its default; KeyError-free for parts, whose defaults are names."""
    top = {name: field.default for name, field in Recipe.model_fields.items() if name not in ("train", "eval")}
    keys = {name: _default(name, default) for name, default in top.items()}
    keys |= {f"data.{k}": f.default for k, f in DataPart.model_fields.items() if k not in Part.model_fields}
    keys |= {f"train.{k}": f.default for k, f in TrainSettings.model_fields.items()}
    keys |= {f"eval.{k}": f.default for k, f in EvalSettings.model_fields.items()}
    return keys


def _table() -> dict[str, str]:
    """Key -> the default that the page states."""
    return dict(re.findall(r"^\| `([\w.]+)` \| (.+?) \|", PAGE.read_text(), re.M))


def test_every_core_key_is_described() -> None:
    assert set(_keys()) == {key for key in _table() if key.partition(".")[0] in Recipe.model_fields}


@pytest.mark.parametrize("key", sorted(_keys()))
def test_defaults_are_as_stated(key: str) -> None:
    stated, default = _table()[key], _keys()[key]
    if stated.startswith("`"):
        assert Text.parse_value(stated.strip("`")) == default
    else:
        assert key in ("model", "task", "data"), "only these have no default to state"
    if stated == "must be given":
        with pytest.raises(SlimPajamaError, match=key):
            load_recipe({k: "x" for k in ("model", "data") if k != key}, registry=default_registry())


def _refusals() -> list[Any]:
    """(command, line) of the first console block."""
    lines = blocks(PAGE, "console")[0].splitlines()
    return [
        pytest.param(c.removeprefix("$ slimpajama run "), e, id=c[17:])
        for c, e in zip(lines[::2], lines[1::2], strict=True)
    ]


@pytest.mark.parametrize(("command", "line"), _refusals())
def test_refusals_read_as_shown(command: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = blocks(PAGE, "yaml")[0]
    Path("recipe.yaml").write_text(first)
    Path("wrong.yaml").write_text(first.replace("lr:", "learning_rate:"))
    file, *overrides = shlex.split(command)
    with pytest.raises(SlimPajamaError) as caught:
        load_recipe(file, overrides, registry=default_registry())
    assert f"error: {caught.value}" == line
    assert caught.value.exit_code == 2


def test_values_of_overrides(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(blocks(PAGE, "yaml")[0])
    overrides = [
        "train.epochs=null",
        "train.steps=100",
        "loggers=[jsonl]",
        "data.columns={text: review}",
        "optimizer=lion",
        "optimizer.lr=1e-5",
    ]
    recipe = load_recipe(file, overrides, registry=default_registry())
    assert (recipe.train.epochs, recipe.train.steps) == (None, 100)
    assert [part.use for part in recipe.loggers] == ["jsonl"]
    assert recipe.data.columns == {"text": "review"}
    assert recipe.optimizer.use == "lion"
    assert recipe.optimizer.options["lr"] == 1e-5
    assert load_recipe(file, ["optimizer=lion"], registry=default_registry()).optimizer.options["lr"] != 2e-5
    assert recipe.output == str(tmp_path / "runs" / "sst2"), "paths are relative to the recipe's file"
    assert yaml.safe_load(recipe.to_yaml())["train"]["steps"] == 100
