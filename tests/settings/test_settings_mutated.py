"""Recipes broken at random: each loads, and its resolved form loads equal, or gives one line. Never a stack trace."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from recipe_writers import WRITERS, Unwritable
from wrong_recipes import BASE

from spcore.components import default_registry
from spcore.errors import UserError
from spcore.recipe import load_recipe

VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 1.5, 1e300, -0.0, math.nan, math.inf, 10**20, 10**310, "", "x", "no", "1", "~", "~x", "/", "a.b", "[", "&a", "*",
    "\x00", "two\nlines", "\U0001f600", "a" * 2000, "<<", [], [1], [[]], ["a", {"b": 1}], {}, {"use": None}, {"use": ""}, {"use": "files"},
    {"use": ["a"]}, {"use": {}}, {"use": "x", "source": 3}, {"source": []}, {"source": None}, {"0": 1}, {"": 1}, {"a": {"b": {"c": 1}}}, "glue",
    "hf:", "optim:adamw", ":adamw", "a:b:c",
]  # fmt: skip
KEYS = [
    "use", "source", "x", "", "lr", "0", "1", "data", "model", "eval", "train", "loggers", "columns", "every", "name", "a b", "<<", "\u00e9", "two\nlines",
    "adapter", "task", "launch", "device", "precision",
]  # fmt: skip


def spots(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    for key, inner in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        yield from spots(inner, (*path, key))


def broken(rng: random.Random) -> dict[str, Any]:
    """A recipe that is right, with one to three random changes."""
    tree = copy.deepcopy(BASE)
    for _ in range(rng.randint(1, 3)):
        *outer, last = rng.choice([path for path in spots(tree) if path])
        holder: Any = tree
        for key in outer:
            holder = holder[key]
        value, how = copy.deepcopy(rng.choice(VALUES)), rng.random()
        if how < 0.15:
            del holder[last]
        elif how < 0.5 and isinstance(holder, dict):
            holder[rng.choice(KEYS)] = value
        else:
            holder[last] = value
    return tree


def holds(source: Any, changes: Any = ()) -> None:
    """One line, or a recipe that loads again as it is."""
    said = ""
    try:
        recipe = load_recipe(source, changes, registry=default_registry())
    except UserError as error:
        said = f"{error}"
    if said:
        assert "\n" not in said
        assert 10 < len(said) < 1200
        return
    Path("again.yaml").write_text(recipe.to_yaml())
    again = load_recipe("again.yaml", registry=default_registry())
    assert again == recipe
    assert again.to_yaml() == recipe.to_yaml()


@pytest.mark.parametrize("seed", range(5))
def test_broken_recipes(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rng = random.Random(seed)
    for _ in range(30):
        tree = broken(rng)
        holds(tree)
        kind = rng.choice(list(WRITERS))
        try:
            Path(f"r.{kind}").write_text("\n".join(WRITERS[kind](tree).text))
        except Unwritable:
            continue
        holds(f"r.{kind}")
        holds(BASE, {".".join(rng.choice(KEYS) for _ in range(rng.randint(1, 4))): rng.choice(VALUES)})
        letters = "=.{}[]: '\"&*!\n\t#-01"
        holds(BASE, ["".join(rng.choice(["train", "seed", "data", *letters]) for _ in range(rng.randint(1, 9)))])
