"""Faults in schedules, optimizers, precision policies, strategies and engines."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from planted_tasks import Planted

from spcore.interfaces.optimizer import GroupKey
from spcore.interfaces.precision import LossScaling, PrecisionPolicy
from spcore.interfaces.strategy import BatchRule, Layout
from spcore.interfaces.task import EvalPart
from spcore.testing import check_optimizer, check_precision, check_schedule, check_strategy
from spcore.testing.fakes import FakeEngine, FakeOptimizer, FakeSchedule, FakeStrategy

FAULTS: list[Planted] = []


@contextlib.contextmanager
def forgetting(self: Any, *sizes: int) -> Iterator[Any]:
    self.steps = 0
    with FakeEngine.decoding(self, *sizes) as decoder:
        yield decoder


def plant(check: str, what: str, run: Callable[[Any], Any], base: type, /, **members: Any) -> None:
    """Plant members into a fake."""
    FAULTS.append((check, what, lambda: run(type("Faulty", (base,), members)())))


def engine(check: str, what: str, /, **members: Any) -> None:
    """Plant members into the fake engine."""
    faulty = type("FaultyEngine", (FakeEngine,), members)
    plant(check, what, check_strategy, FakeStrategy, engine=lambda self, plan, place: faulty(plan, place))


def torch_sgd(**settings: Any) -> Callable[..., Any]:
    def build(self: Any, params: Any) -> Any:
        import torch

        return torch.optim.SGD(params, lr=0.1, **settings)

    return build


def ungrouped(self: Any, params: Any) -> Any:
    import torch

    return torch.optim.SGD([p for group in params for p in group["params"]], lr=0.1)


def own_rate(self: Any, params: Any) -> Any:
    import torch

    class Own(torch.optim.SGD):  # type: ignore[misc]
        def step(self, closure: Any = None) -> None:
            for group in self.param_groups:
                group["lr"] = 0.01
            super().step(closure)

    return Own(params, lr=0.01)


def normalised(self: Any, params: Any) -> Any:
    import torch

    class Normalised(torch.optim.SGD):  # type: ignore[misc]
        """Steps along each parameter's gradient by a length that does not depend on it."""

        def step(self, closure: Any = None) -> None:
            for group in self.param_groups:
                for p in group["params"]:
                    p.grad.div_(p.grad.norm().clamp(min=1e-6))
            super().step(closure)

    return Normalised(params, lr=0.01)


def forgetful(self: Any, params: Any) -> Any:
    import torch

    class Forgetful(torch.optim.SGD):  # type: ignore[misc]
        count = 0

        def step(self, closure: Any = None) -> None:
            self.count += 1
            for group in self.param_groups:
                group["lr"] /= self.count
            super().step(closure)

    return Forgetful(params, lr=0.01)


def counting_factor() -> Callable[..., float]:
    calls = itertools.count()
    return lambda self, step, total: 1 / (1 + next(calls))


def counting_groups() -> Callable[..., GroupKey]:
    calls = itertools.count()
    return lambda self, name, full_shape: GroupKey(float(next(calls)))


plant("schedule.contract", "other parameter names", check_schedule, FakeSchedule, factor=lambda self, now, total: 1.0)
plant(
    "schedule.finite",
    "a factor below 0",
    check_schedule,
    FakeSchedule,
    factor=lambda self, step, total: 0.5 - step / total,
)
plant("schedule.finite", "a division by 0", check_schedule, FakeSchedule, factor=lambda self, step, total: 1 / step)
plant("schedule.finite", "a learning rate", check_schedule, FakeSchedule, factor=lambda self, step, total: 100.0)
plant("schedule.finite", "nothing at all", check_schedule, FakeSchedule, factor=lambda self, step, total: 0.0)
plant("schedule.pure", "a factor that counts its calls", check_schedule, FakeSchedule, factor=counting_factor())
plant("optimizer.contract", "a build that takes nothing", check_optimizer, FakeOptimizer, build=lambda self: None)
plant(
    "optimizer.contract",
    "a rate that is none",
    check_optimizer,
    FakeOptimizer,
    lr=property(lambda self: -1.0, lambda *_: None),
)
plant("optimizer.groups", "groups that change", check_optimizer, FakeOptimizer, groups=counting_groups())
plant(
    "optimizer.groups",
    "groups that are numbers",
    check_optimizer,
    FakeOptimizer,
    groups=lambda self, name, full_shape: 0.1,
)
plant("optimizer.builds", "no torch optimizer", check_optimizer, FakeOptimizer, build=lambda self, params: params)
plant("optimizer.builds", "groups thrown together", check_optimizer, FakeOptimizer, build=ungrouped)
plant("optimizer.learns", "an optimizer that climbs", check_optimizer, FakeOptimizer, build=torch_sgd(maximize=True))
plant("optimizer.learns", "a rate of its own", check_optimizer, FakeOptimizer, build=own_rate)
plant("optimizer.elementwise", "a norm of the whole", check_optimizer, FakeOptimizer, build=normalised)
plant("optimizer.resumes", "state that is not saved", check_optimizer, FakeOptimizer, build=forgetful)

