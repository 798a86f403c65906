"""What a recipe says, checked against the parts that it names; every mistake is one line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from core_fakes import fake, registry
from pydantic import ValidationError

from spcore.components import Component
from spcore.errors import ComponentError, RecipeError, UserError
from spcore.recipe import DataPart, Recipe, checked_device, data_part, load_recipe, lone_part, pairs, part_options
from spcore.recipe_tree import overlay

BASE: dict[str, Any] = {"model": "bert", "task": "text-classification", "data": "rows.csv"}


def load(*overrides: Any, **more: Any) -> Recipe:
    return load_recipe({**BASE, **more}, overrides, registry=registry())


def refusal(*overrides: Any, **more: Any) -> str:
    """The text of the error."""
    with pytest.raises(UserError) as caught:
        load(*overrides, **more)
    assert isinstance(caught.value, RecipeError | ComponentError)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    return re.sub(r"^override (['\"]).*?\1: ", "", str(caught.value))


def test_defaults_are_filled_in() -> None:
    recipe = load()
    assert recipe.model.model_dump() == {"use": "hub", "source": "bert"}
    assert recipe.data.model_dump(exclude_none=True) == {
        "use": "files",
        "columns": {},
        "weights_of": "features",
        "shuffle_buffer": 0,
        "source": "rows.csv",
        "delimiter": ",",
    }
    assert recipe.optimizer.model_dump() == {"use": "adamw", "lr": 2e-5, "moment": None}
    assert [part.use for part in (recipe.strategy, recipe.precision, recipe.schedule, recipe.launch)] == [
        "single",
        "fp32",
        "linear",
        "inline",
    ]
    assert [part.use for part in recipe.loggers] == ["jsonl", "progress"]
    assert (recipe.train.epochs, recipe.train.steps, recipe.output, recipe.adapter) == (3, None, None, None)


def test_a_recipe_is_frozen() -> None:
    with pytest.raises(ValidationError):
        load().output = "elsewhere"


@pytest.mark.parametrize(
    "overrides",
    [
        [], ["train.steps=10"], ["train.epochs=0.5"], ["data={use: glue, name: mrpc}", "eval.data=glue", "eval.every=5", "eval.keep_best=true"],
        ["optimizer={use: sgd, lr: 1e-4}"], ["loggers=[]"], ["loggers=jsonl"], ["data.columns={text: no, label: '1e-4'}", "data.split='train[:90%]'"],
        ["data.source=[a.csv, 'b: c.csv']", "data.delimiter='\t'"], ["train.clip_norm=null", "output=/tmp/x y"], ["optimizer.moment.beta=0.5"],
        ["device=cuda:1", "train.micro_batch_size=8", "data.pack=512", "data.max_length=256"],
    ],
)  # fmt: skip
def test_a_dumped_recipe_loads_equal(overrides: list[str], tmp_path: Path) -> None:
    recipe = load(*overrides)
    (tmp_path / "kept.yaml").write_text(recipe.to_yaml())
    again = load_recipe(tmp_path / "kept.yaml", registry=registry())
    assert again == recipe
    assert again.to_yaml() == recipe.to_yaml()
    assert Recipe.model_validate(recipe.to_json()) == recipe, "as a child process reads it"
    assert load_recipe(recipe.to_json(), registry=registry()) == recipe


def test_overrides_by_dotted_path() -> None:
    recipe = load("train.epochs=1", "optimizer.lr=1e-4", "task=null", "device=cpu", "data.columns.text=no")
    assert (recipe.train.epochs, recipe.optimizer.options["lr"], recipe.task, recipe.device) == (1, 1e-4, None, "cpu")
    assert recipe.data.columns == {"text": "no"}, "YAML 1.2: no is a word"
    assert load("output=a=b").output == str(Path.cwd() / "a=b"), "the first equals sign divides"
    mapping = load_recipe(BASE, {"train.epochs": 1, "train": {"seed": 4}}, registry=registry())
    assert (mapping.train.epochs, mapping.train.seed) == (1, 4)
    mixed = load_recipe(BASE, [("train.seed", 4), "train.seed=5", ("output", Path("/x"))], registry=registry())
    assert (mixed.train.seed, mixed.output) == (5, "/x")


def test_precedence_file_then_overrides_in_order(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text("model: bert\ndata: glue\ntrain: {seed: 1, global_batch_size: 8}\n")
    recipe = load_recipe(file, ["train.seed=2", "train.seed=3"], registry=registry())
    assert (recipe.train.seed, recipe.train.global_batch_size, recipe.train.keep) == (3, 8, 2)


def test_another_use_drops_the_old_options() -> None:
    adam = {"use": "adamw", "lr": 1.0, "moment": {"beta": 0.5}}
    assert load("optimizer=sgd", optimizer=adam).optimizer.model_dump() == {"use": "sgd", "lr": 0.1, "momentum": 0.0}
    assert load("optimizer.use=sgd", optimizer=adam).optimizer.options["lr"] == 0.1
    assert load("optimizer={use: sgd}", "optimizer.momentum=0.9", optimizer=adam).optimizer.options == {
        "lr": 0.1,
        "momentum": 0.9,
    }
    assert load("optimizer={use: adamw, lr: 2}", optimizer=adam).optimizer.options == {
        "lr": 2.0,
        "moment": {"beta": 0.5},
    }
    assert load("data={use: glue}", data={"use": "files", "source": "x", "delimiter": ";"}).data.options == {
        "name": "sst2"
    }


def test_a_bare_name_under_a_mapping_becomes_its_use() -> None:
    assert load("optimizer.lr=1", optimizer="sgd").optimizer.options["lr"] == 1
    assert load("optimizer.lr=1").optimizer.model_dump() == {"use": "adamw", "lr": 1.0, "moment": None}, (
        "the default's too"
    )
    assert load(optimizer={"lr": 1}).optimizer.use == "adamw"
    assert overlay({"use": "a", "x": 1}, "b") == "b"
    assert overlay({"use": "a", "x": 1}, None) is None
    assert overlay(None, {"x": 1}) == {"x": 1}


def test_a_bare_source_stays_one_when_options_are_added() -> None:
    recipe = load("data.max_length=64", "data.delimiter=;", "eval.data=dev.csv", "eval.data.limit=5")
    assert recipe.data.model_dump(exclude_none=True) == {
        "use": "files", "columns": {}, "weights_of": "features", "max_length": 64, "shuffle_buffer": 0, "source": "rows.csv",
        "delimiter": ";",
    }  # fmt: skip
    assert recipe.eval.data is not None
    assert (recipe.eval.data.use, recipe.eval.data.options["source"], recipe.eval.data.limit) == ("files", "dev.csv", 5)
    assert load("data.name=mrpc", data="glue").data.options == {"name": "mrpc"}
    assert load("data=other.csv", data={"use": "glue", "name": "mrpc"}).data.use == "files", (
        "a source replaces the part whole"
    )
    assert load("model.source=gguf:x", model="bert").model.use == "gguf", "the scheme still decides"


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (["trian.epochs=1"], "trian: unknown key 'trian'; did you mean 'train'? known: adapter, data, "),
        (["train.epocs=1"], "train.epocs: unknown key 'epocs'; did you mean 'epochs'? known: "),
        (["optimizer.lrr=1"], "optimizer.lrr: unknown key 'lrr'; did you mean 'lr'? known: lr, moment, use"),
        (["optimizer.moment.beto=1"], "optimizer.moment.beto: unknown key 'beto'; did you mean 'beta'? known: beta"),
        (["data.max_len=8"], "data.max_len: unknown key 'max_len'; did you mean 'max_length'? known: columns, delimiter, limit, "),
        (["eval.data=glue", "eval.data.nam=x"], "eval.data.nam: unknown key 'nam'; did you mean 'name'? known: columns, limit, "),
        (["eval.evry=1"], "eval.evry: unknown key 'evry'; did you mean 'every'?"),
        (["strategy.tensor_parallel=2"], "strategy.tensor_parallel: unknown key 'tensor_parallel'; known: use"),
        (["strategy=singel"], "strategy: unknown strategy 'singel'; did you mean 'single'? known: ddp, single"),
        (["loggers=[jsonl, progres]"], "loggers.1: unknown logger 'progres'; did you mean 'progress'?"),
        (["optimizer={use: adamv}"], "optimizer.use: unknown optimizer 'adamv'; did you mean 'adamw'?"),
        (["task=text-clasification"], "task: unknown task 'text-clasification'; did you mean 'text-classification'?"),
        (["data={use: glu}"], "data.use: unknown dataset 'glu'; did you mean 'glue'? known: files, glue"),
        (["train..seed=1"], "'train..seed': found nothing between two dots, expected: a path, for example train.epochs"),
    ],
)  # fmt: skip
def test_unknown_names_at_every_depth(overrides: list[str], text: str) -> None:
    assert refusal(*overrides).startswith(text)


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("train.epochs=many", "train.epochs: found 'many', expected: a number above 0 and at most 1000000000 or null"),
        ("train.seed=1.5", "train.seed: found 1.5, expected: a whole number at least 0 and below 4294967296"),
        ("train.seed=1.0", "train.seed: found 1.0, expected: a whole number at least 0 and below 4294967296; write 1"),
        ("train.seed='1'", "train.seed: found '1', expected: a whole number at least 0 and below 4294967296; write 1, without quotes"),
        ("train.seed=true", "train.seed: found true, expected: a whole number at least 0 and below 4294967296"),
        ("train.seed=-1", "train.seed: found -1, expected: a whole number at least 0 and below 4294967296"),
        ("train.seed=4294967296", "train.seed: found 4294967296, expected: a whole number at least 0 and below 4294967296"),
        ("train.epochs=0", "train.epochs: found 0, expected: a number above 0"),
        ("train.epochs=.inf", "train.epochs: found inf, expected: a finite number"),
        ("train.nonfinite=ignore", "train.nonfinite: found 'ignore', expected: 'stop' or 'skip'"),
        ("train.deterministic=maybe", "train.deterministic: found 'maybe', expected: true or false"),
        ("train.deterministic=off", "train.deterministic: found 'off', expected: true or false; write false, without quotes"),
        ("train=5", "train: found 5, expected: a mapping with epochs, steps, global_batch_size, "),
        ("eval=true", "eval: found true, expected: a mapping with data, every, metric, keep_best, batch_tokens"),
        ("device=gpu", "device: found 'gpu', expected: auto, cpu, cuda, cuda:N"),
        ("device='cuda:'", "device: found 'cuda:', expected: auto, cpu, cuda, cuda:N"),
        ("optimizer.lr=0", "optimizer.lr: found 0, expected: a number above 0"),
        ("optimizer.lr=fast", "optimizer.lr: found 'fast', expected: a number above 0"),
        ("optimizer.lr='1e-4'", "optimizer.lr: found '1e-4', expected: a number above 0; write 0.0001, without quotes"),
        ("optimizer.moment.beta=1", "optimizer.moment.beta: found 1, expected: a number at least 0 and below 1"),
        ("optimizer.moment=3", "optimizer.moment: found 3, expected: a mapping with beta or null"),
        ("data.limit=0", "data.limit: found 0, expected: a whole number at least 1 and below 9007199254740992 or null"),
        ("data.columns=text", "data.columns: found 'text', expected: a mapping of names to text"),
        ("data.columns={text: 3}", "data.columns.text: found 3, expected: text; put it into quotes"),
        ("data.source=3", "data.source: found 3, expected: text or a list, each text"),
        ("data={use: glue, name: sst3}", "data.name: found 'sst3', expected: 'sst2' or 'mrpc'; did you mean 'sst2'?"),
        ("data={use: files}", "data.source: missing, expected: text or a list, each text (files)"),
        ("optimizer=3", "optimizer: found 3, expected: the optimizer's name or a mapping with `use`; known: adamw, sgd"),
        ("optimizer={use: 3}", "optimizer.use: found 3, expected: the optimizer's name; known: adamw, sgd"),
        ("loggers=[3]", "loggers.0: found 3, expected: the logger's name or a mapping with `use`"),
        ("output=[a]", 'output: found ["a"], expected: text or null'),
        ("strategy=null", "strategy: found null, expected: the strategy's name or a mapping with `use`"),
        ("model=null", "model: found null, expected: the model's name, a source, or a mapping with `use`"),
    ],
)  # fmt: skip
def test_wrong_types_and_ranges(override: str, text: str) -> None:
    assert refusal(override).startswith(text)


@pytest.mark.parametrize("override", ["train.epochs", "=3", " =3", ""])
def test_an_override_has_a_key_and_a_value(override: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load(override)
    assert str(caught.value) == f"override {override!r}: expected KEY=VALUE, for example train.epochs=1"


def test_an_override_that_is_not_yaml() -> None:
    with pytest.raises(RecipeError, match=r"^override 'data\.columns=\{a: \[': not YAML: "):
        load("data.columns={a: [")


def test_missing_parts() -> None:
    for key in ("model", "data"):
        with pytest.raises(RecipeError, match=f"^{key}: missing, expected: a source, or one of "):
            load_recipe({k: v for k, v in BASE.items() if k != key}, registry=registry())


def test_contradictions(tmp_path: Path) -> None:
    both = "train.steps and train.epochs are both given: give one of them, or make the other null"
    assert refusal("train.steps=5", "train.epochs=3") == both
    assert refusal(train={"steps": 5, "epochs": 1}) == both
    file = tmp_path / "r.yaml"
    file.write_text("model: b\ndata: glue\ntrain:\n  epochs: 3\n  steps: 5\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe(file, registry=registry())
    assert str(caught.value) == f"{file}:5: {both}"
    recipe = load("train.steps=5")
    assert (recipe.train.steps, recipe.train.epochs) == (5, None)
    assert load("train.steps=5", "train.epochs=null", train={"epochs": 2}).train.epochs is None
    assert (
        refusal("train.epochs=null") == "train.epochs: neither train.epochs nor train.steps is given: give one of them"
    )
    assert (
        refusal("train.micro_batch_size=64")
        == "train.micro_batch_size: found 64, expected: at most train.global_batch_size, which is 32"
    )
    assert load("train.micro_batch_size=32").train.micro_batch_size == 32


@pytest.mark.parametrize("override", ["eval.every=5", "eval.metric=accuracy", "eval.keep_best=true"])
def test_evaluation_needs_data(override: str) -> None:
    path, _, value = override.partition("=")
    found = repr(value) if value == "accuracy" else value
    assert refusal(override) == f"{path}: found {found}, and it needs eval.data, which is not given"
    assert load(override, "eval.data=glue").eval.data is not None


def test_the_line_is_the_files_and_not_an_overrides(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text("model: b\ndata: glue\ntrain:\n  seed: 1\n")
    for override in ("train.sed=1", "optimizer.lrr=1", "train.keep=0"):
        with pytest.raises(RecipeError) as caught:
            load_recipe(file, [override], registry=registry())
        path = override.partition("=")[0]
        assert str(caught.value).startswith(f"override {override!r}: {path}: "), (
            "nobody is sent to a line that is right"
        )


def test_a_missing_distribution_is_told_at_its_place() -> None:
    parts = registry()
    parts.add(Component("strategy", "big", "json:dumps", "", requires=("no-such-engine>=1",)), object)
    with pytest.raises(
        ComponentError, match=r'^strategy: strategy .big. needs no-such-engine>=1: pip install "no-such-engine>=1"$'
    ):
        load_recipe({**BASE, "strategy": "big"}, registry=parts)


def test_a_data_set_in_full() -> None:
    part = data_part("rows.csv", registry())
    assert isinstance(part, DataPart)
    assert (part.use, part.options) == ("files", {"source": "rows.csv", "delimiter": ","})
    assert data_part({"use": "glue", "name": "mrpc", "limit": 3}, registry()).limit == 3
    with pytest.raises(RecipeError, match=r"^data\.limit: found 0, expected"):
        data_part({"use": "glue", "limit": 0}, registry())


def test_a_part_that_stands_in_no_recipe() -> None:
    assert lone_part("sgd", "optimizer", registry()).options == {"lr": 0.1, "momentum": 0.0}
    assert lone_part({"use": "sgd", "lr": 1}, "optimizer", registry()).options["lr"] == 1.0
    with pytest.raises(RecipeError, match=r"^optimizer\.lr: found 0, expected: a number above 0$"):
        lone_part({"use": "sgd", "lr": 0}, "optimizer", registry())
    with pytest.raises(RecipeError, match=r"^optimizer\.lrr: unknown key 'lrr'; did you mean 'lr'"):
        lone_part({"use": "sgd", "lrr": 0}, "optimizer", registry())
    with pytest.raises(ComponentError, match=r"^optimizer: unknown optimizer 'sdg'; did you mean 'sgd'"):
        lone_part("sdg", "optimizer", registry())


def test_a_device_without_a_recipe() -> None:
    assert [checked_device(name) for name in ("auto", "cpu", "cuda", "cuda:1")] == ["auto", "cpu", "cuda", "cuda:1"]
    for name in ("gpu", "", "cuda:", "cpu\n", "cuda:x"):
        with pytest.raises(RecipeError) as caught:
            checked_device(name)
        assert str(caught.value) == f"device: found {name!r}, expected: auto, cpu, cuda, cuda:N"


def test_part_options_are_the_components_own_model() -> None:
    recipe = load("optimizer=sgd")
    options = part_options(recipe.optimizer, "optimizer", registry(), momentum=0.5)
    assert options is not None
    assert options.model_dump() == {"lr": 0.1, "momentum": 0.0}, "what the recipe says stands above"
    assert part_options(recipe.strategy, "strategy", registry()) is None


def test_pairs() -> None:
    assert pairs(["a=b", "c=d=e"], "--column") == {"a": "b", "c": "d=e"}
    with pytest.raises(RecipeError, match="--column 'ab': expected KEY=VALUE"):
        pairs(["ab"], "--column")


def test_two_parts_of_one_name_are_picked_by_plugin() -> None:
    parts = registry()
    parts.add(fake("precision", "bf16"), object)
    with pytest.raises(
        ComponentError,
        match=r"^precision: precision 'bf16' is offered by 2 plugins\. Write 'by-hand-precision-bf16:bf16' or",
    ):
        load_recipe({**BASE, "precision": "bf16"}, registry=parts)
    recipe = load_recipe({**BASE, "precision": "by-hand-precision-bf16:bf16"}, registry=parts)
    assert recipe.precision.use == "by-hand-precision-bf16:bf16"
