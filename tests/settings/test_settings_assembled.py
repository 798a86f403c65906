"""What only the parts can tell (a file that is not there, sizes that do not fit, parts that refuse each other) has the place of
its setting too, and comes before a process starts or a weight is read."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from recipe_writers import write_yaml
from wrong_recipes import keys_of

from spcore import components
from spcore.cli.run import run
from spcore.components import Registry
from spcore.errors import UserError
from spcore.recipe import load_recipe
from spcore.session import assemble
from spcore.testing import plugin as fakes
from spcore.testing.fakes.around import FakeLauncher
from spcore.testing.fakes.engine import FakeEngine
from spcore.testing.fakes.language import FakeLanguageModel
from spcore_data import plugin as data_plugin

BASE: dict[str, Any] = {
    "model": {"use": "fake", "source": "fake:tiny"},
    "task": "fake-classification",
    "data": {"use": "fake", "rows": 8},
    "strategy": {"use": "fake"},
    "precision": "fake",
    "optimizer": "fake",
    "schedule": "fake",
    "train": {"steps": 2},
    "launch": "fake",
    "loggers": [],
    "output": "run",
}
FILE = {"use": "files", "source": "./rows.csv"}
WRONG: list[tuple[str, Any, str, str]] = [
    ("model.source", ".", "model.source", "model.source: model '"),
    ("data", {"use": "files", "source": "./none.csv"}, "data.source", "data.source: "),
    ("data", {"use": "files", "source": ["./rows.csv", "./none.csv"]}, "data.source", "data.source: "),
    ("data", {**FILE, "columns": {"text": "reviwe"}}, "data.columns.text", "HERE/rows.csv:1: data.columns.text: unknown column 'reviwe'; did you mean 'review'?"),
    ("data", {**FILE, "columns": {"txt": "review"}}, "data.columns", "data.columns: unknown column of the task 'txt'; did you mean 'text'?"),
    ("data.split", "train[:120%]", "data.split", "data.split 'train[:120%]': bounds are row numbers, or percentages up to 100%"),
    ("data.split", "train[", "data.split", "data.split 'train[': expected NAME, or a part as NAME[:90%]"),
    ("eval", {"data": {"use": "files", "source": "./none.csv"}}, "eval.data.source", "eval.data.source: "),
    ("eval", {"data": {"use": "fake", "split": "train[5:2]"}}, "eval.data.split", "eval.data.split: the part [5:2] of 24 rows is empty"),
    ("data.max_length", 4096, "data.max_length", "data.max_length 4096: the model has 64 positions; give 64 or less"),
    ("data.pack", 64, "data.pack", "task 'fake-classification': data.pack is given"),
    ("adapter", "fake", "adapter", "adapter: 'fake' cannot be saved by this version"),
    ("eval", {"data": {"use": "fake"}, "metric": "acuracy"}, "eval.metric", "eval.metric: unknown metric 'acuracy'; did you mean 'accuracy'? known: accuracy, loss"),
    ("data.style", "stream", "train.epochs", "train.epochs: a streamed data set has no length; give train.steps"),
    ("eval", {"data": {"use": "fake", "style": "stream"}}, "eval.data", "eval.data: a streamed data set has no length"),
]  # fmt: skip


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """The fakes and the real data sets; after the test nothing has run and no weight was read."""
    made = Registry(entry_points=False)
    made.register(fakes, name="fakes")
    made.register(data_plugin, name="data")
    started: list[str] = []
    monkeypatch.setattr(components, "default_registry", lambda: made)
    for where, name in (
        (FakeLauncher, "launch"), (FakeEngine, "__init__"), (FakeLanguageModel, "weights"), (FakeLanguageModel, "build"),
        (subprocess.Popen, "__init__"), (os, "fork"),
    ):  # fmt: skip
        monkeypatch.setattr(where, name, lambda *args, _name=name, **more: started.append(_name))
    (tmp_path / "rows.csv").write_text("review,label\nfine,1\nbad,0\n")
    monkeypatch.chdir(tmp_path)
    yield made
    assert started == []
    assert sorted(os.listdir()) in (["r.yaml", "rows.csv"], ["rows.csv"]), "no folder was made"


def changed(path: str, value: Any) -> dict[str, Any]:
    """The recipe with one thing wrong. A stream needs that its epochs are counted."""
    tree: dict[str, Any] = {key: dict(part) if isinstance(part, Mapping) else part for key, part in BASE.items()}
    *outer, last = path.split(".")
    (tree[outer[0]] if outer else tree)[last] = value
    if path == "data.style":
        tree["train"] = {"epochs": 1}
    return tree


@pytest.mark.parametrize(("path", "value", "place", "says"), WRONG, ids=lambda one: str(one)[:40])
def test_the_place_of_the_setting_is_named(path: str, value: Any, place: str, says: str, parts: Registry) -> None:
    written, says = write_yaml(changed(path, value)), says.replace("HERE", str(Path.cwd()))
    Path("r.yaml").write_text("\n".join(written.text))
    with pytest.raises(UserError) as caught:
        run(Path("r.yaml"), [])
    line = str(caught.value)
    assert caught.value.exit_code == 2
    assert "\n" not in line
    assert line.startswith(f"r.yaml:{written.lines[keys_of(place)]}: {says}")
    with pytest.raises(UserError) as from_python:
        assemble(load_recipe(changed(path, value), registry=parts), parts)
    assert str(from_python.value).startswith(says)
    assert line.endswith(f": {from_python.value}"), "the same text apart from the place"


def test_an_override_is_named_in_place_of_the_file(parts: Registry) -> None:
    Path("r.yaml").write_text("\n".join(write_yaml(BASE).text))
    for overrides, says in (
        (["data={use: files, source: ./none.csv}"], "override 'data={use: files, source: ./none.csv}': data.source: "),
        (["data.max_length=99"], "override 'data.max_length=99': data.max_length 99: the model has 64 positions"),
        (["data.split='train[:x]'"], "data.split 'train[:x]': expected NAME"),
    ):
        with pytest.raises(UserError) as caught:
            run(Path("r.yaml"), overrides)
        assert says in str(caught.value)
        assert str(caught.value).startswith("override ")


def test_a_processes_too_many(parts: Registry) -> None:
    Path("r.yaml").write_text("\n".join(written := write_yaml(BASE).text))
    with pytest.raises(UserError) as caught:
        run(Path("r.yaml"), [], dry_run=True, world_size=2)
    number = next(n for n, text in enumerate(written, 1) if text.startswith("strategy"))
    assert str(caught.value) == f"r.yaml:{number}: strategy: strategy 'fake': 2 processes, it runs in one"


def test_a_line_about_a_data_file_stays_the_files(parts: Registry) -> None:
    Path("rows.csv").write_bytes(b"")
    Path("r.yaml").write_text("\n".join(write_yaml({**BASE, "data": FILE}).text))
    with pytest.raises(UserError) as caught:
        run(Path("r.yaml"), [])
    assert str(caught.value).startswith(f"{Path.cwd() / 'rows.csv'}:1: ")
