"""What is typed wrong is one line on stderr and exit code 2; what is typed right prints a recipe. In this process, over small
parts made here."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from spcore.cli import main
from spcore.components import Component, Registry
from spcore.recipe import Recipe, load_recipe


class Sourced(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    source: str | list[str] = Field(description="where from")


class Glue(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    name: Literal["sst2", "mrpc"] = Field("sst2", description="which")


class Rate(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    lr: float = Field(2e-5, gt=0, description="per step")


def parts() -> Registry:
    made = Registry(entry_points=False)
    named = (
        ("model", "hub", "Sourced"), ("dataset", "files", "Sourced"), ("dataset", "glue", "Glue"), ("optimizer", "adamw", "Rate"),
        ("task", "text-classification", None), ("strategy", "single", None), ("strategy", "ddp", None), ("precision", "fp32", None),
        ("schedule", "linear", None), ("launcher", "inline", None), ("logger", "progress", None), ("logger", "jsonl", None),
    )  # fmt: skip
    for kind, name, options in named:
        default = name not in ("glue", "text-classification", "ddp")
        made.add(
            Component(kind, name, "a:b", f"a {name}", options and f"{__name__}:{options}", default=default), object
        )
    return made


class Typed:
    """The command line in this process: `typed("run", ...)`, then code, out and err."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, *args: str) -> tuple[int, str, str]:
        self._monkeypatch.setattr("sys.argv", ["slimpajama", *args])
        with pytest.raises(SystemExit) as end:
            main()
        out, err = self._capsys.readouterr()
        return int(end.value.code or 0), out, err

    def wrong(self, *args: str) -> str:
        """The one line that a mistake gives."""
        code, out, err = self(*args)
        assert (code, out) == (2, "")
        assert "Traceback" not in err
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        return err.removeprefix("error: ").rstrip("\n")

    def recipe(self, *args: str) -> Recipe:
        """The recipe that a command prints."""
        code, out, err = self(*args, "--print-recipe")
        assert (code, err) == (0, "")
        Path("printed.yaml").write_text(out)
        return load_recipe("printed.yaml", registry=parts())


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Iterator[Typed]:
    registry = parts()
    monkeypatch.setattr("spcore.components.default_registry", lambda: registry)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.csv").write_text("text,label\n")
    (tmp_path / "dev.csv").write_text("text,label\n")
    (tmp_path / "r.yaml").write_text("model: bert\ntask: text-classification\ndata: rows.csv\ntrain:\n  seed: 1\n")
    logger = logging.getLogger("slimpajama")
    handlers, propagate = list(logger.handlers), logger.propagate
    yield Typed(monkeypatch, capsys)
    logger.handlers, logger.propagate = handlers, propagate


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (("run", "recipe.yaml"), "recipe 'recipe.yaml' does not exist"),
        (("run", "r.yml"), "recipe 'r.yml' does not exist; did you mean 'r.yaml'?"),
        (("run", "r.yaml", "train.epocs=1"), "override 'train.epocs=1': train.epocs: unknown key 'epocs'; did you mean 'epochs'? known: "),
        (("run", "r.yaml", "train.epochs"), "override 'train.epochs': expected KEY=VALUE, for example train.epochs=1"),
        (("run", "r.yaml", "train.epochs=many"), "override 'train.epochs=many': train.epochs: found 'many', expected: "),
        (("run", "r.yaml", "strategy=dpp"), "override 'strategy=dpp': strategy: unknown strategy 'dpp'; did you mean 'ddp'? known: ddp, single"),
        (("run", "r.yaml"), "r.yaml:1: output: not given; say where the run and its model shall lie: output=FOLDER"),
        (("run", "r.yaml", "--world-size", "2"), "--world-size goes with --dry-run"),
        (("finetune",), "MODEL is missing; give it, or a recipe with --recipe"),
        (("finetune", "bert"), "--data is missing; give it, or a recipe with --recipe"),
        (("finetune", "bert", "--data", "glue", "--task", "sst3"), "--task: data.name: found 'sst3', expected: 'sst2' or 'mrpc'; did you mean 'sst2'?"),
        (("finetune", "bert", "--data", "rows.csv", "--set", "optimizer.lrr=1"), "override 'optimizer.lrr=1': optimizer.lrr: unknown key 'lrr'; did you mean 'lr'?"),
        (("finetune", "bert", "--data", "rows.csv", "--precision", "fp23"), "--precision: precision: unknown precision 'fp23'; did you mean 'fp32'?"),
        (("finetune", "--recipe", "none.yaml"), "recipe 'none.yaml' does not exist"),
        (("plugins", "list", "optimiser"), "unknown kind 'optimiser'; did you mean 'optimizer'? known: adapter, "),
        (("evaluate", "model"), "evaluate: neither of --data and --tasks is given; give one of them"),
        (("plugins", "show", "adamw"), "'adamw': expected KIND/NAME, for example optimizer/adamw"),
        (("plugins", "show", "optimizer/adam"), "unknown optimizer 'adam'; did you mean 'adamw'? known: adamw"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(args: tuple[str, ...], text: str, typed: Typed) -> None:
    assert typed.wrong(*args).startswith(text)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("bogus",), "No such command 'bogus'"), (("run",), "Missing argument"), (("run", "r.yaml", "--bogus"), "No such option"),
        (("export", "model"), "Missing option '--runtime'"), (("run", "r.yaml", "--dry-run", "--world-size", "x"), "Invalid value for '--world-size'"),
        (("plugins", "lst"), "No such command 'lst'"),
    ],
)  # fmt: skip
def test_wrong_usage_says_what_and_exits_with_2(args: tuple[str, ...], words: str, typed: Typed) -> None:
    code, out, err = typed(*args)
    assert (code, out) == (2, "")
    assert words in err
    assert "Traceback" not in err


