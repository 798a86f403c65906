"""`--print-recipe` and the saved recipe show every default at every depth, and run again as they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel
from typer.testing import CliRunner

from spcore.cli.app import app
from spcore.components import Registry, default_registry
from spcore.recipe import DataPart, EvalSettings, Recipe, TrainSettings, load_recipe
from spcore.running import execute
from spcore.testing import plugin as fakes

KEYS = {"dataset": "data", "launcher": "launch", "logger": "loggers"}
PARTS = [
    (c.kind, c.name)
    for _, c in default_registry().components()
    if KEYS.get(c.kind, c.kind) in Recipe.model_fields and not default_registry().missing(c)
]
NEEDED = {
    "files": {"source": "./a.csv"},
    "glue": {"name": "rte"},
    "hub": {"source": "x"},
    "corpus": {"source": "./a.txt"},
    "megatron-indexed": {"source": "./a.idx"},
    "parallel": {"source": "./texts"},
    "rows": {"source": "./a.jsonl"},
}


def shows(tree: Mapping[str, Any], model: type[BaseModel]) -> None:
    """Every field of a model is there, those of the models below too."""
    for name, field in model.model_fields.items():
        assert name in tree
        for kind in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(kind, type) and issubclass(kind, BaseModel) and isinstance(tree[name], Mapping):
                shows(tree[name], kind)


def printed(*args: str) -> str:
    done = CliRunner().invoke(app, [*args, "--print-recipe"])
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize(("kind", "name"), PARTS, ids=lambda one: one)
def test_a_printed_recipe_shows_every_default(kind: str, name: str, tmp_path: Path) -> None:
    part: Any = {"use": name, **(NEEDED.get(name, {}) if kind == "dataset" else {})}
    tree = {"model": "bert", "data": "builtin", "task": "text-classification", KEYS.get(kind, kind): part}
    if kind == "logger":
        tree["loggers"] = [part]
    (tmp_path / "r.json").write_text(json.dumps(tree))
    text = printed("run", str(tmp_path / "r.json"))
    shown = yaml.safe_load(text)
    assert list(shown) == list(Recipe.model_fields)
    shows(shown["train"], TrainSettings)
    shows(shown["eval"], EvalSettings)
    shows(shown["data"], DataPart)
    model = default_registry().options_model(kind, name)
    here = shown["loggers"][0] if kind == "logger" else shown[KEYS.get(kind, kind)]
    assert here["use"] == name
    if model is not None:
        shows(here, model)
    (tmp_path / "again.yaml").write_text(text)
    assert printed("run", str(tmp_path / "again.yaml")) == text, "it is the same recipe"
    assert printed("finetune", "--recipe", str(tmp_path / "again.yaml")) == text


def test_a_saved_recipe_runs_again_as_it_is(tmp_path: Path) -> None:
    parts = Registry(entry_points=False)
    parts.register(fakes, name="fakes")
    part = dict.fromkeys(("data", "strategy", "precision", "optimizer", "schedule", "launch"), "fake")
    tree = {**part, "model": "fake:tiny", "task": "fake-classification", "output": str(tmp_path / "run"), "loggers": []}
    recipe = load_recipe(tree, {"train.steps": 3, "eval": {"data": "fake"}}, registry=parts)
    first = execute(recipe, parts)
    saved = tmp_path / "run" / "recipe.yaml"
    for key, kind in {"model": "model", "data": "dataset", "optimizer": "optimizer"}.items():
        model = parts.options_model(kind, "fake")
        assert model is not None
        shows(yaml.safe_load(saved.read_text())[key], model)
    again = load_recipe(saved, registry=parts)
    assert again.to_yaml() == saved.read_text()
    second = execute(load_recipe(saved, {"output": str(tmp_path / "again")}, registry=parts), parts)
    assert (first.steps, first.metrics) == (second.steps, second.metrics)
