"""The recipe: the validated description of a run.

A recipe is read from YAML, TOML or JSON, overridden by dotted path, checked against the core's models and against the
options model of each component it names, and becomes a `Recipe`: frozen, with every default filled in. Dumped, it runs
again as it is. Whatever is wrong is one `RecipeError`: file, line, path, what was found, what is allowed, the nearest name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from spcore.components import Registry
from spcore.errors import RecipeError
from spcore.recipe_checks import Checks
from spcore.recipe_errors import settings_of, shown
from spcore.recipe_files import Places, Text, place_paths
from spcore.recipe_models import DEVICE, DataPart, EvalSettings, Part, Recipe, RowsPart, SourcePart, TrainSettings
from spcore.recipe_syntax import KeyPath, Unreadable
from spcore.recipe_tree import PART_KEYS, SOURCED, in_full, inside, nested, overlay, plain

__all__ = [
    "DataPart", "EvalSettings", "Part", "Recipe", "RowsPart", "SourcePart", "TrainSettings", "checked_device", "data_part", "load_recipe", "lone_part", "pairs", "part_options",
]  # fmt: skip

SOURCE_KEYS = ("weight", "columns", "split", "limit")
CORE_DATA_KEYS = (
    "columns",
    "split",
    "limit",
    "sources",
    "weights_of",
    "max_length",
    "stride",
    "pack",
    "shuffle_buffer",
)
"""The core's keys under `data`, and under each source of a mixture."""

TRAINING_KEYS = ("split", "limit", "max_length", "stride", "pack", "shuffle_buffer", "weights_of")
"""Keys under `data` that say nothing of what is evaluated."""
_DATA = (CORE_DATA_KEYS, SOURCE_KEYS)
QUOTED = """A text with braces, colons or quotes has quotes of its own: KEY='"text"'"""
Change = str | tuple[str, Any] | tuple[str, Any, str]
"""An override: "dotted.path=value", (path, value), or (path, value, the words that lines about it begin with)."""


def load_recipe(
    source: str | Path | Mapping[str, Any],
    overrides: Sequence[Change] | Mapping[str, Any] = (),
    *,
    registry: Registry,
    base: Path | None = None,
) -> Recipe:
    """Read, override and check a recipe.

    source: a file, or the recipe as a mapping. overrides: carried out in order; the values of texts parse as YAML. base:
    what relative paths of a mapping and of overrides are relative to; default: the working directory.
    Raises RecipeError, ComponentError.
    """
    here = folder = base or Path.cwd()
    given, places = source, Places()
    if isinstance(source, str | Path):
        text = Text.read(Path(source))
        given, places, folder = text.tree, text.places, Path(source).resolve().parent
    if not isinstance(given, Mapping):
        raise RecipeError(
            f"recipe: found {shown(given)}, expected: a file's name, or a mapping with `model`, `data`, ..."
        )
    tree = plain(given, places)
    places = places if isinstance(source, str | Path) else Places.of_tree(tree)
    tree = in_full(place_paths(tree, folder, registry), registry)
    tree = overlay(in_full(_defaults(registry), registry), tree)
    changes = overrides.items() if isinstance(overrides, Mapping) else overrides
    for number, change in enumerate(changes, 1):
        tree, places = _changed(tree, places, number, change, here, registry)
    return _checked(_evaluated(tree), places, registry)


def _evaluated(tree: dict[str, Any]) -> dict[str, Any]:
    """`eval.data` that names no data set is the training's, apart from what it says itself: {split: validation}."""
    data, own = inside(tree, ("data",)), inside(tree, ("eval", "data"))
    if (
        not isinstance(data, Mapping)
        or not isinstance(own, Mapping)
        or not {"use", "source", "sources"}.isdisjoint(own)
    ):
        return tree
    shared = {key: value for key, value in data.items() if key not in TRAINING_KEYS}
    if isinstance(sources := shared.get("sources"), Mapping):
        shared["sources"] = {
            name: {k: v for k, v in one.items() if k != "weight"} if isinstance(one, Mapping) else one
            for name, one in sources.items()
        }
    return {**tree, "eval": {**tree["eval"], "data": {**shared, **own}}}


def _defaults(registry: Registry) -> dict[str, Any]:
    """The parts that a recipe has which names none: those that plugins flag as their kind's default."""
    wanted = (
        key for key, field in Recipe.model_fields.items() if field.is_required() and PART_KEYS[key] not in SOURCED
    )
    named = {key: registry.defaults(PART_KEYS[key]) for key in wanted}
    tree: dict[str, Any] = {key: {"use": names[0]} for key, names in named.items() if len(names) == 1}
    return {**tree, "loggers": [{"use": name} for name in registry.defaults("logger")]}


