"""The recipe: the validated description of a run.

A recipe is read from YAML, TOML or JSON, overridden by dotted path, checked against the models below and against the
options model of each component it names, and becomes a `Recipe`: frozen, with every default filled in. Dumped, it runs
again as it is. Whatever is wrong is one `RecipeError`: file, line, path, what was found, what is allowed, the nearest name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from spcore.components import Registry
from spcore.errors import ComponentError, RecipeError, unknown
from spcore.recipe_files import Text, dump_yaml, place_paths

CORE_DATA_KEYS = ("columns", "split", "limit", "max_length", "pack")
PART_KEYS = {
    "model": "model", "task": "task", "data": "dataset", "strategy": "strategy", "precision": "precision",
    "optimizer": "optimizer", "schedule": "schedule", "adapter": "adapter", "launch": "launcher",
}  # fmt: skip
SOURCED = ("model", "dataset")


class _Closed(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Part(BaseModel):
    """A component and its options. use: its name; every other key is an option of the component's own."""

    model_config = ConfigDict(frozen=True, extra="allow")
    use: str = Field(description="name of the component, 'plugin:name' where two plugins offer one")

    @property
    def options(self) -> dict[str, Any]:
        """The component's own options."""
        return dict(self.model_extra or {})


class DataPart(Part):
    """A data set. What stands here by name is the core's; the rest is the data set's own."""

    columns: dict[str, str] = Field({}, description="the task's name for a column -> its name in the data")
    split: str | None = Field(
        None, description="a split's name, or a part of it: 'train[:90%]', 'train[90%:]', drawn with train.seed"
    )
    limit: int | None = Field(None, ge=1, description="rows at most, the first ones")
    max_length: int | None = Field(
        None, ge=4, description="tokens of a feature at most; longer texts are cut and counted"
    )
    pack: int | None = Field(
        None, ge=16, description="tokens of a pack: short features share a sequence; null: none do"
    )

    @property
    def options(self) -> dict[str, Any]:
        """The data set's own options."""
        return dict(self.model_extra or {})


class TrainSettings(_Closed):
    """How long, in what portions, from which seed."""

    epochs: float | None = Field(
        3, gt=0, allow_inf_nan=False, description="passes over the data; null where `steps` is given"
    )
    steps: int | None = Field(None, ge=1, description="optimizer steps, instead of epochs")
    global_batch_size: int = Field(
        32, ge=1, description="features (with data.pack: packs) of an optimizer step, over all processes"
    )
    micro_batch_size: int | None = Field(
        None, ge=1, description="features of a microbatch; null: as many as `micro_batch_tokens` holds"
    )
    micro_batch_tokens: int = Field(
        8192, ge=16, description="padded tokens of a microbatch at most, where micro_batch_size is null"
    )
    clip_norm: float | None = Field(1.0, gt=0, description="largest norm of all gradients together; null: not clipped")
    seed: int = Field(0, ge=0, lt=2**32, description="of data order, augmentation, new parameters and dropout")
    save_every: int | None = Field(None, ge=1, description="steps between checkpoints; null: none are kept")
    keep: int = Field(2, ge=1, description="checkpoints to keep")
    workers: int = Field(
        0, ge=0, le=64, description="threads that make batches ahead; 0: none; no result depends on it"
    )
    deterministic: bool = Field(False, description="refuse kernels that have no deterministic form")
    nonfinite: Literal["stop", "skip"] = Field("stop", description="what a loss or gradient that is not finite does")


class EvalSettings(_Closed):
    """Evaluation while and after training. metric and keep_best: which step's weights are saved."""

    data: DataPart | None = Field(
        None, description="a data set, as under `data`; max_length and columns are taken from there"
    )
    every: int | None = Field(None, ge=1, description="steps between evaluations; null: at the end only")
    metric: str | None = Field(None, description="the metric that counts; null: the task's own")
    keep_best: bool = Field(False, description="save the best step's weights in place of the last one's")
    batch_tokens: int = Field(8192, ge=16, description="padded tokens of an evaluation batch at most")


