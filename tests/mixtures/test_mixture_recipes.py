"""Mixtures in recipes: read, written out, overridden, refused in one line with the place."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from spcore import default_registry
from spcore.errors import RecipeError, UserError
from spcore.recipe import Recipe, data_part, load_recipe

TEXT = """model: bert-base-uncased
task: text-classification
data:
  sources:
    web: {source: web.csv, weight: 0.7, columns: {text: body}}
    the-books:
      use: files
      source: [a.jsonl, b.jsonl]
      weight: 0.3
      split: train[:90%]
  max_length: 64
train: {steps: 10}
eval:
  data:
    sources:
      web: web-held.csv
      the-books: {source: a.jsonl, split: "train[90%:]"}
"""


def read(folder: Path, text: str = TEXT, **changes: Any) -> Recipe:
    for name in ("web.csv", "web-held.csv", "a.jsonl", "b.jsonl"):
        (folder / name).touch()
    file = folder / "recipe.yaml"
    file.write_text(text)
    return load_recipe(file, changes, registry=default_registry())


def test_a_mixture_is_read_in_full_and_reads_back(tmp_path: Path) -> None:
    recipe = read(tmp_path)
    assert (recipe.data.use, recipe.data.max_length) == ("mixture", 64)
    assert recipe.data.sources is not None
    assert {name: part.weight for name, part in recipe.data.sources.items()} == {"web": 0.7, "the-books": 0.3}
    assert recipe.data.parts["web"].use == "files"
    assert recipe.data.parts["web"].options["source"] == str(tmp_path / "web.csv"), "relative to the recipe's file"
    assert recipe.data.parts["the-books"].options["source"] == [str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")]
    assert recipe.eval.data is not None
    assert recipe.eval.data.parts["web"].options["source"] == str(tmp_path / "web-held.csv")
    saved = tmp_path / "resolved.yaml"
    saved.write_text(recipe.to_yaml())
    assert load_recipe(saved, registry=default_registry()) == recipe


def test_a_weight_is_overridden_by_its_path(tmp_path: Path) -> None:
    recipe = read(tmp_path, **{"data.sources.web.weight": 2, "data.sources.the-books.limit": 5})
    assert recipe.data.sources is not None
    assert recipe.data.sources["web"].weight == 2
    assert recipe.data.sources["the-books"].limit == 5


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("data.sources.web.weight", 0, "data.sources.web.weight: found 0, expected: a number above 0 or null"),
        ("data.sources.web.weight", "much", "data.sources.web.weight: found 'much', expected: a number above 0 or null"),
        ("data.sources.web.weight", None, "data.sources.web.weight: missing, expected: a number above 0, its share of what is trained on"),
        ("data.sources.web.wieght", 1, "data.sources.web.wieght: unknown key 'wieght'; did you mean 'weight'? known: columns, delimiter,"),
        ("data.sources.web.probability", 1, "data.sources.web.probability: unknown key 'probability'; did you mean 'weight'?"),
        ("data.sources.web.max_length", 9, "data.sources.web.max_length: unknown key 'max_length'; did you mean 'data.max_length'?"),
        ("data.sources.web.format", "exe", "data.sources.web.format: found 'exe', expected: 'auto' or 'csv'"),
        ("data.sources.web", {"use": "flies", "weight": 1}, "data.sources.web.use: unknown dataset 'flies'; did you mean 'files'?"),
        ("data.sources.web", 3, "data.sources.web: found 3, expected: the dataset's name, a source, or a mapping with `use`"),
        ("data.sources", [1], "data.sources: found [1], expected: name -> data set"),
        ("data.sources", {"a b": {"source": "web.csv", "weight": 1}}, "data.sources: found the name 'a b', expected: letters, digits, - and _"),
        ("data.source", "web.csv", "data.source: found 'web.csv' beside `sources`, expected: one of them"),
        ("data.limit", 5, "data.limit: found 5, expected: nothing, it is said of each source: data.sources.NAME.limit"),
        ("data.columns", {"text": "body"}, 'data.columns: found {"text": "body"}, expected: nothing, it is said of each source'),
        ("data.delimiter", ";", "data.delimiter: unknown key 'delimiter'"),
        ("eval.data.sources.web", {"source": "web.csv", "weight": 1}, "eval.data.sources.web.weight: found 1, expected: nothing, each source is"),
        ("eval.data.weights_of", "tokens", "eval.data.weights_of: found 'tokens', and it needs weights, data.sources.NAME.weight"),
        ("eval.data.shuffle_buffer", 5, "eval.data.shuffle_buffer: evaluation shuffles nothing: leave it out"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(path: str, value: Any, says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, **{path: value})
    said = re.sub(r"^\S+recipe\.yaml:\d+: ", "", str(caught.value))
    assert said.startswith(says)
    assert "\n" not in said


def test_the_line_of_the_setting_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        read(tmp_path, TEXT.replace("weight: 0.3", "weight: -1"))
    assert str(caught.value).startswith(f"{tmp_path / 'recipe.yaml'}:9: data.sources.the-books.weight: found -1, ")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("{use: mixture}", "data.sources: found null, expected: name -> data set, as {web: {source: web.jsonl, weight: 0.7}, "),
        ("{sources: {}}", "data.sources: found {}, expected: name -> data set"),
        ("{use: glue, sources: {a: {source: a.jsonl}}}", "data.use: found 'glue' beside `sources`, expected: one of them"),
    ],
)  # fmt: skip
def test_a_mixture_that_is_none(data: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=rf"recipe\.yaml:2: {re.escape(says)}"):
        read(tmp_path, f"model: m\ndata: {data}\n")


def test_weights_of_one_source_need_a_mixture(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"data\.weights_of: found 'tokens', and it needs weights"):
        read(tmp_path, "model: m\ndata: {source: a.jsonl, weights_of: tokens}\n")


def test_where_one_data_set_is_wanted(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"data\.sources: a mixture is for training, expected: one data set"):
        data_part({"sources": {"a": {"source": "x.csv", "weight": 1}}}, default_registry(), base=tmp_path)