def _changed(
    tree: dict[str, Any], places: Places, number: int, change: Change, base: Path, registry: Registry
) -> tuple[dict[str, Any], Places]:
    """The recipe after an override, and the places after it."""
    path, value, words = _pair(change)
    keys = path.split(".")
    try:
        if not all(keys):
            raise RecipeError(f"{path!r}: found nothing between two dots, expected: a path, for example train.epochs")
        value = plain(value, Places(), tuple(keys))
        after = in_full(overlay(tree, place_paths(nested(keys, value), base, registry)), registry)
    except RecipeError as error:
        raise RecipeError(f"{words}: {error.message}" if words else error.message) from error

    def same(place: KeyPath) -> bool:
        return inside(tree, place) is not None and inside(tree, place) == inside(after, place)

    return after, places.changed(number, words, _entered(after, keys), value, same)


def _entered(tree: Any, keys: Sequence[str]) -> KeyPath:
    """A path of texts as one into this tree, where entries of lists have numbers."""
    place: KeyPath = ()
    for key in keys:
        entry: str | int = int(key) if isinstance(tree, list) and key.isdecimal() else key
        place = (*place, entry)
        tree = inside(tree, (entry,))
    return place


def _pair(change: Change) -> tuple[str, Any, str]:
    if not isinstance(change, str):
        path, value, *more = change
        return str(path), value, str(more[0]) if more else ""
    path, equals, text = change.partition("=")
    if not equals or not path.strip():
        raise RecipeError(f"override {shown(change)}: expected KEY=VALUE, for example train.epochs=1")
    words = f"override {shown(change)}"
    try:
        return path.strip(), Text.parse_value(text), words
    except Unreadable as error:
        raise RecipeError(f"{words}: {error.text}", hint=QUOTED) from error


def pairs(items: Sequence[str], what: str) -> dict[str, str]:
    """ "KEY=VALUE" texts as a dict."""
    for item in items:
        if "=" not in item:
            raise RecipeError(f"{what} {item!r}: expected KEY=VALUE")
    return dict(item.split("=", 1) for item in items)


def typed_pairs(items: Sequence[str], what: str) -> dict[str, Any]:
    """ "KEY=VALUE" texts as a dict, values read as in overrides."""
    found = {}
    for key, text in pairs(items, what).items():
        try:
            found[key] = Text.parse_value(text)
        except Unreadable as error:
            raise RecipeError(f"{what} {shown(f'{key}={text}')}: {error.text}", hint=QUOTED) from error
    return found


def runtime_part(name: str, options: Sequence[str] | None) -> str | dict[str, Any]:
    """A runtime as the command line names it, with its options, for `lone_part`."""
    return {"use": name, **typed_pairs(options, "--runtime-option")} if options else name


def _consistent(recipe: Recipe, places: Places) -> None:
    """Settings that contradict each other."""
    train, data = recipe.train, recipe.data

    def refuse(text: str, *settings: str) -> None:
        raise RecipeError(places.at(*(tuple(setting.split(".")) for setting in settings)) + text)

    if train.steps is not None and train.epochs is not None:
        refuse(
            "train.steps and train.epochs are both given: give one of them, or make the other null",
            "train.steps",
            "train.epochs",
        )
    if train.steps is None and train.epochs is None:
        refuse(
            "train.epochs: neither train.epochs nor train.steps is given: give one of them",
            "train.epochs",
            "train.steps",
        )
    micro, whole = train.micro_batch_size, train.global_batch_size
    if micro is not None and micro > whole:
        refuse(
            f"train.micro_batch_size: found {micro}, expected: at most train.global_batch_size, which is {whole}",
            "train.micro_batch_size", "train.global_batch_size",
        )  # fmt: skip
    if data.pack is not None and data.max_length is not None and data.max_length > data.pack:
        refuse(
            f"data.pack: found {data.pack}, expected: at least data.max_length, which is {data.max_length}",
            "data.pack",
            "data.max_length",
        )
    _mixed(recipe, refuse)
    _evaluates(recipe, refuse)


def _mixed(recipe: Recipe, refuse: Callable[..., None]) -> None:
    """Settings of mixtures: weights are for training, and each source has one."""
    for name, part in (recipe.data.sources or {}).items():
        if part.weight is None:
            at = f"data.sources.{name}"
            refuse(f"{at}.weight: missing, expected: a number above 0, its share of what is trained on", f"{at}.weight")
    data = recipe.eval.data
    for name, part in ((data and data.sources) or {}).items():
        if part.weight is not None:
            at = f"eval.data.sources.{name}.weight"
            refuse(f"{at}: found {part.weight:g}, expected: nothing, each source is evaluated whole", at)
    for path, given in (("data", recipe.data), ("eval.data", data)):
        if given is not None and given.weights_of != "features" and (given.sources is None or path != "data"):
            at = f"{path}.weights_of"
            refuse(f"{at}: found {given.weights_of!r}, and it needs weights, data.sources.NAME.weight", at)


