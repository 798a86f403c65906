"""Kind `strategy`, and the engine of one that may run in the caller's process. The engine trains the fake language model; its
promise is that nothing depends on how a step was cut.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from spcore.errors import UserError
from spcore.interfaces.strategy import AXES, BatchRule, Layout, ParallelStrategy, Refusal
from spcore.testing.checks import CannotCheck, Check, Where, Wrong, check, run_checks, shown
from spcore.testing.contracts import against
from spcore.testing.report import Report
from spcore.testing.suites.engine import ENGINE_CHECKS
from spcore.testing.suites.engine_case import EngineCase

_STRANGE = "axis-of-nobody"


@check("strategy.contract", "it has the members of ParallelStrategy", gate=True)
def strategy_contract(case: EngineCase) -> Iterator[Wrong]:
    """Subclass or not."""
    yield from against(case.strategy, ParallelStrategy, "strategy")


@check("strategy.layout", "a layout has as many places as there are processes, and the same call gives the same one")
def strategy_layout(case: EngineCase) -> Iterator[Wrong]:
    """1, 2, 4 and 8 processes; a number may be refused."""
    refused: list[str] = []
    for processes in (1, 2, 4, 8):
        try:
            layout, again = case.strategy.layout(processes), case.strategy.layout(processes)
        except UserError as error:
            refused.append(f"{processes}: {error}")
            continue
        if not isinstance(layout, Layout) or layout.world_size != processes:
            yield Wrong(f"layout({processes}) is {shown(layout)}", f"a Layout whose axes multiply to {processes}")
        elif layout != again:
            yield Wrong(f"layout({processes}) is {shown(layout)}, then {shown(again)}", "the same answer each time")
    if len(refused) == 4:
        yield Wrong(f"every number of processes refused ({refused[0]})", "one at least that it can lay out")


@check("strategy.options-for", "what it gives for axes is None or options by name, the same each time")
def strategy_options_for(case: EngineCase) -> Iterator[Wrong]:
    """Of one process, of each known axis, and of one that nobody knows."""
    for axes in ({}, *({axis: 2} for axis in AXES), {_STRANGE: 2}, {"dp": 2, _STRANGE: 2}):
        first, again = case.strategy.options_for(dict(axes)), case.strategy.options_for(dict(axes))
        if first is not None and not (isinstance(first, Mapping) and all(isinstance(name, str) for name in first)):
            yield Wrong(f"options_for({axes}) is {shown(first)}", "None, or options by name")
        elif first != again:
            yield Wrong(f"options_for({axes}) is {shown(first)}, then {shown(again)}", "the same answer each time")
        elif first is not None and _STRANGE in axes:
            yield Wrong(f"options_for({axes}) is {shown(first)}", "None for an axis that it does not know")


@check(
    "strategy.check", "check reads a plan, changes nothing, and gives a list of refusals, the same each time", gate=True
)
def strategy_check(case: EngineCase) -> Iterator[Wrong]:
    """The plan of a small run."""
    plan = case.plan()
    before = copy.copy(vars(plan))
    first, second = case.strategy.check(plan), case.strategy.check(plan)
    if not isinstance(first, list) or not all(isinstance(r, Refusal) for r in first):
        yield Wrong(f"check gives {shown(first)}", "a list of Refusal")
        return
    if first != second:
        yield Wrong(f"check gives {shown(second)}, before that {shown(first)}", "the same answer each time")
    if vars(plan) != before:
        yield Wrong("a plan that check changed", "the plan as it was")
    for refusal in first:
        if not refusal.subject or not refusal.reason or "\n" in str(refusal):
            yield Wrong(f"refusal {shown(str(refusal))}", "one line with subject and reason")


@check("strategy.batch-rule", "the batch rule is a BatchRule of multiples of 1 or more")
def strategy_batch_rule(case: EngineCase) -> Iterator[Wrong]:
    """For the same plan."""
    rule = case.strategy.batch_rule(case.plan())
    if (
        not isinstance(rule, BatchRule)
        or rule.equal_length not in ("none", "step")
        or min(rule.length_multiple, rule.count_multiple) < 1
    ):
        yield Wrong(f"batch_rule {shown(rule)}", "a BatchRule with multiples of 1 or more")


@check("strategy.inline", "its engine can be tried in this process", gate=True)
def strategy_inline(case: EngineCase) -> Iterator[Wrong]:
    """Otherwise the checks of engines are left out, with the reason."""
    case.runnable = False
    if not case.strategy.inline:
        raise CannotCheck("it runs in child processes: its engine is to be checked by a run of its own")
    refusals = case.strategy.check(case.plan())
    if refusals:
        raise CannotCheck(f"it refuses the fake model: {refusals[0]}")
    case.runnable = True
    yield from ()


CHECKS: tuple[Check, ...] = (
    strategy_contract, strategy_layout, strategy_options_for, strategy_check, strategy_batch_rule, strategy_inline,
)  # fmt: skip


def check_strategy(strategy: Any, *, where: Where = Where()) -> Report:  # noqa: B008 -- frozen
    """Check a strategy, and its engine where it may run in this process."""
    case = EngineCase(strategy)
    report = run_checks(CHECKS, case, where)
    if case.runnable:
        report.add(run_checks(ENGINE_CHECKS, case, where))
    return report
