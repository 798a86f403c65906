"""Reading recipe files: three formats, the lines of their keys, YAML's scalars, and whose folder a path is relative to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from core_fakes import fake, registry

from spcore.errors import RecipeError
from spcore.recipe import load_recipe
from spcore.recipe_files import Text
from spcore.recipe_yaml import dump_yaml

YAML = """\
model: bert
task: text-classification
data:
  use: glue
  max_length: 64
optimizer: {use: sgd, lr: 1e-2}
train:
  epochs: 2

  seed: 7
loggers: [progress]
"""
TOML = """\
model = "bert"
task = "text-classification"
loggers = ["progress"]
optimizer = {use = "sgd", lr = 1e-2}

[data]
use = "glue"
max_length = 64

[train]
epochs = 2
seed = 7
"""
JSON = json.dumps(
    {
        "model": "bert", "task": "text-classification", "data": {"use": "glue", "max_length": 64},
        "optimizer": {"use": "sgd", "lr": 0.01}, "train": {"epochs": 2, "seed": 7}, "loggers": ["progress"],
    }, indent="\t",
)  # fmt: skip
FILES = {"r.yaml": YAML, "r.yml": YAML, "r.toml": TOML, "r.json": JSON}


def refusal(file: Path, *overrides: str) -> str:
    """The text of the error for this file."""
    with pytest.raises(RecipeError) as caught:
        load_recipe(file, list(overrides), registry=registry())
    text = str(caught.value)
    assert "\n" not in text, "one line"
    return text


@pytest.mark.parametrize("name", FILES)
def test_formats_give_the_same_recipe(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(FILES[name])
    recipe = load_recipe(tmp_path / name, registry=registry())
    (tmp_path / "other.yaml").write_text(YAML)
    assert recipe == load_recipe(str(tmp_path / "other.yaml"), registry=registry())
    assert (recipe.train.epochs, recipe.train.seed, recipe.data.max_length) == (2, 7, 64)
    assert recipe.optimizer.options == {"lr": 0.01, "momentum": 0.0}


@pytest.mark.parametrize("name", FILES)
def test_errors_name_file_and_line(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_text(FILES[name].replace("seed", "sead").replace('"sead": 7', '"sead":  7'))
    line = next(n for n, text in enumerate(file.read_text().splitlines(), 1) if "sead" in text)
    assert refusal(file).startswith(f"{file}:{line}: train.sead: unknown key 'sead'; did you mean 'seed'?")


@pytest.mark.parametrize("name", FILES)
def test_lines_of_values_in_sections(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_text(FILES[name].replace("64", "1"))
    line = next(n for n, text in enumerate(file.read_text().splitlines(), 1) if "max_length" in text)
    assert (
        refusal(file)
        == f"{file}:{line}: data.max_length: found 1, expected: a whole number at least 4 and below 2147483648 or null"
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4), ("2.0e-5", 2e-5), ("1E3", 1000.0), (".5", 0.5), ("-.inf", float("-inf")), ("3", 3), ("-3", -3), ("010", 10),
        ("09", 9), ("1_000", 1000), ("true", True), ("False", False), ("null", None), ("~", None), ("", None),
        ("no", "no"), ("yes", "yes"), ("on", "on"), ("off", "off"), ("y", "y"), ("2024-01-31", "2024-01-31"), ("1:30", "1:30"),
        ("0x10", "0x10"), ("1.2.3", "1.2.3"), ("<<", "<<"), ("=", "="), ("[1, no]", [1, "no"]), ("{a: 1e1}", {"a": 10.0}), ("'1'", "1"),
    ],
)  # fmt: skip
def test_scalars_are_yaml_1_2(text: str, value: Any) -> None:
    found = Text.parse_value(text)
    assert (found, type(found)) == (value, type(value))
    assert Text.parse_value(dump_yaml({"x": value}))["x"] == value


AWKWARD = [
    "no",
    "1e-4",
    "null",
    "~",
    "",
    "010",
    "true",
    ".5",
    "a: b",
    "# x",
    " lead",
    "tab\t",
    "two\nlines",
    "ünï 漢 😀",
    "'",
    '"',
    "- x",
    "1_0",
    "<<",
]


@pytest.mark.parametrize("text", AWKWARD)
def test_dumped_text_stays_text(text: str) -> None:
    assert Text.parse_value(dump_yaml({"key": text, "list": [text]})) == {"key": text, "list": [text]}


def test_keys_are_text_whatever_they_look_like(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text("model: b\ndata: {use: glue, columns: {1: a, no: b, true: c}}\n")
    assert load_recipe(file, registry=registry()).data.columns == {"1": "a", "no": "b", "true": "c"}
    file.write_text("1: x\n")
    assert f"{file}:1: 1: unknown key '1'" in refusal(file)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("r.yaml", "train:\n  seed: 1\n  seed: 2\n", ":3: train.seed is given twice, first in line 2"),
        ("r.yaml", "model: a\ndata: b\nmodel: c\n", ":3: model is given twice, first in line 1"),
        ("r.json", '{"model": "a",\n "model": "b"}', ":2: model is given twice, first in line 1"),
        ("r.yaml", "loggers:\n- {use: jsonl, use: progress}\n", ":2: loggers.0.use is given twice"),
        ("r.toml", 'model = "a"\nmodel = "b"\n', ":2:12: not TOML: Cannot overwrite a value"),
        ("r.yaml", "model: [1\ndata: 2", ":2:5: not YAML: "),
        ("r.yaml", "model: {a\n\tb: 1}", "; indent with spaces, not tabs"),
        ("r.json", '{"model": "a",\n "data" "b"}', ":2:9: not JSON: Expecting ':' delimiter"),
        ("r.toml", "model = \n", ":1:9: not TOML: Invalid value"),
        ("r.yaml", "- model\n", ":1: found a list, expected: a mapping with `model`, `task`, `data`"),
        ("r.yaml", "", ":1: found nothing, expected: a mapping"),
        ("r.yaml", "just words", ":1: found 'just words', expected: a mapping"),
        ("r.yaml", "model: a\n---\nmodel: b\n", ":2:1: not YAML: expected a single document in the stream, but found another document"),
        ("r.yaml", "? [a]\n: x\n", ":1: not YAML: a key must be a text, not a list or a mapping"),
        ("r.yaml", "model: !!python/object/apply:os.getcwd []\n", "not YAML: could not determine a constructor"),
        ("r.yaml", "loggers: &all [*all]\n", ":1: loggers.0 contains itself"),
        ("r.yaml", "model: \x01\n", ":1: not YAML: the character U+0001 must not stand there"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_read(name: str, content: str, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    text = refusal(tmp_path / name)
    assert text.startswith(str(tmp_path / name))
    assert words in text


def test_aliases_are_honoured(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text("model: b\ndata: &set {use: glue, name: mrpc}\neval: {data: *set}\n")
    recipe = load_recipe(file, registry=registry())
    assert recipe.eval.data == recipe.data


def test_missing_file_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(YAML)
    assert (
        refusal(tmp_path / "recipe.yml")
        == f"recipe '{tmp_path / 'recipe.yml'}' does not exist; did you mean 'recipe.yaml'?"
    )
    assert refusal(tmp_path / "no" / "r.yaml").endswith("does not exist")
    assert refusal(tmp_path).endswith(
        f"is a folder, expected: a YAML, TOML or JSON file; did you mean {str(tmp_path / 'recipe.yaml')!r}?"
    )
    (tmp_path / "latin.yaml").write_bytes(b"data: x\nmodel: caf\xe9\n")
    assert refusal(tmp_path / "latin.yaml").endswith(":2: not UTF-8: found the byte 0xe9; save the file as UTF-8")
    assert "cannot be read" in refusal(tmp_path / ("x" * 300))


def test_a_byte_order_mark_is_no_key(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("\ufeff" + YAML, encoding="utf-8")
    assert load_recipe(tmp_path / "r.yaml", registry=registry()).train.seed == 7


def test_surrogate_pairs_of_json(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(json.dumps({"model": "😀", "data": "glue"}))
    assert load_recipe(tmp_path / "r.json", registry=registry()).model.options["source"] == "😀"


@pytest.fixture
def two_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """(the recipe's folder, the working directory), with a file `rows.csv` in each."""
    home, here = tmp_path / "home", tmp_path / "here"
    for folder in (home, here):
        folder.mkdir()
        (folder / "rows.csv").write_text("a,b\n")
    monkeypatch.chdir(here)
    return home, here


def test_paths_are_relative_to_the_file_and_overrides_to_the_working_directory(two_folders: tuple[Path, Path]) -> None:
    home, here = two_folders
    (home / "more").mkdir()
    (home / "r.yaml").write_text(
        "model: ./model\ndata: rows.csv\neval: {data: {source: [rows.csv, '*.csv', gone.csv]}}\noutput: out\n"
    )
    recipe = load_recipe(home / "r.yaml", registry=registry())
    assert recipe.model.options["source"] == str(home / "model"), "written as a path, so it is one"
    assert recipe.data.options["source"] == str(home / "rows.csv")
    assert recipe.eval.data is not None
    assert recipe.eval.data.options["source"] == [str(home / "rows.csv"), str(home / "*.csv"), "gone.csv"]
    assert recipe.output == str(home / "out")
    changed = load_recipe(
        home / "r.yaml", ["data=rows.csv", "output=out", "eval.data.source=../home/rows.csv"], registry=registry()
    )
    assert changed.data.options["source"] == str(here / "rows.csv")
    assert changed.output == str(here / "out")
    assert changed.eval.data is not None
    assert Path(str(changed.eval.data.options["source"])).resolve() == home / "rows.csv"


def test_paths_of_a_mapping_are_relative_to_the_base(two_folders: tuple[Path, Path]) -> None:
    home, here = two_folders
    tree = {"model": "hf:org/name", "data": Path("rows.csv"), "output": Path("out")}
    recipe = load_recipe(tree, registry=registry())
    assert (recipe.data.options["source"], recipe.output) == (str(here / "rows.csv"), str(here / "out"))
    recipe = load_recipe(tree, registry=registry(), base=home)
    assert (recipe.data.options["source"], recipe.output) == (str(home / "rows.csv"), str(home / "out"))
    assert recipe.model.options["source"] == "hf:org/name"


def test_names_stay_names(two_folders: tuple[Path, Path]) -> None:
    """A folder that is called like a component, or like nothing, changes no meaning."""
    _, here = two_folders
    (here / "glue").mkdir()
    recipe = load_recipe({"model": "bert", "data": "glue"}, ["eval.data=glue"], registry=registry())
    assert recipe.data.use == "glue"
    assert recipe.eval.data == recipe.data
    assert recipe.model.options["source"] == "bert"
    explicit = load_recipe({"model": "bert", "data": {"source": "glue"}}, registry=registry())
    assert (explicit.data.use, explicit.data.options["source"]) == ("files", str(here / "glue"))
    assert load_recipe({"model": "", "data": "glue"}, registry=registry()).model.options["source"] == ""


def test_a_home_folder_is_filled_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    recipe = load_recipe({"model": "~/models/x", "data": "glue", "output": "~/out"}, registry=registry())
    assert recipe.model.options["source"] == str(tmp_path / "models/x")
    assert recipe.output == str(tmp_path / "out")


def test_a_resolved_recipe_runs_from_any_folder(
    two_folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    home, _ = two_folders
    (home / "r.yaml").write_text("model: bert\ndata: rows.csv\noutput: out\n")
    recipe = load_recipe(home / "r.yaml", registry=registry())
    (tmp_path / "kept.yaml").write_text(recipe.to_yaml())
    monkeypatch.chdir("/")
    assert load_recipe(tmp_path / "kept.yaml", registry=registry()) == recipe


def test_a_component_may_claim_a_file_by_its_scheme(tmp_path: Path) -> None:
    parts = registry()
    parts.add(fake("dataset", "table", "FilesOptions", schemes=("table",)), object)
    recipe = load_recipe({"model": "b", "data": "table:x"}, registry=parts)
    assert (recipe.data.use, recipe.data.options["source"]) == ("table", "table:x")