def _evaluates(recipe: Recipe, refuse: Callable[..., None]) -> None:
    """Settings of evaluation that contradict others."""
    data, evaluation = recipe.data, recipe.eval
    if evaluation.data is None:
        for key in ("every", "metric", "keep_best"):
            if value := getattr(evaluation, key):
                refuse(
                    f"eval.{key}: found {shown(value)}, and it needs eval.data, which is not given",
                    f"eval.{key}",
                    "eval.data",
                )
        return
    if evaluation.data.shuffle_buffer:
        refuse("eval.data.shuffle_buffer: evaluation shuffles nothing: leave it out", "eval.data.shuffle_buffer")
    for key in ("max_length", "pack"):
        own, shared = getattr(evaluation.data, key), getattr(data, key)
        if own not in (None, shared):
            refuse(
                f"eval.data.{key}: found {own}, expected: null, it is taken from data.{key}",
                f"eval.data.{key}",
                f"data.{key}",
            )


def _checked(tree: Mapping[str, Any], places: Places, registry: Registry) -> Recipe:
    """The recipe of a tree in full. Raises RecipeError, ComponentError."""
    tree = {k: v for k, v in tree.items() if not (v is None and k in ("train", "eval"))}  # null: the defaults
    checks = Checks(tree, places, registry, lambda: _settings(tree))
    for key in tree:
        if key not in Recipe.model_fields:
            raise checks.unknown((key,))
    required = [key for key in PART_KEYS if Recipe.model_fields[key].is_required()]
    for key, kind in PART_KEYS.items():
        if tree.get(key) is not None or (key in tree and key in required):
            core = kind == "dataset"
            tree[key] = checks.data(tree[key], (key,), *_DATA) if core else checks.part(tree[key], kind, (key,))
    if isinstance(tree.get("eval"), Mapping) and tree["eval"].get("data") is not None:
        data = checks.data(tree["eval"]["data"], ("eval", "data"), *_DATA)
        tree["eval"] = {**tree["eval"], "data": data}
    loggers = enumerate(tree.get("loggers") or [])
    tree["loggers"] = [checks.part(part, "logger", ("loggers", n)) for n, part in loggers if part is not None]
    absent = [key for key in required if key not in tree]
    recipe = checks.validated(Recipe, {**tree, **{key: {"use": ""} for key in absent}}, ())
    for key in absent:  # after what is there and wrong: it may be the same, misspelt
        raise checks.missing(key, PART_KEYS[key])
    if recipe.train.steps is not None and "epochs" not in recipe.train.model_fields_set:
        recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"epochs": None})})
    recipe._places = places
    _consistent(recipe, places)
    return recipe


def _settings(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The core's settings, those of each source of a mixture among them."""
    known = settings_of(Recipe)
    for path in (("data", "sources"), ("eval", "data", "sources")):
        sources = inside(tree, path)
        for name in sources if isinstance(sources, Mapping) else ():
            known |= settings_of(SourcePart, f"{'.'.join(path)}.{name}")
    return known


def data_part(value: Any, registry: Registry, *, base: Path | None = None) -> DataPart:
    """A data set as a recipe names it (a path, a name, a mapping), checked and in full: what `evaluate --data` takes."""
    given = plain({"data": value}, Places())
    tree, places = in_full(place_paths(given, base or Path.cwd(), registry), registry), Places.of_tree(given)
    if isinstance(tree["data"], Mapping) and tree["data"].get("sources") is not None:
        raise RecipeError("data.sources: a mixture is for training, expected: one data set; name one of its sources")
    checks = Checks(tree, places, registry, lambda: settings_of(DataPart, "data"))
    return checks.validated(DataPart, checks.part(tree["data"], "dataset", ("data",), CORE_DATA_KEYS), ("data",))


def lone_part(value: str | Mapping[str, Any], kind: str, registry: Registry) -> Part:
    """A part that stands in no recipe (a runtime), as a program names it: a name, or a mapping with `use`. Raises RecipeError,
    ComponentError."""
    given = {kind: plain(value, Places(), (kind,))}
    tree = {kind: {"use": value}} if isinstance(value, str) else given
    return Part.model_validate(Checks(tree, Places.of_tree(given), registry, dict).part(tree[kind], kind, (kind,)))


def checked_device(name: str) -> str:
    """A device's name, for what runs without a recipe. Raises RecipeError."""
    if not re.fullmatch(DEVICE, name):
        raise RecipeError(f"device: found {shown(name)}, expected: {Recipe.model_fields['device'].description}")
    return name


def part_options(part: Part, kind: str, registry: Registry, **more: Any) -> BaseModel | None:
    """The options of a resolved part as its component's own model, `more` beneath what the recipe says."""
    model = registry.options_model(kind, part.use)
    return None if model is None else model.model_validate({**more, **part.options})
