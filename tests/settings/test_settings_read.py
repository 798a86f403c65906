"""No setting is read by nobody: every field of the core's settings and of every component's options is read by some code."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest
from pydantic import BaseModel, Field
from reading import Reading

import spcore
from spcore.components import Component, default_registry
from spcore.recipe import DataPart, EvalSettings, Part, Recipe, TrainSettings

CORE = Path(spcore.__file__).parent
SETTINGS = (Recipe, TrainSettings, EvalSettings, DataPart, Part)
OURS = [(c, m) for _, c in default_registry().components() if (m := default_registry().options_model(c.kind, c.name))]
EXCEPT = {
    ("model", "transformers", "source"): "the core hands it to `Model.open`",
    ("launcher", "inline", "processes"): "it has one value only, which is told to whoever asks for more",
}


def folder_of(component: Component) -> Path:
    """Where a component's package lies."""
    package = importlib.util.find_spec(component.target.partition(":")[0].partition(".")[0])
    assert package is not None
    assert package.submodule_search_locations is not None
    return Path(next(iter(package.submodule_search_locations)))


def unread(model: type[BaseModel], folder: Path) -> list[str]:
    """Fields of a model, nested ones too, that no code in a folder reads."""
    reading = Reading([folder], [*family(model)])
    return [f"{m.__name__}.{f}" for m in nested(model) for f in m.model_fields if not reading.read(m, f)]


def nested(model: type[BaseModel]) -> list[type[BaseModel]]:
    """A model, and those of its fields."""
    kinds = [k for f in model.model_fields.values() for k in (f.annotation, *getattr(f.annotation, "__args__", ()))]
    below = [k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)]
    return [model, *(deeper for k in below for deeper in nested(k))]


def family(model: type[BaseModel]) -> set[type[BaseModel]]:
    """A model, those of its fields, and their bases: code may know an option by the base that declares it."""
    return {b for m in nested(model) for b in m.__mro__ if issubclass(b, BaseModel) and b is not BaseModel}


@pytest.fixture(scope="module")
def core() -> Reading:
    """What the core reads."""
    return Reading([CORE], SETTINGS)


@pytest.mark.parametrize("model", SETTINGS, ids=lambda model: model.__name__)
def test_the_cores_settings_are_read(model: type[BaseModel], core: Reading) -> None:
    assert [name for name in model.model_fields if not core.read(model, name)] == []


@pytest.mark.parametrize(("component", "model"), OURS, ids=lambda one: getattr(one, "target", ""))
def test_options_are_read(component: Component, model: type[BaseModel]) -> None:
    excepted = {f"{model.__name__}.{f}" for kind, name, f in EXCEPT if (kind, name) == (component.kind, component.name)}
    found = set(unread(model, folder_of(component)))
    assert found == excepted, "options that nobody reads, or exceptions that are none any more"


def test_exceptions_are_what_they_say() -> None:
    assert 'recipe.model.options.get("source"' in (CORE / "session.py").read_text()
    model = default_registry().options_model("launcher", "inline")
    assert model is not None
    assert {"minimum": 1, "maximum": 1}.items() <= model.model_json_schema()["properties"]["processes"].items()


class Inner(BaseModel):
    """Below `Planted`."""

    deep: int = Field(1)
    lost: int = Field(1)


class Base(BaseModel):
    """Above `Planted`."""

    shared: int = Field(1)


class Planted(Base):
    """One field is read in each way, and some in none."""

    by_name: int = 1
    by_self: int = 1
    by_local: int = 1
    by_getattr: int = 1
    by_base: int = 1
    by_tuple: int = 1
    in_a_call: int = 1
    in_a_comprehension: int = 1
    inner: Inner | None = None
    never: int = 1
    of_something_else: int = 1
    only_mentioned: int = 1
    only_written: int = 1
    only_dumped: int = 1


PLANTED = '''
from options import Planted, Base
class Part:
    """options.only_mentioned is only mentioned."""
    def __init__(self, options: Planted, other: Other) -> None:
        self.x, self.options = other, options
        print(options.by_name, self.x.of_something_else, other.never)
        self.of_something_else = "options.never"
        options.only_written = 3
        self.key = options.model_dump()
    def run(self) -> None:
        mine = self.options
        inner = mine.inner
        if inner is not None and inner.deep > mine.by_local:
            with open(str(self.options.in_a_call)) as file:
                return [x for x in range(self.options.in_a_comprehension)]
        return getattr(self.options, "by_getattr") + self.options.by_self
class Other:
    never: int
    of_something_else: int
    only_mentioned: int
def helper(options: Base) -> int:
    return options.shared
class Child(Part):
    def more(self) -> None:
        a, b = self.options.by_tuple, 1
        print(self.options.by_base)
'''


def test_a_planted_option_is_found(tmp_path: Path) -> None:
    (tmp_path / "part.py").write_text(PLANTED)
    lost = {"never", "of_something_else", "only_mentioned", "only_written", "only_dumped"}
    assert set(unread(Planted, tmp_path)) == {f"Planted.{name}" for name in lost} | {"Inner.lost"}


def test_an_option_planted_beside_the_real_ones_is_found(tmp_path: Path) -> None:
    """And so is a real one whose only reader is taken out."""
    component, model = next((c, m) for c, m in OURS if c.name == "sgd")

    class SgdOptions(model):  # type: ignore[valid-type, misc]
        dampening: float = Field(0.0, description="nobody's")

    assert unread(SgdOptions, folder_of(component)) == ["SgdOptions.dampening"]
    copy = shutil.copytree(folder_of(component), tmp_path / "copy", ignore=shutil.ignore_patterns("__pycache__"))
    text = (copy / "optimizers.py").read_text()
    assert text.count("options.nesterov") == 1
    (copy / "optimizers.py").write_text(text.replace("options.nesterov", "False"))
    assert unread(model, copy) == ["SgdOptions.nesterov"]


def test_a_setting_planted_in_the_core_is_found(tmp_path: Path) -> None:
    copy = shutil.copytree(CORE, tmp_path / "spcore", ignore=shutil.ignore_patterns("__pycache__", "testing"))
    for file in copy.rglob("*.py"):
        file.write_text(file.read_text().replace("settings.clip_norm", "1.0"))
    reading = Reading([copy], SETTINGS)
    assert [name for name in TrainSettings.model_fields if not reading.read(TrainSettings, name)] == ["clip_norm"]
