"""What the options take, and what they answer to what they do not take."""

from __future__ import annotations

import math
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from spcore.components import Registry
from spcore_optim import options, plugin

SHARE = "a share of at most {}: warmup takes {} of the run"
LENGTH = "whole steps, or a share of the run below 1"


@pytest.mark.parametrize(
    ("model", "given", "place", "message"),
    [
        (options.WarmupOptions, {"warmup": 1.5}, "warmup", LENGTH),
        (options.LinearOptions, {"warmup": -1}, "warmup", "Input should be greater than or equal to 0"),
        (options.ConstantOptions, {"warmup": 2.5}, "warmup", LENGTH),
        (options.CosineOptions, {"minimum": 1.1}, "minimum", "Input should be less than or equal to 1"),
        (options.WsdOptions, {"decay": 7.5}, "decay", LENGTH),
        (options.WsdOptions, {"decay": 0}, "decay", "Input should be greater than 0"),
        (options.WsdOptions, {"warmup": 0.7, "decay": 0.5}, "decay", SHARE.format(0.3, 0.7)),
        (options.WsdOptions, {"warmup": 0.9}, "decay", SHARE.format(0.1, 0.9)),
        (
            options.SgdOptions,
            {"momentum": 0, "nesterov": True},
            "nesterov",
            "false where momentum is 0, or a momentum above 0",
        ),
        (options.SgdOptions, {"momentum": 1}, "momentum", "Input should be less than 1"),
        (options.AdamWOptions, {"betas": [0.9, 1.0]}, "betas.1", "Input should be less than 1"),
        (options.AdamWOptions, {"lr": 0}, "lr", "Input should be greater than 0"),
        (options.LionOptions, {"lr": math.inf}, "lr", "Input should be a finite number"),
        (options.AdamWOptions, {"weight_decay": -0.1}, "weight_decay", "Input should be greater than or equal to 0"),
        (options.AdamWOptions, {"no_decay": [""]}, "no_decay.0", "String should have at least 1 character"),
        (
            options.AdafactorOptions,
            {"clip_threshold": 0.5},
            "clip_threshold",
            "Input should be greater than or equal to 1",
        ),
        (options.AdamWOptions, {"momentum": 0.9}, "momentum", "Extra inputs are not permitted"),
    ],
)
def test_refused(model: type[BaseModel], given: dict[str, Any], place: str, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(given)
    first = caught.value.errors()[0]
    assert (".".join(map(str, first["loc"])), first["msg"]) == (place, message)


@pytest.mark.parametrize("warmup", [0, 1, 100, 0.06, 0.0, 1.0])
def test_a_length_stays_as_it_was_written(warmup: int | float) -> None:
    held = options.LinearOptions(warmup=warmup).model_dump(mode="json")["warmup"]
    assert held == warmup
    assert isinstance(held, int) or not isinstance(warmup, int)


@pytest.mark.parametrize("name", ["adamw", "adafactor", "sgd", "muon", "lion"])
def test_options_survive_a_recipe(name: str) -> None:
    """Recipes hold options as JSON and check them again in every process."""
    registry = Registry(entry_points=False)
    registry.register(plugin, name="optim")
    model = registry.options_model("optimizer", name)
    assert model is not None
    held = model.model_validate({"no_decay": ["embed"], "lr": 0.5})
    assert model.model_validate(held.model_dump(mode="json")) == held
    assert registry.create("optimizer", name, held).lr == 0.5


def test_what_is_offered() -> None:
    registry = Registry(entry_points=False)
    registry.register(plugin, name="optim")
    assert registry.names("optimizer") == ["adafactor", "adamw", "lion", "muon", "sgd"]
    assert registry.names("schedule") == ["constant", "cosine", "linear", "wsd"]
    assert not registry.has("optimizer", "adam"), "adam is another optimizer: its decay is coupled"