for name, what, policy in (
    ("precision.policy", "a dict", {"name": "p"}),
    ("precision.formats", "a format nobody knows", PrecisionPolicy("p", compute="float8")),  # type: ignore[arg-type]
    ("precision.formats", "another's name", PrecisionPolicy("q")),
    ("precision.scaling", "float16 without scaling", PrecisionPolicy("p", compute="float16")),
    ("precision.scaling", "scaling of bfloat16", PrecisionPolicy("p", compute="bfloat16", loss_scaling=LossScaling())),
    (
        "precision.scaling",
        "a backoff that grows",
        PrecisionPolicy("p", compute="float16", loss_scaling=LossScaling(backoff=2.0)),
    ),
):
    FAULTS.append((name, what, lambda policy=policy: check_precision(policy, name="p")))  # type: ignore[misc]


def spoiling(self: Any, plan: Any) -> list[Any]:
    object.__setattr__(plan, "seed", plan.seed + 1)
    return []


plant(
    "strategy.contract",
    "no batch_rule that takes a plan",
    check_strategy,
    FakeStrategy,
    batch_rule=lambda self: BatchRule(),
)
plant(
    "strategy.layout",
    "always two places",
    check_strategy,
    FakeStrategy,
    layout=lambda self, world_size: Layout({"data": 2}),
)
for what, options in (("an axis that nobody knows", {}), ("no options by name", [])):
    plant("strategy.options-for", what, check_strategy, FakeStrategy, options_for=lambda self, axes, o=options: o)
plant("strategy.check", "a check that changes the plan", check_strategy, FakeStrategy, check=spoiling)
plant("strategy.check", "texts for refusals", check_strategy, FakeStrategy, check=lambda self, plan: ["no"])
plant(
    "strategy.batch-rule",
    "a multiple of 0",
    check_strategy,
    FakeStrategy,
    batch_rule=lambda self, plan: BatchRule(length_multiple=0),
)
FAULTS.append(("strategy.inline", "a strategy whose inline cannot be read", lambda: check_strategy(_Unreadable())))


class _Unreadable(FakeStrategy):
    @property
    def inline(self) -> bool:  # type: ignore[override]
        import inspect

        if inspect.stack()[1].function == "strategy_inline":
            raise RuntimeError("not now")
        return True


def doubled_totals(self: Any, microbatches: Any, lr: float, step: int) -> Any:
    report = FakeEngine.train_step(self, microbatches, lr, step)
    return replace(report, totals={k: 2 * v for k, v in report.totals.items()})


def mean_of_batches(self: Any, microbatches: Any, lr: float, step: int) -> Any:
    report = FakeEngine.train_step(self, microbatches, lr, step)
    return replace(report, loss=report.loss / len(microbatches))


def constant(self: Any, microbatches: Any, lr: float, step: int) -> Any:
    return replace(FakeEngine.train_step(self, microbatches, lr, step), loss=1.0)


def halved(self: Any, microbatches: Any, method: str = "reduce") -> Any:
    part = FakeEngine.eval_step(self, microbatches, method)  # type: ignore[arg-type]
    return EvalPart(part.sums, part.rows[::2])  # type: ignore[union-attr]


def doubled(self: Any, microbatches: Any, method: str = "reduce") -> Any:
    part = FakeEngine.eval_step(self, microbatches, method)  # type: ignore[arg-type]
    return EvalPart(part.sums, part.rows * 2)  # type: ignore[union-attr]


def seeding(self: Any, microbatches: Any, lr: float, step: int) -> Any:
    import torch

    torch.manual_seed(step + 12345)
    return FakeEngine.train_step(self, microbatches, lr, step)


def once(self: Any) -> None:
    assert not self.closed, "closed already"
    self.closed = True


engine("engine.contract", "an agree without a code", agree=lambda self: 0)
engine("engine.step", "totals counted twice", train_step=doubled_totals)
engine("engine.any-cut", "a mean over microbatches", train_step=mean_of_batches)
engine("engine.whole-batch", "a mean over microbatches", train_step=mean_of_batches)
engine("engine.learns", "a loss that stands still", train_step=constant)
engine("engine.evaluates", "rows lost", eval_step=halved)
engine("engine.evaluates", "rows twice", eval_step=doubled)
engine("engine.annotates", "rows twice", eval_step=doubled)
engine("engine.resumes", "a load that does nothing", load=lambda self, folder: None)
engine("engine.weights", "no weights", weights=lambda self, which="model": iter(()))
engine("engine.weights", "no parameters", parameters=lambda self: (0, 0))
engine("engine.alone", "a close that cannot be repeated", close=once)
engine("engine.alone", "objects not collected", collect=lambda self, obj, *, everywhere=False: None)
engine("engine.decodes", "a step forgotten", decoding=forgetting)
engine("engine.decodes", "no decoder", decoding=None)
engine("engine.leaves-the-process", "a seeded process", train_step=seeding)