def test_a_printed_recipe_is_the_one_that_runs(typed: Typed) -> None:
    recipe = typed.recipe("run", "r.yaml", "train.epochs=1", "optimizer.lr=1e-4", "output=out")
    assert recipe == load_recipe("r.yaml", ["train.epochs=1", "optimizer.lr=1e-4", "output=out"], registry=parts())
    assert (recipe.train.epochs, recipe.train.seed, recipe.optimizer.options["lr"]) == (1, 1, 1e-4)
    assert recipe.output == str(Path.cwd() / "out")


def test_finetune_builds_a_recipe(typed: Typed) -> None:
    recipe = typed.recipe(
        "finetune", "bert", "--task", "text-classification", "--data", "rows.csv", "--split", "train[:90%]", "--eval-data", "dev.csv",
        "--strategy", "ddp", "--output", "out", "--set", "train.epochs=1", "--set", "data.max_length=64",
    )  # fmt: skip
    here = Path.cwd()
    assert recipe.model.model_dump() == {"use": "hub", "source": "bert"}
    assert recipe.task is not None
    assert (recipe.task.use, recipe.strategy.use, recipe.output, recipe.train.epochs) == (
        "text-classification",
        "ddp",
        str(here / "out"),
        1,
    )
    assert (recipe.data.use, recipe.data.options["source"], recipe.data.split, recipe.data.max_length) == (
        "files", str(here / "rows.csv"), "train[:90%]", 64,
    )  # fmt: skip
    assert recipe.eval.data is not None
    assert recipe.eval.data.options["source"] == str(here / "dev.csv")


def test_a_task_that_is_no_component_is_the_data_sets_name(typed: Typed) -> None:
    recipe = typed.recipe("finetune", "bert", "--data", "glue", "--task", "mrpc", "--eval-split", "validation")
    assert (recipe.task, recipe.data.use, recipe.data.options) == (None, "glue", {"name": "mrpc"})
    assert recipe.eval.data is not None
    assert (recipe.eval.data.options, recipe.eval.data.split) == ({"name": "mrpc"}, "validation")


@pytest.mark.parametrize("data", ["rows.csv", "{use: glue, name: mrpc}", "{source: rows.csv}"])
def test_flags_stand_above_the_recipe_they_start_from(data: str, typed: Typed) -> None:
    Path("r.yaml").write_text(f"model: bert\ndata: {data}\ntrain: {{seed: 1}}\nstrategy: ddp\n")
    recipe = typed.recipe("finetune", "other", "--recipe", "r.yaml", "--data", "dev.csv", "--set", "train.seed=2")
    assert (recipe.model.options["source"], recipe.train.seed, recipe.strategy.use) == ("other", 2, "ddp")
    assert (recipe.data.use, recipe.data.options) == ("files", {"source": str(Path.cwd() / "dev.csv")})


def test_errors_in_a_recipe_to_start_from_name_its_line(typed: Typed) -> None:
    Path("r.yaml").write_text("model: bert\ndata: rows.csv\ntrain:\n  sead: 1\n")
    assert typed.wrong("finetune", "--recipe", "r.yaml").startswith(
        "r.yaml:4: train.sead: unknown key 'sead'; did you mean 'seed'?"
    )


def test_plugins_show(typed: Typed) -> None:
    code, out, err = typed("plugins", "show", "optimizer/adamw", "--json")
    assert (code, err) == (0, "")
    told: dict[str, Any] = json.loads(out)
    assert told["options"]["lr"] == {
        "default": 2e-5,
        "description": "per step",
        "exclusiveMinimum": 0,
        "title": "Lr",
        "type": "number",
    }
    code, out, err = typed("plugins", "show", "optimizer/adamw")
    assert (code, err) == (0, "")
    assert "lr  (number, default 2e-05)\n      per step" in out


def test_doctor_exits_with_1_where_a_plugin_is_broken(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, err = typed("doctor")
    assert (code, err) == (0, "")
    assert out.endswith("no problem found\n")
    registry = parts()
    registry.register(object(), name="broken-one")
    registry.add(Component("strategy", "big", "a:b", "", requires=("no-such-engine>=2",)), object)
    monkeypatch.setattr("spcore.components.default_registry", lambda: registry)
    code, out, err = typed("doctor")
    assert (code, err) == (1, "")
    assert (
        "not installed: strategy 'big': needs no-such-engine>=2\nproblem: plugin 'broken-one' (broken-one) is broken: ComponentError: "
        in out
    )
    code, out, _ = typed("doctor", "--json")
    told = json.loads(out)
    assert (code, len(told["problems"]), told["not_installed"]) == (1, 1, ["strategy 'big': needs no-such-engine>=2"])


def test_json_has_no_nan() -> None:
    from spcore.cli.output import finite, shown

    assert finite({"a": float("nan"), "b": [1.5, float("inf")], "c": ("x",)}) == {
        "a": None,
        "b": [1.5, None],
        "c": ["x"],
    }
    assert [shown(v) for v in (0.0, 0.12345, 1e-7, 12.0, 1e9, 3, "x", [1, float("nan")])] == [
        "0.0000", "0.1235", "1e-07", "12.0000", "1e+09", "3", "x", "[1, null]",
    ]  # fmt: skip
