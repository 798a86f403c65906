"""Recipes that cannot be read, and what YAML makes of words that look like something else."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from spcore import default_registry
from spcore.errors import RecipeError, UserError
from spcore.recipe import Recipe, load_recipe

HEAD = "model: bert\ndata: builtin\n"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    assert sorted(p.name for p in tmp_path.iterdir() if not p.name.startswith("r.")) == []


def load(content: str | bytes, name: str = "r.yaml", *overrides: str) -> Recipe:
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return load_recipe(name, overrides, registry=default_registry())


def refusal(content: str | bytes, name: str = "r.yaml", *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load(content, name, *overrides)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    return str(caught.value)


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefg", "bcdefgh", strict=True)
)


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("r.yaml", "", "r.yaml:1: found nothing, expected: a mapping with `model`, `task`, `data`, ..."),
        ("r.yaml", "# only a comment\n", "r.yaml:1: found nothing, expected: a mapping"),
        ("r.yaml", "\n- model: bert\n", "r.yaml:2: found a list, expected: a mapping"),
        ("r.yaml", "bert", "r.yaml:1: found 'bert', expected: a mapping"),
        ("r.json", "\n[1]", "r.json:2: found a list, expected: a mapping"),
        ("r.json", "", "r.json:1:1: not JSON: Expecting value"),
        ("r.json", '{"model": "bert",}', "r.json:1:1"),
        ("r.json", '{"model": "bert",\n "data": glue}', "r.json:2:10: not JSON: Expecting value"),
        ("r.json", '{"model": "bert", "model": "x"}', "r.json:1: model is given twice, first in line 1"),
        ("r.json", '{"train": {"seed": 1,\n\n"seed": 2}}', "r.json:3: train.seed is given twice, first in line 1"),
        ("r.json", '{"train": {"seed": ' + "1" * 5000 + "}}", "r.json: not JSON: Exceeds the limit"),
        ("r.json", "[" * 100_000, "r.json: not JSON: nested too deeply"),
        ("r.toml", 'model = "bert"\ndata = glue\n', "r.toml:2:8: not TOML: Invalid value"),
        ("r.toml", 'model = "bert"\n[train]\nseed = 1\nseed = 2\n', "r.toml:4:9: not TOML: Cannot overwrite a value"),
        ("r.toml", "model = 'bert", "r.toml:1: not TOML: "),
        ("r.toml", "[train\nseed = 1\n", "r.toml:1:7: not TOML: "),
        ("r.yaml", HEAD + "train:\n\tseed: 1\n", "r.yaml:4:1: not YAML: found character '\\t' that cannot start any token; indent with"),
        ("r.yaml", HEAD + "train: {seed: 1\n", "r.yaml:4:1: not YAML: "),
        ("r.yaml", HEAD + "train:\n  seed: 1\n keep: 2\n", "r.yaml:5:2: not YAML: "),
        ("r.yaml", HEAD + "output: a: b\n", "r.yaml:3:10: not YAML: mapping values are not allowed here"),
        ("r.yaml", HEAD + "train:\n  seed: 1\n  seed: 2\n", "r.yaml:5: train.seed is given twice, first in line 4"),
        ("r.yaml", HEAD + "output: *nowhere\n", "r.yaml:3:9: not YAML: found undefined alias 'nowhere'"),
        ("r.yaml", HEAD + "x: &x {seed: 1}\ntrain:\n  <<: *x\n", "r.yaml:5: merge keys (<<) are no part of YAML 1.2; write the keys out"),
        ("r.yaml", HEAD + "loggers: &l [*l]\n", "r.yaml:3: loggers.0 contains itself"),
        ("r.yaml", BOMB, "more than 300000 keys, anchors written out"),
        ("r.yaml", "[" * 3000, "r.yaml: not YAML: nested too deeply"),
        ("r.yaml", HEAD + "x: " + "[" * 80 + "]" * 80, "r.yaml:3: x.0.0...: nested more than 64 deep"),
        ("r.yaml", HEAD + "train: {seed: " + "1" * 5000 + "}", "r.yaml:3:15: not YAML: "),
        ("r.yaml", HEAD + "train: {seed: !!int x}", "r.yaml:3:15: not YAML: 'x' is no whole number"),
        ("r.yaml", HEAD + "output: !!timestamp 2024-01-31", "r.yaml:3:9: not YAML: could not determine a constructor for the tag"),
        ("r.yaml", HEAD + "output: !!python/object/apply:os.getcwd []", "r.yaml:3:9: not YAML: could not determine a constructor"),
        ("r.yaml", HEAD + "---\nmodel: b\n", "r.yaml:3:1: not YAML: expected a single document"),
        ("r.yaml", HEAD + "? [a]\n: b\n", "r.yaml:3: not YAML: a key must be a text"),
        ("r.yaml", HEAD + "output: \x07\n", "r.yaml:3: not YAML: the character U+0007 must not stand there"),
        ("r.yaml", HEAD.encode() + b"output: caf\xe9\n", "r.yaml:3: not UTF-8: found the byte 0xe9; save the file as UTF-8"),
        ("r.yaml", HEAD.encode("utf-16"), "r.yaml:1: not UTF-8: found the byte 0xff; save the file as UTF-8"),
        ("r.toml", b"\x1f\x8b\x08", "r.toml:1: not UTF-8: found the byte 0x8b"),
        ("r.toml", 'model = "b"\ndata = "builtin"\noutput = 2024-01-31\n', "r.toml:3: output: found 2024-01-31 (date), expected: text, a number"),
        ("r.yaml", HEAD + "optimizer.lr: 1e-4\n", "r.yaml:3: optimizer.lr: unknown key 'optimizer.lr'; keys do not have dots here: write optimizer: {lr: ...}"),
        ("r.yaml", HEAD + "'': 1\n", "r.yaml:3: : unknown key ''"),
        ("r.yaml", HEAD + "Optimizer: adamw\n", "r.yaml:3: Optimizer: unknown key 'Optimizer'; did you mean 'optimizer'?"),
        ("r.yaml", HEAD + "train:\nseed: 1\n", "r.yaml:4: seed: unknown key 'seed'; did you mean 'train.seed'?"),
        ("r.yaml", HEAD + "train: null\nmodel:\n", "r.yaml:4: model is given twice, first in line 1"),
        ("r.yaml", "model:\ndata: builtin\n", "r.yaml:1: model: found null, expected: the model's name, a source, or a mapping"),
        ("r.yaml", HEAD + "train: {seed: 0o17}\n", "r.yaml:3: train.seed: found '0o17', expected: a whole number"),
        ("r.yaml", HEAD + "train: {epochs: 1:30}\n", "r.yaml:3: train.epochs: found '1:30', expected: a number"),
        ("r.yaml", HEAD + "train: {seed: -0.0}\n", "r.yaml:3: train.seed: found -0.0, expected: a whole number at least 0 and below 4294967296; write 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_read(name: str, content: str | bytes, text: str) -> None:
    line = refusal(content, name)
    assert line.startswith(f"{name}")
    assert text in line


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("train: {epochs: 1e-1}", 0.1), ("train: {epochs: 1_0}", 10), ("train: {epochs: 010}", 10), ("train: {epochs: +3}", 3),
        ("train: {epochs: 5.}", 5), ("train: {epochs: .5}", 0.5), ("'train': {\"epochs\": 2}", 2),
        ("train: &t {epochs: 4}\neval: {data: &d {use: glue, name: rte}}", 4),
    ],
)  # fmt: skip
def test_numbers_as_yaml_writes_them(words: str, expected: float) -> None:
    assert load(f"{HEAD}{words}\n").train.epochs == expected


@pytest.mark.parametrize("word", ["no", "on", "y", "2024-01-31", "1:30", "0x1", "<<", "="])
def test_words_stay_words(word: str) -> None:
    assert load(f"{HEAD}device: cpu\noutput: {word}\n").output == str(Path.cwd() / word)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_marks_and_line_ends(mark: str, end: str) -> None:
    for name, lines in (
        ("r.yaml", ["model: bert", "data: builtin", "train:", "  seed: x"]),
        ("r.toml", ['model = "bert"', 'data = "builtin"', "[train]", 'seed = "x"']),
        ("r.json", ['{"model": "bert",', '"data": "builtin", "train": {', "", '"seed": "x"}}']),
    ):
        assert refusal(mark + end.join(lines), name).startswith(f"{name}:4: train.seed: found 'x'")


def test_toml_lines_of_every_form() -> None:
    toml = (
        'model = "bert" # a = 1\ndata = {use = "glue", name = "sst2"}\nnote = """\ntrain = 1\n"""\n'
        'loggers = [\n  # first\n  "jsonl",\n  {use = "progress"},\n]\n[eval.data]\nuse = "glue"\nname = "x"\n'
    )
    assert refusal(toml, "r.toml").startswith("r.toml:3: note: unknown key 'note'")
    toml = toml.replace("note", "output")
    assert refusal(toml, "r.toml").startswith("r.toml:13: eval.data.name: found 'x', expected")
    toml = toml.replace('"x"', '"rte"')
    assert load(toml, "r.toml").output == str(Path.cwd() / "train = 1\n")
    assert refusal(toml.replace('"progress"', '"p"'), "r.toml").startswith(
        "r.toml:9: loggers.1.use: unknown logger 'p'"
    )
    assert refusal(toml.replace('"jsonl"', "'j'"), "r.toml").startswith("r.toml:8: loggers.0: unknown logger 'j'")
    tables = 'model = "b"\ndata = "builtin"\n[[loggers]]\nuse = "jsonl"\n[[loggers]]\nuse = "x"\n'
    assert refusal(tables, "r.toml").startswith("r.toml:6: loggers.1.use: unknown logger 'x'")
    dotted = 'model = "b"\ndata = "builtin"\neval.data.use = "glue"\neval."data".name = 3\n'
    assert refusal(dotted, "r.toml").startswith("r.toml:4: eval.data.name: found 3")


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("train.seed", "override 'train.seed': expected KEY=VALUE, for example train.epochs=1"),
        ("=1", "override '=1': expected KEY=VALUE"),
        ("train..seed=1", "override 'train..seed=1': 'train..seed': found nothing between two dots"),
        (".train=1", "override '.train=1': '.train': found nothing between two dots"),
        ("train.seed.=1", "override 'train.seed.=1': 'train.seed.': found nothing between two dots"),
        ("train.epochs.x=1", 'override \'train.epochs.x=1\': train.epochs: found {"x": 1}, expected: a number above 0'),
        ("optimizer.lr.x=", "override 'optimizer.lr.x=': optimizer.lr: found {\"x\": null}, expected: a number above 0"),
        ("device.x=1", 'override \'device.x=1\': device: found {"x": 1}, expected: auto, cpu, cuda, cuda:N'),
        ("loggers.2=jsonl", "override 'loggers.2=jsonl': loggers.2: found '2', expected: a number, the list has entries 0 to 1"),
        ("loggers.x=jsonl", "override 'loggers.x=jsonl': loggers.x: found 'x', expected: a number, the list has entries 0 to 1"),
        ("loggers.0.every=3", "override 'loggers.0.every=3': loggers.0.every: unknown key 'every'"),
        ("train={seed: 1, seed: 2}", "override 'train={seed: 1, seed: 2}': seed is given twice, first in line 1"),
        ("train={seed: [}", "override 'train={seed: [}': not YAML: "),
        ("train=&a [*a]", "override 'train=&a [*a]': 0 contains itself"),
        ("optimizer.lr=.nan", "override 'optimizer.lr=.nan': optimizer.lr: found nan, expected: a finite number"),
        ("optimizer.lr= 1e-4 x", "override 'optimizer.lr= 1e-4 x': optimizer.lr: found '1e-4 x', expected: a number above 0"),
        ("train.seed==3", "override 'train.seed==3': train.seed: found '=3', expected: a whole number"),
        ("model=", "override 'model=': model: found null, expected: the model's name"),
    ],
)  # fmt: skip
def test_overrides_that_are_wrong(override: str, text: str) -> None:
    assert refusal(HEAD, "r.yaml", override).startswith(text)


def test_an_entry_of_a_list_by_its_number() -> None:
    recipe = load(HEAD + "loggers: [jsonl, jsonl]\n", "r.yaml", "loggers.1=progress")
    assert [part.use for part in recipe.loggers] == ["jsonl", "progress"]


def test_a_contradiction_names_the_override_that_made_it() -> None:
    content = HEAD + "train:\n  global_batch_size: 16\n  micro_batch_size: 8\n"
    line = refusal(content, "r.yaml", "train.seed=1", "train.global_batch_size=4", "train.keep=1")
    assert line.startswith("override 'train.global_batch_size=4': train.micro_batch_size: found 8, expected: at most")
    assert refusal(content.replace("16", "4")).startswith("r.yaml:5: train.micro_batch_size: found 8")
    assert refusal(HEAD + "train: {steps: 3}\n", "r.yaml", "train.epochs=1").startswith(
        "override 'train.epochs=1': train.steps and"
    )


def test_what_an_override_replaced_is_no_longer_the_files() -> None:
    content = "model: bert\ndata:\n  use: files\n  source: a.csv\noptimizer:\n  lr: 1\n  betas: [0, 0.5]\n"
    assert refusal(content, "r.yaml", "data={use: files}", "data.source=3").startswith("override 'data.source=3': ")
    assert refusal(content, "r.yaml", "optimizer={lr: 2, betas: [3, 0]}").startswith(
        "override 'optimizer={lr: 2, betas: [3, 0]}': optimizer.betas.0"
    )
    content = content.replace("[0,", "[5,")
    assert refusal(content, "r.yaml", "optimizer={lr: 2}").startswith("r.yaml:7: optimizer.betas.0: found 5")


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ([1], "recipe: found [1], expected: a file's name, or a mapping"),
        (None, "recipe: found null, expected: a file's name"),
        ({"model": "b", "data": "builtin", "output": date(2024, 1, 31)}, "output: found 2024-01-31 (date), expected: text, a number"),
        ({"model": "b", "data": "builtin", "train": {"seed": {1}}}, "train.seed: found {1} (set), expected: text, a number"),
        ({"model": b"b", "data": "builtin"}, "model: found b'b' (bytes), expected: text"),
        ({"model": "b", "data": "builtin", "train": {"seed": 10**5000}}, "train.seed: found a huge number, expected: a finite number"),
    ],
)  # fmt: skip
def test_what_no_file_could_hold(source: Any, text: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(source, registry=default_registry())
    assert str(caught.value).startswith(text)


def test_a_mapping_that_holds_itself() -> None:
    tree: dict[str, Any] = {"model": "b", "data": "builtin"}
    tree["train"] = tree
    with pytest.raises(RecipeError, match=r"^train\.train\.train\.\.\.: nested more than 64 deep$"):
        load_recipe(tree, registry=default_registry())


def test_numbers_of_numpy_are_numbers() -> None:
    import numpy as np

    settings = {"train.seed": np.int64(3), "train.epochs": np.float32(0.5), "train.keep": np.int32(4)}
    recipe = load_recipe({"model": "b", "data": "builtin"}, settings, registry=default_registry())
    assert (recipe.train.seed, recipe.train.epochs, recipe.train.keep) == (3, 0.5, 4)
    assert load_recipe(recipe.to_json(), registry=default_registry()) == recipe


def test_a_home_folder_of_nobody_is_a_name(tmp_path: Path) -> None:
    recipe = load_recipe({"model": "~nobody-of-this-name/x", "data": "builtin"}, registry=default_registry())
    assert recipe.model.options["source"] == str(tmp_path / "~nobody-of-this-name/x")
