"""Events of a made-up run, for all loggers' tests; also run in child processes."""

from __future__ import annotations

from typing import Any

from spcore.interfaces.logger import Checkpointed, Evaluated, Event, RunEnded, RunStarted, Step, Warned

T0 = 1_700_000_000.0


def begun(**more: Any) -> RunStarted:
    given: dict[str, Any] = {
        "time": T0, "output": "runs/a", "steps": 100, "start_step": 0, "rows": 1600, "features": 1600, "parameters": 22_713_216,
        "trainable": 22_713_216, "facts": {"device": "cpu", "columns": "text=text"},
    }  # fmt: skip
    return RunStarted(**{**given, **more})


def step(number: int, **more: Any) -> Step:
    given: dict[str, Any] = {
        "time": T0 + number, "step": number, "epoch": number / 50, "loss": 1 / number, "terms": {"label": 1 / number},
        "grad_norm": 2.0, "lr": 2e-5, "loss_scale": 1.0, "applied": True, "rows": 16, "tokens": 512, "seconds": 0.02,
        "rows_per_second": 812.4, "tokens_per_second": 25_600.0, "padding": 0.25, "memory": 1 << 30, "eta": 0.5 * (100 - number),
    }  # fmt: skip
    return Step(**{**given, **more})


def judged(number: int, **more: Any) -> Evaluated:
    given: dict[str, Any] = {"metrics": {"accuracy": 0.78125, "f1": 0.8}, "rows": 64, "seconds": 0.5}
    return Evaluated(time=T0 + number, step=number, **{**given, **more})


def warned(message: str) -> Warned:
    return Warned(time=T0, message=message)


def saved(number: int, path: str, kind: str = "checkpoint") -> Checkpointed:
    return Checkpointed(time=T0 + number, step=number, path=path, kind=kind)


def over(number: int, **more: Any) -> RunEnded:
    given: dict[str, Any] = {"status": "finished", "seconds": 65.2, "rows_per_second": 790.1}
    return RunEnded(time=T0 + number, step=number, **{**given, **more})


def whole_run(steps: int = 100) -> list[Event]:
    return [
        begun(steps=steps),
        warned("3 rows dropped [no text] :warning:"),
        *(step(n) for n in range(1, steps // 2 + 1)),
        judged(steps // 2, best=True),
        saved(steps // 2, f"runs/a/checkpoints/step-{steps // 2:08d}"),
        *(step(n) for n in range(steps // 2 + 1, steps + 1)),
        saved(steps, "runs/a", kind="model"),
        over(steps),
    ]
