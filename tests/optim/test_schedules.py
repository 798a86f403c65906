"""The schedules against transformers' functions, step by step and to the bit."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import (
    TrainingArguments,
    get_constant_schedule_with_warmup,
    get_cosine_schedule_with_warmup,
    get_linear_schedule_with_warmup,
    get_wsd_schedule,
)
from transformers.optimization import get_cosine_with_min_lr_schedule_with_warmup

from spcore.interfaces.optimizer import Schedule
from spcore_optim.options import ConstantOptions, CosineOptions, LinearOptions, WsdOptions
from spcore_optim.schedules import Constant, Cosine, Linear, Wsd, steps_of

TOTALS = (1, 2, 7, 100, 1063)
WARMUPS: tuple[int | float, ...] = (0, 1, 3, 500, 0.06, 0.07, 0.5, 0.999)


def torch_optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)


def transformers_warmup(warmup: float, total: int) -> int:
    """How its Trainer makes steps out of `warmup_steps`."""
    return TrainingArguments.get_warmup_steps(SimpleNamespace(warmup_steps=warmup), total)


def same(schedule: Schedule, oracle: Any, total: int) -> None:
    factor = oracle.lr_lambdas[0]
    assert [schedule.factor(s, total) for s in range(total + 1)] == [factor(s) for s in range(total + 1)]


@pytest.mark.parametrize("total", TOTALS)
@pytest.mark.parametrize("warmup", WARMUPS)
def test_linear_cosine_and_constant_are_transformers(total: int, warmup: float) -> None:
    steps = transformers_warmup(warmup, total)
    assert steps_of(warmup, total) == steps
    same(Linear(LinearOptions(warmup=warmup)), get_linear_schedule_with_warmup(torch_optimizer(), steps, total), total)
    same(Cosine(CosineOptions(warmup=warmup)), get_cosine_schedule_with_warmup(torch_optimizer(), steps, total), total)
    same(Constant(ConstantOptions(warmup=warmup)), get_constant_schedule_with_warmup(torch_optimizer(), steps), total)
    floor = get_cosine_with_min_lr_schedule_with_warmup(torch_optimizer(), steps, total, min_lr_rate=0.1)
    same(Cosine(CosineOptions(warmup=warmup, minimum=0.1)), floor, total)


@pytest.mark.parametrize("total", [7, 100, 1063])
@pytest.mark.parametrize(("warmup", "decay"), [(0, 0.2), (3, 2), (0.06, 0.2), (0.07, 0.5), (0.5, 0.4), (0.06, 1)])
@pytest.mark.parametrize("minimum", [0.0, 0.1])
def test_wsd_is_transformers(total: int, warmup: float, decay: float, minimum: float) -> None:
    oracle = get_wsd_schedule(
        torch_optimizer(),
        transformers_warmup(warmup, total),
        transformers_warmup(decay, total),
        num_training_steps=total,
        min_lr_ratio=minimum,
    )
    same(Wsd(WsdOptions(warmup=warmup, decay=decay, minimum=minimum)), oracle, total)


def test_a_wsd_decay_that_does_not_fit_follows_the_warm_up_at_once() -> None:
    schedule = Wsd(WsdOptions(warmup=4, decay=100))
    oracle = get_cosine_schedule_with_warmup(torch_optimizer(), 4, 10)
    same(schedule, oracle, 10)
    assert [Wsd(WsdOptions(warmup=20, decay=5)).factor(s, 10) for s in (0, 5, 9)] == [0, 0.25, 0.45]


def test_wsd_has_three_parts() -> None:
    factors = [Wsd(WsdOptions(warmup=10, decay=0.2)).factor(step, 100) for step in range(100)]
    assert factors[0] == 0
    assert factors[10:81] == [1.0] * 71
    assert all(a > b > 0 for a, b in itertools.pairwise(factors[80:]))


def test_minimum_is_where_the_line_ends() -> None:
    schedule = Linear(LinearOptions(warmup=0, minimum=0.25))
    assert [schedule.factor(step, 4) for step in range(6)] == [1.0, 0.8125, 0.625, 0.4375, 0.25, 0.25]


def test_defaults() -> None:
    assert [Linear(LinearOptions()).factor(step, 100) for step in (0, 3, 6)] == [0.0, 0.5, 1.0]
    assert {Constant(ConstantOptions()).factor(step, 9) for step in range(9)} == {1.0}


def test_the_rates_of_a_run_are_those_of_a_torch_scheduler() -> None:
    """The step's index counts as torch's does: the first step of a warm-up has rate 0."""
    optimizer = torch_optimizer()
    scheduler = get_linear_schedule_with_warmup(optimizer, 3, 20)
    schedule = Linear(LinearOptions(warmup=3))
    for step in range(20):
        assert optimizer.param_groups[0]["lr"] == schedule.factor(step, 20)
        optimizer.step()
        scheduler.step()