class Recipe(_Closed):
    """A run, whole. Build one with `load_recipe`."""

    model: Part
    task: Part | None = None
    data: DataPart
    strategy: Part
    precision: Part
    optimizer: Part
    schedule: Part
    train: TrainSettings = TrainSettings.model_validate({})
    eval: EvalSettings = EvalSettings.model_validate({})
    adapter: Part | None = None
    loggers: tuple[Part, ...] = ()
    launch: Part
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda, cuda:N")
    output: str | None = Field(None, description="the run's folder, which becomes the saved model")

    def to_json(self) -> dict[str, Any]:
        """The resolved recipe as JSON: every default in place, parts as {"use": ..., options}."""
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        """The resolved recipe as a file that `slimpajama run` takes."""
        return dump_yaml(self.to_json())


DEFAULTS: dict[str, Any] = {
    "strategy": "single", "precision": "fp32", "optimizer": "adamw", "schedule": "linear", "launch": "inline",
    "loggers": ["progress", "jsonl"],
}  # fmt: skip


def load_recipe(
    source: str | Path | Mapping[str, Any],
    overrides: Sequence[str | tuple[str, Any]] | Mapping[str, Any] = (),
    *,
    registry: Registry,
    base: Path | None = None,
) -> Recipe:
    """Read, override and check a recipe.

    source: a file, or the recipe as a mapping. overrides: "dotted.path=value" (values parse as YAML) or pairs of a dotted
    path and a value, carried out in order. base: what relative paths of a mapping and of overrides are relative to; default: the working directory.
    Raises RecipeError, ComponentError.
    """
    here = base or Path.cwd()
    if isinstance(source, str | Path):
        text = Text.read(Path(source))
        tree = place_paths(text.tree, Path(source).resolve().parent, registry)
    else:
        text, tree = Text(None, {}, {}), place_paths(_plain(source), here, registry)
    tree = _in_full(tree, registry)
    changes = (
        overrides.items()
        if isinstance(overrides, Mapping)
        else [_pair(i) if isinstance(i, str) else i for i in overrides]
    )
    for path, value in changes:
        override = place_paths(_nested(path, _plain(value)), here, registry)
        tree = _in_full(overlay(tree, override), registry)
        text = text.with_override(tuple(path.split(".")))
    return _validate(overlay(DEFAULTS, tree), text, registry)


def _in_full(tree: dict[str, Any], registry: Registry) -> dict[str, Any]:
    """The recipe with bare models and data sets as mappings: `data: a.csv` is a source, and an override may add to it."""

    def full(holder: Any, key: str, kind: str) -> Any:
        if isinstance(holder, Mapping) and isinstance(bare := holder.get(key), str):
            return {**holder, key: {"use": bare} if registry.has(kind, bare) else {"source": bare}}
        return holder

    tree = full(full(tree, "model", "model"), "data", "dataset")
    return {**tree, "eval": full(tree["eval"], "data", "dataset")} if "eval" in tree else tree


def pairs(items: Sequence[str], what: str) -> dict[str, str]:
    """ "KEY=VALUE" texts as a dict."""
    for item in items:
        if "=" not in item:
            raise RecipeError(f"{what} {item!r}: expected KEY=VALUE")
    return dict(item.split("=", 1) for item in items)


def _pair(item: str) -> tuple[str, Any]:
    path, equals, value = item.partition("=")
    if not equals or not path.strip():
        raise RecipeError(f"override {item!r}: expected KEY=VALUE, for example train.epochs=1")
    try:
        return path.strip(), Text.parse_value(value)
    except yaml.YAMLError as error:
        raise RecipeError(f"override {item!r}: the value is not YAML: {str(error).splitlines()[0]}") from error


def _plain(value: Any) -> Any:
    """A mapping as plain dicts, lists and scalars; paths as text."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def _nested(path: str, value: Any) -> dict[str, Any]:
    for key in reversed(path.split(".")):
        value = {key: value}
    return dict(value)


def overlay(below: Any, above: Any) -> Any:
    """`above` over `below`. A bare name under a mapping becomes its `use`; so `strategy: single` can be given options. A
    mapping or name with another `use` replaces the part whole: the old one's options are not the new one's."""
    if not isinstance(above, Mapping) or above.get("use", _use(below)) != _use(below):
        return above
    if isinstance(below, str):
        below = {"use": below} if "use" not in above else {}
    if not isinstance(below, Mapping):
        return above
    merged = dict(below)
    for key, value in above.items():
        merged[key] = overlay(merged[key], value) if key in merged else value
    return merged


def _use(part: Any) -> Any:
    return part.get("use") if isinstance(part, Mapping) else part if isinstance(part, str) else None


def _validate(tree: Mapping[str, Any], text: Text, registry: Registry) -> Recipe:
    tree = {k: v for k, v in tree.items() if not (v is None and k in ("train", "eval"))}  # null: the defaults
    for key in tree:
        if key not in Recipe.model_fields:
            raise RecipeError(text.at((key,)) + unknown("key", key, Recipe.model_fields))
    for key, kind in PART_KEYS.items():
        if tree.get(key) is not None:
            tree[key] = _part(tree[key], kind, (key,), text, registry)
    if isinstance(tree.get("eval"), Mapping) and tree["eval"].get("data") is not None:
        data = _part(tree["eval"]["data"], "dataset", ("eval", "data"), text, registry)
        tree["eval"] = {**tree["eval"], "data": data}
    loggers = tree["loggers"] if isinstance(tree["loggers"], list) else [tree["loggers"]]
    tree["loggers"] = [
        _part(part, "logger", ("loggers", n), text, registry) for n, part in enumerate(loggers) if part is not None
    ]
    try:
        recipe = Recipe.model_validate(tree)
    except ValidationError as error:
        raise _translated(error, (), text, Recipe, tree) from None
    if recipe.train.steps is not None and "epochs" not in recipe.train.model_fields_set:
        recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"epochs": None})})
    _consistent(recipe, text)
    return recipe


def _consistent(recipe: Recipe, text: Text) -> None:
    """Settings that contradict each other."""
    train = recipe.train
    if train.steps is not None and train.epochs is not None:
        raise RecipeError(
            text.at(("train", "steps"))
            + "train.steps and train.epochs are both given: give one of them, or make the other null"
        )
    if train.steps is None and train.epochs is None:
        raise RecipeError(text.at(("train",)) + "neither train.epochs nor train.steps is given: give one of them")
    if train.micro_batch_size is not None and train.micro_batch_size > train.global_batch_size:
        raise RecipeError(
            text.at(("train", "micro_batch_size")) + f"train.micro_batch_size {train.micro_batch_size} is larger than "
            f"train.global_batch_size {train.global_batch_size}"
        )
    if (recipe.eval.keep_best or recipe.eval.every or recipe.eval.metric) and recipe.eval.data is None:
        raise RecipeError(
            text.at(("eval",)) + "eval.every, eval.metric and eval.keep_best need eval.data, which is not given"
        )


def _part(value: Any, kind: str, path: tuple[str | int, ...], text: Text, registry: Registry) -> dict[str, Any]:
    """A part in full: {"use": ..., option: value, ...}, options checked and defaults filled in."""
    where = text.at(path) + ".".join(map(str, path))
    if isinstance(value, str):
        value = {"use": value} if registry.has(kind, value) else _sourced(value, kind, where, registry)
    elif isinstance(value, Mapping) and "use" not in value and "source" in value and kind in SOURCED:
        value = {**_sourced(str(value["source"]), kind, where, registry), **value}
    if not isinstance(value, Mapping) or not isinstance(value.get("use"), str):
        raise RecipeError(f"{where}: found {value!r}, expected the {kind}'s name or a mapping with `use`")
    try:
        component = registry.find(kind, value["use"])
        registry.check_requirements(component)
    except ComponentError as error:
        raise ComponentError(f"{where}: {error.message}", hint=error.hint) from error
    core = set(CORE_DATA_KEYS) if kind == "dataset" else set()
    own = {k: v for k, v in value.items() if k != "use" and k not in core}
    model = registry.options_model(kind, value["use"])
    options = _options(own, model, (*path,), text, f"{kind} {value['use']!r}", core)
    return {"use": value["use"], **{k: v for k, v in value.items() if k in core}, **options}


def _sourced(value: str, kind: str, where: str, registry: Registry) -> dict[str, Any]:
    if kind not in SOURCED:
        raise RecipeError(f"{where}: {unknown(kind, value, registry.names(kind))}")
    return {"use": registry.claiming(kind, value).name, "source": value}


def _options(
    own: Mapping[str, Any],
    model: type[BaseModel] | None,
    path: tuple[str | int, ...],
    text: Text,
    subject: str,
    core: set[str],
) -> dict[str, Any]:
    if model is None:
        for key in own:
            raise RecipeError(
                text.at((*path, key)) + f"{'.'.join(map(str, path))}: {subject} has no option {key!r}: it has none"
            )
        return {}
    try:
        return model.model_validate(own).model_dump(mode="json")
    except ValidationError as error:
        raise _translated(error, path, text, model, own, core) from None


def _translated(
    error: ValidationError,
    path: tuple[str | int, ...],
    text: Text,
    model: type[BaseModel],
    given: Any,
    core: Iterable[str] = (),
) -> RecipeError:
    """The first of pydantic's findings as one line of ours. given: what was checked."""
    found = error.errors(include_url=False)[0]
    full = (*path, *_place(found["loc"], given))
    dotted = ".".join(map(str, full))
    if found["type"] == "extra_forbidden":
        fields: Mapping[str, Any] = model.model_fields
        for key in found["loc"][:-1]:
            annotation = fields[str(key)].annotation if key in fields else None
            fields = next(
                (a.model_fields for a in (annotation, *get_args(annotation)) if hasattr(a, "model_fields")), {}
            )
        return RecipeError(f"{text.at(full)}{dotted}: {unknown('key', str(full[-1]), {*fields, *core})}")
    if found["type"] == "missing":
        return RecipeError(f"{text.at(full)}{dotted}: missing; it must be given")
    expected = found["msg"]
    if found["type"] == "model_type":
        expected = "a mapping of settings"
    elif found["type"] == "string_pattern_mismatch" and full[-1] in model.model_fields:
        expected = model.model_fields[str(full[-1])].description or expected
    return RecipeError(f"{text.at(full)}{dotted}: found {found['input']!r}, expected: {expected}")


def _place(loc: Sequence[str | int], given: Any) -> list[str | int]:
    """pydantic's place of an error without its names for the members of a union, which nobody typed."""
    place: list[str | int] = []
    for key in loc:
        if isinstance(given, Mapping):
            place.append(key)
            given = given.get(key)
        elif isinstance(given, list | tuple) and isinstance(key, int):
            place.append(key)
            given = given[key]
    return place


def data_part(value: Any, registry: Registry, *, base: Path | None = None) -> DataPart:
    """A data set as a recipe names it (a path, a name, a mapping), checked and in full: what `evaluate --data` takes."""
    tree = place_paths({"data": _plain(value)}, base or Path.cwd(), registry)
    text = Text(None, {}, {})
    part = _part(tree["data"], "dataset", ("data",), text, registry)
    try:
        return DataPart.model_validate(part)
    except ValidationError as error:
        raise _translated(error, ("data",), text, DataPart, part) from None


def part_options(part: Part, kind: str, registry: Registry, **more: Any) -> BaseModel | None:
    """The options of a resolved part as its component's own model, `more` beneath what the recipe says."""
    model = registry.options_model(kind, part.use)
    return None if model is None else model.model_validate({**more, **part.options})
